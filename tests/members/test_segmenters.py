# SPDX-License-Identifier: Apache-2.0
"""Segmenters of all sources: heads for the task's classes, own weights, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.finetune.engines.torch import Torch
from fusetune.members.member import Member, PreprocessOverride
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.mini_segmentation import MODELS, MiniSegmentation
from fusetune.members.sources.module import Module
from fusetune.members.sources.smp import Smp
from fusetune.members.sources.torchvision_segmentation import TorchvisionSegmentation
from fusetune.members.sources.transformers_segmentation import TransformersSegmentation

CLASSES = ("a", "b", "c", "d")
SMALL = PreprocessOverride(size=64)
PIXELS = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)


def outputs(member: Member) -> np.ndarray:
    return Torch().outputs(member, PixelImages(PIXELS), lambda event: None)


@pytest.mark.parametrize("model", MODELS)
def test_small_segmenters_say_something_of_every_fourth_pixel(model: str) -> None:
    if model.startswith("squeezenet"):
        pytest.importorskip("torchvision")
    member = MiniSegmentation(model=model, preprocess=SMALL).load(CLASSES, seed=2)
    assert member.gives == "maps" and member.preprocess.dense and member.preprocess.squash
    assert member.head == ("decoder", "classify") and not member.head_kept
    made = outputs(member)
    assert made.shape[:2] == (3, 4) and 15 <= made.shape[2] <= 16
    again = MiniSegmentation(model=model, preprocess=SMALL).load(CLASSES, seed=2)
    np.testing.assert_array_equal(outputs(again), made)
    other = MiniSegmentation(model=model, preprocess=SMALL).load(CLASSES, seed=3)
    assert not np.array_equal(outputs(other), made)


def test_own_weights_keep_their_classes_by_name(tmp_path: Path) -> None:
    source = MiniSegmentation(model="resnet_unet", preprocess=SMALL)
    first = source.load(CLASSES, seed=2)
    file = tmp_path / "weights.safetensors"
    Torch().save(first, file)
    turned = CLASSES[::-1]
    kept = MiniSegmentation(
        model="resnet_unet", weights=file, classes=CLASSES, preprocess=SMALL
    ).load(turned)
    assert kept.head_kept
    np.testing.assert_allclose(outputs(kept), outputs(first)[:, ::-1], atol=1e-5)
    fresh = MiniSegmentation(
        model="resnet_unet", weights=file, classes=CLASSES, preprocess=SMALL
    ).load(("x", "y"))
    assert not fresh.head_kept and outputs(fresh).shape[1] == 2
    rebuilt = source.load(CLASSES, pretrained=False)
    Torch().load(rebuilt, file)
    np.testing.assert_array_equal(outputs(rebuilt), outputs(first))


def test_a_backbone_comes_from_a_file_of_its_own(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        features = models.squeezenet1_1(weights=None).features
    file = tmp_path / "features.safetensors"
    save_file({f"features.{k}": v for k, v in features.state_dict().items()}, str(file))
    source = MiniSegmentation(model="squeezenet_fpn", backbone=file, preprocess=SMALL)
    member = source.load(CLASSES)
    for name, value in features.state_dict().items():
        torch.testing.assert_close(member.model.backbone.features.state_dict()[name], value)
    assert source.files() == (file,) and source.portable().backbone is None
    save_file({"features.0.weight": torch.zeros(2)}, str(file))
    with pytest.raises(WeightsError):
        source.load(CLASSES)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "vgh_fpn"}, UnknownName, "no model of source mini_segmentation is called"),
        ({"weights": "default"}, InvalidValue, "has weights: default, and there are none"),
        ({"preprocess": PreprocessOverride(size=16)}, InvalidValue, "size 16; expected at least"),
        (
            {"preprocess": PreprocessOverride(squash=False)},
            InvalidValue,
            "has preprocess.squash: f",
        ),
        (
            {"preprocess": PreprocessOverride(resize=200)},
            InvalidValue,
            "has preprocess.resize; exp",
        ),
        ({"preprocess": PreprocessOverride(test_shift=2)}, InvalidValue, "preprocess.test_shift"),
        ({"backbone": Path("none.safetensors")}, WeightsError, "none.safetensors"),
    ],
)
def test_what_cannot_work_is_said(fields: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        MiniSegmentation(**{"model": "vgg_fpn", **fields}).load(CLASSES)


def test_views_of_maps_are_not_for_classifiers() -> None:
    with pytest.raises(
        InvalidValue, match=r"'mini-vgg' has preprocess.test_window; expected views"
    ):
        Mini(model="vgg", preprocess=PreprocessOverride(test_window=8)).load(CLASSES)
    with pytest.raises(InvalidValue, match=r"preprocess.test_scales is \[0.0\]"):
        PreprocessOverride(test_scales=(0.0,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
)
def test_torchvisions_segmenters_are_members(tmp_path: Path, model: str) -> None:
    pytest.importorskip("torchvision")
    source = TorchvisionSegmentation(model=model, weights="none", preprocess=SMALL)
    member = source.load(CLASSES, seed=1)
    assert member.gives == "maps" and outputs(member).shape == (3, 4, 64, 64)
    heads = {
        "lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
        "deeplabv3_mobilenet_v3_large": ("classifier.4",),
        "fcn_resnet50": ("classifier.4",),
    }
    assert member.head == heads[model]
    file = tmp_path / "made.safetensors"
    Torch().save(member, file)
    again = TorchvisionSegmentation(
        model=model, weights=file, classes=CLASSES, preprocess=SMALL
    ).load(CLASSES)
    np.testing.assert_array_equal(outputs(again), outputs(member))


@pytest.mark.slow
def test_auxiliary_heads_speak_in_training_only() -> None:
    pytest.importorskip("torchvision")
    source = TorchvisionSegmentation(
        model="fcn_resnet50", weights="none", auxiliary=True, preprocess=SMALL
    )
    member = source.load(CLASSES)
    assert member.head == ("classifier.4", "aux_classifier.4")
    images = torch.rand(2, 3, 64, 64)
    main, auxiliary = member.model.train()(images)
    assert main.shape == auxiliary.shape == (2, 4, 64, 64)
    assert member.model.eval()(images).shape == (2, 4, 64, 64)
    with pytest.raises(InvalidValue, match="has auxiliary: true, and no auxiliary head"):
        TorchvisionSegmentation(
            model="lraspp_mobilenet_v3_large", weights="none", auxiliary=True
        ).check()


def test_a_network_of_ones_own_may_give_maps(tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def dense(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, num_classes, 1))\n"
    )
    member = Module(
        model="own_nets.dense", weights="none", import_from=tmp_path, preprocess=SMALL
    ).load(CLASSES)
    assert member.gives == "maps" and member.head == ("2",)
    assert member.preprocess.squash and outputs(member).shape == (3, 4, 32, 32)


@pytest.mark.slow
def test_segmentation_models_pytorch_brings_members(tmp_path: Path) -> None:
    library = pytest.importorskip("segmentation_models_pytorch")
    source = Smp(model="fpn", encoder="mobilenet_v2", weights="none", preprocess=SMALL)
    member = source.load(CLASSES, seed=1)
    assert member.gives == "maps" and outputs(member).shape == (3, 4, 64, 64)
    with torch.random.fork_rng():
        own = library.Unet(
            "resnet18", encoder_weights=None, classes=4, decoder_channels=(32, 16, 16, 8, 8)
        )
    own.save_pretrained(tmp_path / "own")
    kept = Smp(model="own", weights=tmp_path / "own", classes=CLASSES, preprocess=SMALL)
    loaded = kept.load(CLASSES)
    assert loaded.head_kept and kept.files()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value)
    with pytest.raises(InvalidValue, match="has encoder or arguments, and a folder that says both"):
        replace(kept, encoder="resnet34").check()
    portable = kept.portable()
    assert (portable.model, portable.encoder, portable.weights) == ("unet", "resnet18", "none")
    rebuilt = portable.load(CLASSES, pretrained=False)
    assert {k: v.shape for k, v in rebuilt.model.state_dict().items()} == {
        k: v.shape for k, v in own.state_dict().items()
    }


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "unett"}, UnknownName, "no architecture of segmentation-models-pytorch is call"),
        ({"encoder": "resnet19"}, WeightsError, "cannot be built with the encoder 'resnet19'"),
        ({"preprocess": PreprocessOverride(size=100)}, InvalidValue, "a multiple of 32 pixels"),
    ],
)
def test_faults_of_segmentation_models_pytorch_are_said(fields, error, message: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(error, match=message):
        Smp(**{"model": "unet", "weights": "none", "preprocess": SMALL, **fields}).load(CLASSES)


@pytest.mark.slow
def test_a_checkpoint_in_the_hubs_layout_keeps_its_head_by_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SegformerForSemanticSegmentation(config)
    model.save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    source = TransformersSegmentation(model="tiny", weights=tmp_path)
    kept = source.load(CLASSES[::-1])
    assert kept.gives == "maps" and kept.head_kept and kept.preprocess.size == 64
    assert kept.head == ("decode_head.classifier",)
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (kept.preprocess.mean, kept.preprocess.std)
    )
    with torch.no_grad():
        expected = model.eval()((pixels - mean) / std).logits.flip(1).numpy()
    np.testing.assert_allclose(outputs(kept), expected, atol=1e-4)
    fresh = source.load(("x", "y"))
    assert not fresh.head_kept and outputs(fresh).shape == (3, 2, 16, 16)
    file = tmp_path / "made.safetensors"
    Torch().save(fresh, file)
    made = fresh.preprocess
    spelled_out = PreprocessOverride(size=made.size, mean=made.mean, std=made.std)
    portable = replace(source.portable(), preprocess=spelled_out)
    (tmp_path / "config.json").unlink()
    rebuilt = portable.load(("x", "y"), pretrained=False)
    Torch().load(rebuilt, file)
    np.testing.assert_array_equal(outputs(rebuilt), outputs(fresh))
