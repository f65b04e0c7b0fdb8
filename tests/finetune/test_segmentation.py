# SPDX-License-Identifier: Apache-2.0
"""The objective segmentation, label maps that augmentation moves, and a small segmenter in the one loop."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusetune.data.inputs import PixelImages
from fusetune.data.label_truth import resized_maps
from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.segmentation import Segmentation, dice_loss
from fusetune.finetune.placing import in_full_size, kept_size, predicted_pieces
from fusetune.finetune.pytorch.augment import augmented, epoch_draws, label_maps_moved
from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation, Distill, FineTune, Optimizer
from fusetune.finetune.steps import check_member
from fusetune.members.member import Member, PreprocessOverride
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.mini_segmentation import MiniSegmentation
from fusetune.metrics.mean_iou import MeanIou
from fusetune.predictions.segmentation.label_maps import LabelMaps
from small_runs import assert_goes_on

CLASSES = ("ground", "disc", "bar")
SETTINGS = FineTune(
    epochs=3,
    batch_size=4,
    optimizer=Optimizer(lr=0.01),
    augmentation=Augmentation(flip=True, crop_padding=2, resized_crop=0.6),
)
TRUTH = LabelMaps.from_arrays(
    ["a", "b"],
    CLASSES,
    [np.array([[0, 1], [2, -1]]), np.array([[0, 0], [1, 1]])],
)


def silent(event: Any) -> None:
    pass


def scenes(first: int, last: int, side: int = 32) -> Split:
    """Bright discs and dark bars on noise."""
    pixels, maps = [], []
    lines, columns = np.mgrid[:side, :side]
    for row in range(first, last):
        random = np.random.default_rng(row)
        labels = np.zeros((side, side), dtype=np.int64)
        y, x = random.uniform(8, side - 8, 2)
        radius = random.uniform(4, 8)
        start = int(random.integers(2, side - 8))
        labels[:, start : start + 4] = 2
        labels[(lines - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
        values = np.array([120, 190, 50])[labels][..., None] + random.normal(0, 25, (side, side, 3))
        pixels.append(values.clip(0, 255).astype(np.uint8))
        maps.append(labels)
    ids = np.array([f"row{row}" for row in range(first, last)])
    return Split(PixelImages(np.stack(pixels)), LabelMaps.from_arrays(ids, CLASSES, maps))


SPLITS = (scenes(0, 12), scenes(12, 18))


def member(model: str = "resnet_fpn", **preprocess: Any) -> Member:
    source = MiniSegmentation(model=model, preprocess=PreprocessOverride(size=32, **preprocess))
    return source.load(CLASSES, seed=1)


def finetune(work: Path, settings: FineTune, report: Any = silent) -> Any:
    made = member()
    return made, Torch().finetune(
        made, Plan(Segmentation(), settings, seed=3), SPLITS, work, report
    )


def test_the_loss_is_cross_entropy_and_dice_of_the_pixels_that_count() -> None:
    labels = torch.from_numpy(Segmentation().collate(TRUTH, np.array([0, 1])))
    assert labels.dtype == torch.int8 and labels.tolist()[0] == [[0, 1], [2, -1]]
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    chances, entropy = logits.double().softmax(dim=1), []
    shared, sums = np.zeros(3), np.zeros(3)
    for row, line, column in np.argwhere(labels.numpy() >= 0):
        wanted = int(labels[row, line, column])
        said = chances[row, :, line, column].numpy()
        entropy.append(-np.log(said[wanted]))
        shared[wanted] += said[wanted]
        sums += said
        sums[wanted] += 1
    expected = np.mean(entropy) + 1 - np.mean((2 * shared + 1) / (sums + 1))
    loss = Segmentation().loss(logits, labels, FineTune())
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    alone = Segmentation(dice_weight=0.0).loss(logits, labels, FineTune())
    assert float(alone) == pytest.approx(np.mean(entropy), rel=1e-5)
    both = Segmentation().loss((logits, logits), labels, FineTune())
    assert float(both) == pytest.approx(1.4 * expected, rel=1e-5)


def test_classes_that_a_batch_does_not_show_are_no_part_of_the_dice_loss() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    sure = torch.full((1, 3, 4, 4), -20.0)
    sure[:, 0] = 20
    judged = torch.ones_like(labels, dtype=torch.bool)
    assert float(dice_loss(sure, labels, judged)) == pytest.approx(0, abs=1e-5)
    nothing = dice_loss(sure, labels, ~judged)
    assert float(nothing) == 1 and torch.isfinite(nothing)


def test_rare_classes_weigh_more() -> None:
    labels = np.array([[[0, 0, 0, 0], [1, 1, -1, -1]]])
    settings = FineTune(class_weights="balanced")
    weights = Segmentation().class_weights(labels, 3, settings)
    np.testing.assert_allclose(weights, [0.75, 1.5, 0])
    assert Segmentation().class_weights(labels, 3, FineTune()) is None


def test_validation_figures_are_the_metric_of_the_prediction() -> None:
    outputs = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    wanted = Segmentation().collate(TRUTH, np.arange(2))
    halves = [
        Segmentation().digest(outputs[n : n + 1], torch.from_numpy(wanted[n : n + 1]))
        for n in (0, 1)
    ]
    figures = Segmentation().scores(torch.cat(halves).numpy(), wanted)
    assert tuple(figures) == Segmentation.figures
    said = Segmentation().to_prediction(TRUTH.ids, CLASSES, outputs.numpy())
    assert figures["mean_iou"] == pytest.approx(MeanIou().value(MeanIou().statistics(said, TRUTH)))
    losses = [
        float(
            Segmentation().loss(outputs[n : n + 1], torch.from_numpy(wanted[n : n + 1]), FineTune())
        )
        for n in (0, 1)
    ]
    assert figures["loss"] == pytest.approx(np.mean(losses))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train": "probe"},
            "finetune.train is probe, and with the objective segmentation a head is no",
        ),
        ({"sampling": "balanced"}, "finetune.sampling is balanced, and the objective segmentation"),
        ({"distill": Distill(teacher="a")}, "finetune.distill is "),
        ({"stop_by": "accuracy"}, "expected one of loss, mean_iou, pixel_accuracy"),
        ({"augmentation": Augmentation(mixup=0.2)}, "finetune.augmentation.mixup is 0.2"),
        ({"augmentation": Augmentation(rand_augment=2)}, "finetune.augmentation.rand_augment is 2"),
    ],
)
def test_settings_that_mean_nothing_for_maps_are_refused(settings: Any, message: str) -> None:
    Segmentation().check(SETTINGS)
    with pytest.raises(InvalidValue, match=message):
        Segmentation().check(FineTune(**settings))


def test_members_and_crops_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidValue, match="'mini-vgg' gives logits, and the objective segmenta"):
        check_member(Mini(model="vgg"), CLASSES, Segmentation(), SETTINGS, silent)
    small = MiniSegmentation(model="vgg_unet", preprocess=PreprocessOverride(size=32))
    check_member(small, CLASSES, Segmentation(), SETTINGS, silent)
    cropped = replace(SETTINGS, augmentation=Augmentation(crop=40))
    with pytest.raises(InvalidValue, match=r"crop is 40, and images of .* have 32 pixels"):
        check_member(small, CLASSES, Segmentation(), cropped, silent)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(flip=True, crop_padding=3),
        Augmentation(flip=False, crop=7),
        Augmentation(flip=True, crop_padding=3, crop=9),
    ],
)
def test_label_maps_move_with_the_pixels(augmentation: Augmentation) -> None:
    """Where the image shows a class's own color, the map says that class."""
    random = np.random.default_rng(0)
    maps = torch.from_numpy(random.integers(0, 5, (16, 12, 12)).astype(np.int8))
    colors = torch.tensor([[10], [60], [110], [160], [210]], dtype=torch.uint8).expand(-1, 3)
    draws = epoch_draws(row_keys(np.arange(16).astype(str)), augmentation, seed=1, epoch=0)
    pixels = augmented(colors[maps.long()], draws, augmentation)
    moved = label_maps_moved(maps, draws, augmentation)
    assert moved.dtype == torch.int8 and moved.shape == pixels.shape[:3]
    there = moved >= 0
    assert bool((pixels[there] == colors[moved[there].long()]).all())
    assert bool((pixels[~there] == 0).all())
    assert bool((~there).any()) == bool(augmentation.crop_padding)
    side = augmentation.crop or 12
    assert moved.shape == (16, side, side)
    assert not torch.equal(moved, maps[:, :side, :side])


def test_label_maps_follow_a_resized_window() -> None:
    augmentation = Augmentation(flip=False, resized_crop=0.3)
    maps = (torch.arange(32)[:, None] // 16 + 2 * (torch.arange(32)[None] // 16)).to(torch.int8)
    maps = torch.where(torch.arange(32)[None] < 2, -1, maps)[None].repeat(8, 1, 1).to(torch.int8)
    colors = torch.tensor([[200], [20], [80], [140], [240]], dtype=torch.uint8).expand(-1, 3)
    draws = epoch_draws(row_keys(np.arange(8).astype(str)), augmentation, seed=1, epoch=0)
    pixels = augmented(colors[maps.long() + 1], draws, augmentation)
    moved = label_maps_moved(maps, draws, augmentation)
    nearest = (pixels[..., :1].int() - colors[None, None, None, :, 0].int()).abs().argmin(
        dim=-1
    ) - 1
    assert float((nearest == moved).float().mean()) > 0.93  # all but blended edges
    assert not torch.equal(moved, maps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{}, {"train": "head_then_full", "head_epochs": 1}, {"train": "lora"}, {"ema": 0.9}],
    ids=["full", "head_then_full", "lora", "ema"],
)
def test_a_stopped_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, Any]
) -> None:
    settings = replace(SETTINGS, **more)
    history = assert_goes_on(finetune, tmp_path, settings, monkeypatch, events=6)
    assert [set(one) >= {"validation_mean_iou"} for one in history.epochs] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet_fpn", "vgg_unet", "inception_aspp"])
def test_segmenters_learn_scenes_and_predict_them_in_full_size(tmp_path: Path, model: str) -> None:
    settings = FineTune(
        epochs=25,
        batch_size=4,
        optimizer=Optimizer(lr=0.005),
        augmentation=Augmentation(flip=True, crop=24),
    )
    made = member(model, test_flip=True)
    history = Torch().finetune(
        made, Plan(Segmentation(), settings, seed=3), SPLITS, tmp_path, silent
    )
    figures = [epoch["validation_mean_iou"] for epoch in history.epochs]
    assert figures[0] < 0.6 and max(figures) > 0.8
    wide = scenes(12, 18)
    pixels = np.repeat(wide.images.pixels_NHW3, 2, axis=2)  # type: ignore[attr-defined]
    images = PixelImages(pixels)
    (said,) = predicted_pieces(made, wide.ids, (images, images), Segmentation(), silent)
    assert [mask.size for mask in said.masks] == [(32, 64)] * 6  # type: ignore[attr-defined]
    whole: Any = in_full_size(said, images)
    maps = [one.read().repeat(2, axis=1) for one in wide.targets.maps]  # type: ignore[attr-defined]
    truth = LabelMaps.from_arrays(wide.ids, CLASSES, maps)
    assert MeanIou().value(MeanIou().statistics(whole, truth)) > 0.6


def test_squares_become_their_images_shape() -> None:
    assert kept_size((100, 200), (32, 32)) == (32, 64)
    assert kept_size((200, 100), (32, 32)) == (64, 32)
    assert kept_size((20, 10), (32, 32)) == (20, 10)
    truth = resized_maps(TRUTH, 4)
    assert [one.read().shape for one in truth.maps] == [(4, 4)] * 2
