# SPDX-License-Identifier: Apache-2.0
"""Boxes of augmented images are where the objects went."""

import numpy as np
import pytest
import torch

from fusetune.finetune.pytorch.augment import augmented, epoch_draws
from fusetune.finetune.pytorch.boxes import moved_objects
from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation

HEIGHT, WIDTH, ROWS = 40, 60, 64
KEYS = row_keys(np.array([f"r{n}" for n in range(ROWS)]))


def scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Black images with a white rectangle each, and its object."""
    random = np.random.default_rng(0)
    pixels = np.zeros((ROWS, HEIGHT, WIDTH, 3), dtype=np.uint8)
    objects = np.zeros((ROWS, 2, 6), dtype=np.float32)
    objects[:, 1, 4] = -1
    for row in range(ROWS):
        left, top = random.integers(0, WIDTH - 12), random.integers(0, HEIGHT - 12)
        right, bottom = left + random.integers(6, 12), top + random.integers(6, 12)
        pixels[row, top:bottom, left:right] = 255
        corners = np.array([left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT])
        objects[row, 0] = [*corners, row % 3, 0]
    return torch.from_numpy(pixels), torch.from_numpy(objects)


def white(pixels: torch.Tensor) -> list[float] | None:
    """Edges around what is white, in pixels."""
    there = pixels[..., 0].numpy() > 127
    if not there.any():
        return None
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize(
    ("augmentation", "tolerance"),
    [
        (Augmentation(flip=True), 1e-3),
        (Augmentation(flip=False, crop_padding=7), 1e-3),
        (Augmentation(flip=True, crop_padding=7), 1e-3),
        (Augmentation(flip=False, resized_crop=0.3), 1.01),
        (Augmentation(flip=True, crop_padding=3, resized_crop=0.5), 1.01),
    ],
)
def test_boxes_move_as_the_pixels_do(augmentation: Augmentation, tolerance: float) -> None:
    pixels, objects = scenes()
    draws = epoch_draws(KEYS, augmentation, seed=5, epoch=2)
    moved = moved_objects(objects, draws, augmentation, (HEIGHT, WIDTH))
    images = augmented(pixels, draws, augmentation)
    sides = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    kept = 0
    for row in range(ROWS):
        assert moved[row, 1, 4] == -1
        label, edges = moved[row, 0, 4], white(images[row])
        if label < 0:
            continue
        kept += 1
        assert label == objects[row, 0, 4] and edges is not None
        np.testing.assert_allclose(moved[row, 0, :4].numpy() * sides, edges, atol=tolerance)
    assert kept > ROWS / 3
    assert not torch.equal(moved, objects)


def test_objects_that_leave_the_image_are_none_and_others_are_cut() -> None:
    augmentation = Augmentation(flip=False, crop_padding=10)
    draws = torch.zeros(1, 20)
    draws[0, 1], draws[0, 2] = 0.5, 0.999  # ten of forty pixels to the left
    boxes = [[0.0, 0.2, 0.16, 0.4], [0.0, 0.2, 0.6, 0.4], [0.4, 0.1, 0.6, 0.4], [0.24, 0, 0.28, 1]]
    objects = torch.tensor([[[*box, 1.0, 0.0] for box in boxes]])
    moved = moved_objects(objects, draws, augmentation, (40, 40))[0]
    assert moved[:, 4].tolist() == [-1.0, 1.0, 1.0, -1.0]  # the last is 1.2 pixels wide
    torch.testing.assert_close(moved[1, :4], torch.tensor([0.0, 0.2, 0.35, 0.4]))
    torch.testing.assert_close(moved[2, :4], torch.tensor([0.15, 0.1, 0.35, 0.4]))


def test_every_draw_leaves_valid_boxes() -> None:
    _, objects = scenes()
    augmentation = Augmentation(flip=True, crop_padding=20, resized_crop=0.1)
    for epoch in range(20):
        draws = epoch_draws(KEYS, augmentation, seed=0, epoch=epoch)
        moved = moved_objects(objects, draws, augmentation, (HEIGHT, WIDTH))
        there = moved[moved[..., 4] >= 0]
        assert len(there) and ((there[:, :4] >= 0) & (there[:, :4] <= 1)).all()
        pixels = (there[:, 2:4] - there[:, :2]) * torch.tensor([WIDTH, HEIGHT])
        assert (pixels >= 2 - 1e-4).all()


def test_without_augmentation_objects_stay() -> None:
    _, objects = scenes()
    augmentation = Augmentation(flip=False, color_jitter=0.5, cutout=4)
    draws = epoch_draws(KEYS, augmentation, seed=0, epoch=0)
    assert torch.equal(moved_objects(objects, draws, augmentation, (HEIGHT, WIDTH)), objects)
