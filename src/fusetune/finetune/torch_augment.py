# SPDX-License-Identifier: Apache-2.0
"""Random changes to a batch of images, on the device that holds it.

Every row's fate hangs on the seed, the epoch and its own key: its draws are made on the host for a
whole epoch at once, and what is done with them is the same on every device.

Shapes: N rows, B rows of a batch, D draws per row, H height, W width, 3 RGB channels.
"""

import numpy as np
import torch
from torch import Tensor

from fusetune.finetune.randomness import Keys, mixed_seed, uniforms
from fusetune.finetune.settings import Augmentation

__all__ = ["augmented", "epoch_draws"]

FLIP, DOWN, RIGHT = range(3)
NUM_DRAWS = 3


def epoch_draws(keys: Keys, *, seed: int, epoch: int) -> Tensor:
    """`(N, D)` float32 draws in [0, 1): all of one epoch's randomness in augmentation."""
    draws_ND = uniforms(mixed_seed(seed, "augment", epoch), keys, NUM_DRAWS)
    return torch.from_numpy((np.floor(draws_ND * 2**24) * 2**-24).astype(np.float32))  # never 1


def augmented(pixels: Tensor, draws_BD: Tensor, augmentation: Augmentation) -> Tensor:
    """Flipped and shifted copies of `(B, H, W, 3)` uint8 pixels; what a shift lays bare is black."""
    if augmentation.flip or augmentation.crop_padding:
        pixels = _flipped_and_shifted(pixels, draws_BD, augmentation)
    return pixels


def _flipped_and_shifted(pixels: Tensor, draws_BD: Tensor, augmentation: Augmentation) -> Tensor:
    """One gather: where every pixel of the result comes from, row by row and column by column."""
    num, height, width, _ = pixels.shape
    pad, device = augmentation.crop_padding, pixels.device
    shifts_B2 = (draws_BD[:, DOWN : RIGHT + 1] * (2 * pad + 1)).long() - pad
    ys_BH = torch.arange(height, device=device) + shifts_B2[:, :1]
    xs_BW = torch.arange(width, device=device) + shifts_B2[:, 1:]
    if augmentation.flip:
        xs_BW = torch.where(draws_BD[:, FLIP, None] < 0.5, width - 1 - xs_BW, xs_BW)
    rows = torch.arange(num, device=device)[:, None, None]
    ys, xs = ys_BH.clamp(0, height - 1)[:, :, None], xs_BW.clamp(0, width - 1)[:, None, :]
    moved = pixels[rows, ys, xs]
    if pad:
        inside_BHW = ((ys_BH >= 0) & (ys_BH < height))[:, :, None] & (
            (xs_BW >= 0) & (xs_BW < width)
        )[:, None, :]
        moved = moved * inside_BHW[..., None]
    return moved
