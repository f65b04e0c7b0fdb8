# SPDX-License-Identifier: Apache-2.0
"""The objective detection, and a small detector in the one fine-tuning loop."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusetune.data.datasets.scenes import Scenes
from fusetune.errors import InvalidValue, MissingExtra
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.settings import Augmentation, Distill, FineTune, Optimizer
from fusetune.finetune.steps import check_member
from fusetune.members.member import Member, PreprocessOverride
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.mini_detection import MiniDetection
from fusetune.metrics.coco_map import CocoMap
from fusetune.predictions.detection.objects import Objects
from small_runs import assert_goes_on

TRUTH = Objects(
    ["a", "b", "c"],
    ("x", "y"),
    [0, 2, 2, 3],
    [[0, 0, 10, 10], [20, 10, 40, 30], [5, 5, 25, 15]],
    [1, 0, 1],
    ignored_K=[False, False, True],
    sizes_N2=np.array([[40.0, 40.0], [10.0, 10.0], [50.0, 20.0]]),
)
SETTINGS = FineTune(
    epochs=3,
    batch_size=4,
    optimizer=Optimizer(lr=0.003),
    augmentation=Augmentation(flip=True, crop_padding=2, resized_crop=0.6),
)


def test_objects_become_shares_of_their_image() -> None:
    dense = Detection().collate(TRUTH, np.array([0, 1, 2]))
    assert dense.dtype == np.float32 and dense.shape == (3, 2, 6)
    np.testing.assert_allclose(dense[0, 0], [0, 0, 0.25, 0.25, 1, 0])
    np.testing.assert_allclose(dense[0, 1], [0.5, 0.25, 1, 0.75, 0, 0])
    assert dense[1, :, 4].tolist() == [-1, -1]
    np.testing.assert_allclose(dense[2, 0], [0.1, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_array_equal(Detection().collate(TRUTH, np.array([2, 0])), dense[[2, 0]])


def test_validation_figures_are_the_metric_of_the_prediction() -> None:
    wanted = Detection().collate(TRUTH, np.arange(3))
    outputs = np.zeros((3, 4, 6), dtype=np.float32)
    outputs[..., 5] = -1
    outputs[0, 0] = [0, 0, 0.25, 0.2, 0.9, 1]  # overlap 0.8
    outputs[0, 1] = [0.5, 0.25, 1, 0.75, 0.8, 0]
    outputs[1, 2] = [0.1, 0.1, 0.4, 0.5, 0.95, 0]  # there is none
    figures = Detection().scores(outputs, wanted)
    assert tuple(figures) == Detection.figures
    said = Detection().to_prediction(TRUTH.ids, TRUTH.classes, outputs)
    assert said.relative and np.diff(said.offsets).tolist() == [2, 1, 0]
    in_pixels = said.scaled(TRUTH.sizes_N2, relative=False)
    expected = CocoMap().value(CocoMap().statistics(in_pixels, TRUTH))
    assert figures["coco_map"] == pytest.approx(expected) and 0.3 < expected < 0.9
    assert figures["loss"] == pytest.approx(1 - expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 0.1}, "finetune.label_smoothing is 0.1, and the objective detection"),
        (
            {"train": "probe"},
            "finetune.train is probe, and with the objective detection a head is no linear",
        ),
        ({"train": "lora"}, "finetune.train is lora, and with the objective detection"),
        ({"distill": Distill(teacher="a")}, "finetune.distill is "),
        ({"stop_by": "accuracy"}, "finetune.stop_by is accuracy; expected one of loss, coco_map"),
        (
            {"augmentation": Augmentation(mixup=0.2)},
            "finetune.augmentation.mixup is 0.2, and the objective detection does not use it",
        ),
        ({"augmentation": Augmentation(rand_augment=2)}, "finetune.augmentation.rand_augment is 2"),
    ],
)
def test_settings_that_mean_nothing_for_boxes_are_refused(settings: Any, message: str) -> None:
    Detection().check(SETTINGS)
    with pytest.raises(InvalidValue, match=message):
        Detection().check(FineTune(**settings))


def test_without_numba_there_is_no_average_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"'numba' is not installed.*fusetune\[detection\]"):
        Detection().check(SETTINGS)


def test_a_classifier_is_no_detector() -> None:
    with pytest.raises(InvalidValue, match="'mini-vgg' gives logits, and the objective detection"):
        check_member(Mini(model="vgg"), ("x", "y"), Detection(), SETTINGS, lambda event: None)


def split(first: int, last: int) -> Split:
    rows = Scenes(num_images=last, size=32).read_as(Objects).take(np.arange(first, last))
    return Split(rows.images, rows.truth)


SPLITS = (split(0, 14), split(14, 20))


def finetune(work: Path, settings: FineTune, report: Any = lambda event: None) -> Any:
    source = MiniDetection(model="inception", preprocess=PreprocessOverride(size=32))
    member: Member = source.load(SPLITS[0].targets.classes, seed=1)
    history = Torch().finetune(member, Plan(Detection(), settings, seed=3), SPLITS, work, report)
    return member, history


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "head_then_full"])
def test_a_stopped_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str
) -> None:
    more = {"head_epochs": 1} if train == "head_then_full" else {}
    settings = replace(SETTINGS, train=train, **more)
    history = assert_goes_on(finetune, tmp_path, settings, monkeypatch, events=7)
    assert [set(one) >= {"validation_coco_map"} for one in history.epochs] == [True] * 3


@pytest.mark.slow
def test_a_detector_learns_the_scenes_it_is_shown(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS,
        epochs=100,
        optimizer=Optimizer(lr=0.01),
        augmentation=Augmentation(flip=False),
    )
    source = MiniDetection(model="resnet", preprocess=PreprocessOverride(size=32))
    same = (SPLITS[1], SPLITS[1])
    member = source.load(SPLITS[1].targets.classes, seed=1)
    history = Torch().finetune(
        member, Plan(Detection(), settings, seed=3), same, tmp_path, lambda event: None
    )
    figures = [epoch["validation_coco_map"] for epoch in history.epochs]
    assert figures[0] < 0.1 and max(figures) > 0.6
    assert history.best_epoch == 1 + int(np.argmax(figures))
