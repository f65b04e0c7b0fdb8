# SPDX-License-Identifier: Apache-2.0
"""Augmentation on batches: what it does to a row hangs on the row's own key only."""

import numpy as np
import torch

from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation
from fusetune.finetune.torch_augment import augmented, epoch_draws

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
KEYS = row_keys([f"row-{i}" for i in range(50)])


def changed(
    pixels: np.ndarray, keys: np.ndarray, settings: Augmentation, *, seed: int, epoch: int
) -> np.ndarray:
    draws = epoch_draws(keys, seed=seed, epoch=epoch)
    return augmented(torch.from_numpy(pixels), draws, settings).numpy()


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


def test_a_rows_augmentation_hangs_on_its_id_and_epoch_only() -> None:
    settings = Augmentation(flip=True, crop_padding=2)
    whole = changed(PIXELS, KEYS, settings, seed=5, epoch=2)
    part = changed(PIXELS[10:13], KEYS[10:13], settings, seed=5, epoch=2)
    assert np.array_equal(whole[10:13], part)
    assert not np.array_equal(whole, changed(PIXELS, KEYS, settings, seed=5, epoch=3))


def test_no_augmentation_changes_nothing_and_inputs_stay_as_they_are() -> None:
    before = PIXELS.copy()
    assert np.array_equal(changed(PIXELS, KEYS, Augmentation(flip=False), seed=0, epoch=0), PIXELS)
    changed(PIXELS, KEYS, Augmentation(flip=True, crop_padding=1), seed=0, epoch=0)
    assert np.array_equal(PIXELS, before)
