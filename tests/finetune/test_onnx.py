# SPDX-License-Identifier: Apache-2.0
"""The engine of ONNX networks: what it predicts is what PyTorch predicts, and it fine-tunes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue, MemberFailed
from fusetune.finetune.engines.onnx import Onnx
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.settings import FineTune
from fusetune.finetune.steps import check_member, member_with
from fusetune.finetune.teaching import teach
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.sources.onnx import Onnx as Source
from onnx_nets import saved

CLASSES = ("a", "b", "c")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def silent(event: Any) -> None:
    pass


class Pair:
    """One random network, in both formats."""

    def __init__(self, folder: Path, batch: str | int = "n") -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 3)
        nodes = [
            helper.make_node(
                "Conv", ["images", "w", "b"], ["a"], kernel_shape=[3, 3], pads=[1] * 4
            ),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v", "c"], ["out"], transB=1),
        ]
        numbers = dict(zip("wbvc", (*self.conv.parameters(), *self.fc.parameters()), strict=True))
        constants = {name: value.detach().numpy() for name, value in numbers.items()}
        self.file = saved(folder / "net.onnx", nodes, constants, shape=(batch, 3, "h", "w"))

    def source(self, **more: Any) -> Source:
        given = PreprocessOverride(**{"size": 16, "mean": MEAN, "std": STD, **more})
        return Source(model="m", weights=self.file, classes=CLASSES, preprocess=given)

    def in_torch(self, preprocess: Preprocess) -> Member:
        model = nn.Sequential(self.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc)
        return Member(
            model=model, engine="torch", classes=CLASSES, preprocess=preprocess, head=("4",)
        )


def images(num: int, side: int) -> PixelImages:
    random = np.random.default_rng(side)
    return PixelImages(random.integers(0, 256, (num, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("side", "more"),
    [(16, {}), (24, {}), (24, {"resize": 20}), (16, {"test_flip": True, "test_shift": 2})],
)
def test_predictions_are_those_of_pytorch(tmp_path: Path, side: int, more: dict) -> None:
    pair = Pair(tmp_path)
    member = pair.source(**more).load(CLASSES)
    rows = images(70, side)  # more than one batch
    ours = Onnx().outputs(member, rows, silent)
    expected = Torch().outputs(pair.in_torch(member.preprocess), rows, silent)
    assert ours.dtype == np.float32 and np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_small_images_are_resized_and_fixed_batches_are_filled(tmp_path: Path) -> None:
    pair = Pair(tmp_path, batch=4)
    member = pair.source().load(CLASSES)
    outputs = Onnx().outputs(member, images(10, 8), silent)
    expected = Torch().outputs(pair.in_torch(member.preprocess), images(10, 8), silent)
    np.testing.assert_allclose(outputs, expected, atol=0.02)  # other bilinear code


def test_a_network_is_kept_as_it_is(tmp_path: Path) -> None:
    pair, engine = Pair(tmp_path), Onnx()
    member = pair.source().load(CLASSES)
    assert engine.num_parameters(member) == 3 * 6 * 9 + 6 + 6 * 3 + 3
    engine.save(member, tmp_path / "weights.safetensors")
    expected = engine.outputs(member, images(3, 16), silent)
    content = pair.file.read_bytes()
    pair.file.unlink()
    elsewhere = replace(pair.source(), weights="none")
    again = member_with(elsewhere, CLASSES, tmp_path / "weights.safetensors")
    assert again.model.content == content
    assert np.array_equal(engine.outputs(again, images(3, 16), silent), expected)
    assert engine.finetune_bytes(member, FineTune()) == 0


def test_it_is_not_fine_tuned_scouted_souped_or_taken_for_another_task(tmp_path: Path) -> None:
    source = Pair(tmp_path).source()
    about = check_member(source, CLASSES, Classification(), None, silent)
    assert about["head_kept"] and about["parameters"] == 189 and about["bytes"] is None
    for settings in (FineTune(), FineTune(train="probe")):
        with pytest.raises(
            InvalidValue, match=r"'onnx-m' is an ONNX network.*expected finetune: none.*Write fine"
        ):
            check_member(source, CLASSES, Classification(), settings, silent)
    with pytest.raises(InvalidValue, match="'onnx-m' gives logits, and the objective detection"):
        check_member(source, CLASSES, Detection(), None, silent)
    member = source.load(CLASSES)
    with pytest.raises(MemberFailed, match="whose features are not known"):
        Onnx().features(member, images(2, 16), silent)
    with pytest.raises(MemberFailed, match="engine 'onnx' have no weights that could be averaged"):
        Onnx().state(member)


def test_a_teacher_has_to_know_every_class(tmp_path: Path, monkeypatch) -> None:
    source = Pair(tmp_path).source()
    Onnx().save(source.load(CLASSES), tmp_path / "w")

    class Prepared:
        classes = (*CLASSES, "d")

    monkeypatch.setattr("fusetune.finetune.teaching.load_prepared", lambda data: Prepared())
    with pytest.raises(MemberFailed, match="teacher 'onnx-m' does not know 'd'; expected a"):
        teach(tmp_path, source, tmp_path, tmp_path / "w", silent)
