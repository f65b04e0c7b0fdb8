# SPDX-License-Identifier: Apache-2.0
"""Augmentation on batches: what it does to a row hangs on the row's own key only."""

from typing import Any

import numpy as np
import pytest
import torch

from fusetune.errors import InvalidValue
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.augment import MIXUP, augmented, epoch_draws, mixed, partners
from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation, FineTune

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
KEYS = row_keys([f"row-{i}" for i in range(50)])


def changed(
    pixels: np.ndarray, keys: np.ndarray, settings: Augmentation, *, seed: int, epoch: int
) -> np.ndarray:
    draws = epoch_draws(keys, settings, seed=seed, epoch=epoch)
    return augmented(torch.from_numpy(pixels), draws, settings).numpy()


def alone(**fields: Any) -> Augmentation:
    return Augmentation(flip=False, **fields)


def test_flips_mirror_about_half_of_the_rows_and_leave_the_others() -> None:
    made = changed(PIXELS, KEYS, Augmentation(flip=True), seed=0, epoch=0)
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(made, PIXELS, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(made, PIXELS, strict=True)])
    assert (mirrored ^ same).all()
    assert 15 <= mirrored.sum() <= 35


def test_crops_shift_by_at_most_the_padding_and_by_every_amount() -> None:
    made = changed(PIXELS, KEYS, Augmentation(flip=False, crop_padding=1), seed=0, epoch=0)
    padded = np.pad(PIXELS, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = set()
    for row in range(50):
        found = [
            (y, x)
            for y in range(3)
            for x in range(3)
            if np.array_equal(made[row], padded[row, y : y + 8, x : x + 8])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 9


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip=True, crop_padding=2),
        alone(resized_crop=0.3),
        alone(rand_augment=2),
        alone(color_jitter=0.4),
        alone(cutout=4),
    ],
    ids=str,
)
def test_a_rows_augmentation_hangs_on_its_id_and_epoch_only(settings: Augmentation) -> None:
    whole = changed(PIXELS, KEYS, settings, seed=5, epoch=2)
    part = changed(PIXELS[10:13], KEYS[10:13], settings, seed=5, epoch=2)
    assert np.array_equal(whole[10:13], part)
    assert whole.dtype == np.uint8
    assert whole.shape == PIXELS.shape
    assert not np.array_equal(whole, changed(PIXELS, KEYS, settings, seed=5, epoch=3))
    assert not np.array_equal(whole, changed(PIXELS, KEYS, settings, seed=6, epoch=2))


def test_one_change_does_not_shift_the_draws_of_another() -> None:
    flips = changed(PIXELS, KEYS, Augmentation(), seed=0, epoch=0)
    both = changed(PIXELS, KEYS, Augmentation(cutout=2, mixup=0.2), seed=0, epoch=0)
    assert ((flips == both) | (both == 128)).all()


def test_a_resized_crop_shows_a_window_of_the_image() -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (32, 32, 3))
    pixels = np.stack([ramp] * 50)
    made = changed(pixels, KEYS, alone(resized_crop=0.25), seed=0, epoch=0).astype(int)
    assert (np.diff(made, axis=1) >= 0).all()
    shares = (made[:, -1, 0, 0] - made[:, 0, 0, 0]) / (255 - 7)
    assert shares.min() >= np.sqrt(0.25 * 3 / 4) - 0.05
    assert shares.max() > 0.9
    assert made[:, 0].min() < 20 and made[:, -1].max() > 230
    same = changed(PIXELS, KEYS, alone(resized_crop=1.0), seed=0, epoch=0)
    assert np.abs(same.astype(int).mean(axis=(1, 2)) - PIXELS.mean(axis=(1, 2))).max() < 40


def test_jitter_stays_within_its_factors() -> None:
    gray = np.full((50, 8, 8, 3), 100, dtype=np.uint8)
    made = changed(gray, KEYS, alone(color_jitter=0.4), seed=0, epoch=0)
    assert 60 <= made.min() < 75
    assert 125 < made.max() <= 140
    assert (made == made[:, :1, :1]).all()  # a gray image has neither contrast nor saturation
    colored = changed(PIXELS, KEYS, alone(color_jitter=0.4), seed=0, epoch=0)
    spread = colored.std(axis=(1, 2, 3)) / PIXELS.std(axis=(1, 2, 3))
    assert spread.min() < 0.8 and spread.max() > 1.05


def test_cutout_covers_a_square_of_its_side_at_most() -> None:
    made = changed(np.zeros_like(PIXELS), KEYS, alone(cutout=4), seed=0, epoch=0)
    covered = (made == 128).all(axis=3)
    assert ((made == 0) | (made == 128)).all()
    assert covered.any(axis=1).sum(axis=1).max() == 4
    assert covered.sum(axis=(1, 2)).max() == 16
    assert covered.sum(axis=(1, 2)).min() >= 4
    assert covered.any(axis=0).all()


@pytest.mark.parametrize("settings", [alone(mixup=2), alone(cutmix=1.0), alone(mixup=1, cutmix=1)])
def test_mixed_images_hold_the_stated_share_of_each(settings: Augmentation) -> None:
    pixels = np.zeros((50, 16, 16, 3), dtype=np.uint8)
    pixels[::2] = 200  # every row's partner is of the other kind
    draws = epoch_draws(KEYS, settings, seed=0, epoch=0)
    images, shares = mixed(torch.from_numpy(pixels), draws, settings)
    assert shares is not None
    bright = torch.arange(50) % 2 == 0
    expected = 200 * torch.where(bright, shares, 1 - shares)
    assert torch.allclose(images.mean(dim=(1, 2, 3)), expected, atol=1e-2)
    assert shares.min() < 0.2 and shares.max() > 0.8
    blended = ((images > 1) & (images < 199)).flatten(1).any(1)
    assert blended.any().item() == bool(settings.mixup)
    assert (~blended).any().item() == bool(settings.cutmix)


def test_no_mixing_gives_no_shares() -> None:
    draws = epoch_draws(KEYS, alone(), seed=0, epoch=0)
    images, shares = mixed(torch.from_numpy(PIXELS), draws, alone())
    assert shares is None
    assert np.array_equal(images.numpy(), PIXELS)


def test_mixing_shares_follow_the_beta_distribution() -> None:
    keys = row_keys([str(i) for i in range(20_000)])
    shares = epoch_draws(keys, alone(mixup=0.4), seed=0, epoch=0)[:, MIXUP]
    assert abs(float(shares.mean()) - 0.5) < 0.01
    assert abs(float(shares.var()) - 1 / (4 * (2 * 0.4 + 1))) < 0.005


def test_targets_are_mixed_like_the_images() -> None:
    targets, shares = torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.25, 0.5])
    soft = Classification().mixed(targets, partners(targets), shares, 3)
    assert torch.allclose(soft, torch.tensor([[1, 0, 0], [0.75, 0.25, 0], [0, 0.5, 0.5]]))
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    loss = Classification().loss(logits, soft, FineTune())
    assert torch.allclose(loss, -(soft * logits.log_softmax(1)).sum(1).mean())


def test_no_augmentation_changes_nothing_and_inputs_stay_as_they_are() -> None:
    before = PIXELS.copy()
    assert np.array_equal(changed(PIXELS, KEYS, Augmentation(flip=False), seed=0, epoch=0), PIXELS)
    changed(PIXELS, KEYS, Augmentation(flip=True, crop_padding=1), seed=0, epoch=0)
    assert np.array_equal(PIXELS, before)


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_padding": -1},
        {"resized_crop": 0.0},
        {"resized_crop": 1.5},
        {"rand_augment": -1},
        {"rand_augment_magnitude": 31.0},
        {"color_jitter": 1.5},
        {"cutout": -2},
        {"mixup": -0.1},
        {"cutmix": -0.1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=rf"finetune\.augmentation\.{next(iter(fields))} is"):
        Augmentation(**fields)
