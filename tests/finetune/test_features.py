# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from fusetune.data.inputs import PixelImages
from fusetune.finetune.engines.torch import Torch
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.torchvision import Torchvision

CLASSES = ("a", "b", "c")


def images(num: int, side: int) -> PixelImages:
    random = np.random.default_rng(0)
    return PixelImages(random.integers(0, 256, (num, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "source",
    [
        Mini(model="resnet"),
        Mini(model="vgg"),
        Mini(model="inception"),
        Torchvision(model="squeezenet1_1", weights="none", preprocess=None),
    ],
    ids=lambda source: source.member_name,
)
def test_features_are_what_the_head_makes_logits_of(source) -> None:
    member = source.load(CLASSES)
    engine, pictures = Torch(), images(5, 32)
    features_ND, outputs_NC = engine.features(member, pictures, lambda event: None)
    assert features_ND.dtype == np.float32 and features_ND.ndim == 2
    np.testing.assert_array_equal(outputs_NC, engine.outputs(member, pictures, lambda event: None))
    (name,) = member.head
    layer = member.model.get_submodule(name)
    if isinstance(layer, torch.nn.Linear):
        with torch.inference_mode():
            logits_NC = layer(torch.from_numpy(features_ND)).numpy()
        np.testing.assert_allclose(logits_NC, outputs_NC, atol=1e-5)
    assert not layer._forward_pre_hooks


def test_features_are_pooled_over_positions() -> None:
    from fusetune.finetune.pytorch.features import _pooled

    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    conv = torch.nn.Conv2d(3, 1, 1)
    assert _pooled(maps, conv).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    assert _pooled(tokens, torch.nn.Linear(2, 1)).tolist() == [[2.0, 3.0], [8.0, 9.0]]
