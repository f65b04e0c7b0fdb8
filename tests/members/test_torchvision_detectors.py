# SPDX-License-Identifier: Apache-2.0
"""Every detection model of torchvision that the source names: built, trained by a step, asked."""

import pytest
import torch

pytest.importorskip("torchvision")

from fusetune.errors import InvalidValue
from fusetune.members.detectors import NUM_DETECTIONS
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.torchvision_detection import TorchvisionDetection

CLASSES = ("a", "b", "c")
OBJECTS = torch.tensor([[[0.1, 0.1, 0.6, 0.7, 2.0, 0]], [[0, 0, 0, 0, -1.0, 0]]])


def sized(model: str, size: int) -> TorchvisionDetection:
    return TorchvisionDetection(
        model=model, weights="none", preprocess=PreprocessOverride(size=size)
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", TorchvisionDetection.model_names())
def test_every_detector_of_torchvision_takes_a_step_and_detects(model: str) -> None:
    size = 268 if model.startswith("ssd300") else 32  # few places to look at: fast
    member = sized(model, size).load(CLASSES, seed=1)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = member.model.eval()(images)
    assert found.shape == (2, NUM_DETECTIONS, 6)
    assert ((found[..., :5] >= 0) & (found[..., :5] <= 1)).all()
    assert set(found[..., 5].unique().tolist()) <= {-1, 0, 1, 2} and found[..., 5].max() >= 0
    trained = member.model.train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4)
    torch.manual_seed(0)
    before = trained(images, OBJECTS)
    before.sum().backward()
    assert before.isfinite().all() and (before > 0).all()
    without = [name for name, p in trained.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in trained.parameters())
    optimizer.step()
    torch.manual_seed(0)
    after = trained(images, OBJECTS)
    assert after.isfinite().all() and not torch.equal(after, before)
    in_head = [name for name, _ in trained.named_parameters() if name.startswith(member.head)]
    assert 0 < len(in_head) < len(list(trained.parameters()))


def test_images_that_are_too_small_are_refused() -> None:
    sized("ssd300_vgg16", 300).check()
    with pytest.raises(
        InvalidValue,
        match=r"preprocess\.size 224; expected .* at least 268 .*preprocess: {size: 300}",
    ):
        sized("ssd300_vgg16", 224).check()
