# SPDX-License-Identifier: Apache-2.0
"""Random changes to a batch of images, on the device that holds it.

Every row's fate hangs on the seed, the epoch and its own key: its draws are made on the host for a
whole epoch at once, and what is done with them is the same on every device. Nothing here waits for
the device, so that a step can be recorded.

Shapes: N rows, B rows of a batch, D draws per row, H height, W width, 3 RGB channels.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fusetune.finetune.pytorch.rand_augment import blended, gray, rand_augmented
from fusetune.finetune.randomness import Keys, mixed_seed, uniforms
from fusetune.finetune.settings import Augmentation

__all__ = ["augmented", "epoch_draws", "label_maps_moved", "mixed", "partners"]

FLIP, DOWN, RIGHT = range(3)
AREA, ASPECT, TOP, LEFT = range(3, 7)
BRIGHTNESS, CONTRAST, SATURATION = range(7, 10)
HOLE_Y, HOLE_X = range(10, 12)
WHICH, MIXUP, CUTMIX, BOX_Y, BOX_X = range(12, 17)
WINDOW_Y, WINDOW_X = range(17, 19)
POLICY = 19  # the first of two columns per operation
MOST_ASPECT = 4 / 3
FILL = 128


def epoch_draws(keys: Keys, augmentation: Augmentation, *, seed: int, epoch: int) -> Tensor:
    """`(N, D)` float32 draws in [0, 1): all of one epoch's randomness in augmentation.

    The columns `MIXUP` and `CUTMIX` are from the beta distributions instead.
    """
    num = POLICY + 2 * augmentation.rand_augment
    draws_ND = uniforms(mixed_seed(seed, "augment", epoch), keys, num)
    draws_ND = np.floor(draws_ND * 2**24) * 2**-24  # float32 does not round it up to 1
    alphas = {MIXUP: augmentation.mixup, CUTMIX: augmentation.cutmix}
    for column, alpha in alphas.items():
        if alpha:
            from scipy.special import betaincinv

            draws_ND[:, column] = betaincinv(alpha, alpha, draws_ND[:, column])
    return torch.from_numpy(draws_ND.astype(np.float32))


def augmented(pixels: Tensor, draws_BD: Tensor, augmentation: Augmentation) -> Tensor:
    """Changed copies of `(B, H, W, 3)` uint8 pixels, in the order of `Augmentation`'s fields."""
    if augmentation.flip or augmentation.crop_padding:
        pixels = _flipped_and_shifted(pixels, draws_BD, augmentation, fill=0)
    if augmentation.resized_crop is not None:
        images = pixels.permute(0, 3, 1, 2).float()
        grid = _window_grid(images, draws_BD, augmentation.resized_crop)
        resized = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        pixels = _to_uint8(resized).permute(0, 2, 3, 1).contiguous()
    if augmentation.crop is not None:
        pixels = _cropped(pixels, draws_BD, augmentation.crop)
    if augmentation.rand_augment:
        policy_BD = draws_BD[:, POLICY:]
        pixels = rand_augmented(pixels, policy_BD, augmentation.rand_augment_magnitude)
    if augmentation.color_jitter:
        pixels = _jittered(pixels, draws_BD, augmentation.color_jitter)
    if augmentation.cutout:
        pixels = _holed(pixels, draws_BD, augmentation.cutout)
    return pixels


def label_maps_moved(maps: Tensor, draws_BD: Tensor, augmentation: Augmentation) -> Tensor:
    """`(B, H, W)` classes of the pixels of images that `augmented` changed; -1 where there is none."""
    if augmentation.flip or augmentation.crop_padding:
        maps = _flipped_and_shifted(maps, draws_BD, augmentation, fill=-1)
    if augmentation.resized_crop is not None:
        numbers = maps[:, None].float()
        grid = _window_grid(numbers, draws_BD, augmentation.resized_crop)
        resized = functional.grid_sample(
            numbers, grid, mode="nearest", padding_mode="border", align_corners=False
        )
        maps = resized[:, 0].round().to(maps.dtype)
    if augmentation.crop is not None:
        maps = _cropped(maps, draws_BD, augmentation.crop)
    return maps


def partners(values: Tensor) -> Tensor:
    """What every row is mixed with: the row before it in the batch, for the first one the last."""
    return values.roll(1, 0)


def mixed(
    pixels: Tensor, draws_BD: Tensor, augmentation: Augmentation
) -> tuple[Tensor, Tensor | None]:
    """Images mixed with their partners', by mixup or cutmix; with both on, half of the rows each.

    Returns:
        `(B, H, W, 3)` pixels, and the `(B,)` shares of every row's own image; None if neither is on.
    """
    if not augmentation.mixup and not augmentation.cutmix:
        return pixels, None
    others, own = partners(pixels), pixels.float()
    boxes_BHW1, outside_B = _boxes(pixels, draws_BD)
    pasted = torch.where(boxes_BHW1, others, pixels).float()
    shares_B = draws_BD[:, MIXUP]
    blend = others + (own - others) * shares_B[:, None, None, None]
    if not augmentation.mixup:
        return pasted, outside_B
    if not augmentation.cutmix:
        return blend, shares_B
    cut_B = draws_BD[:, WHICH] < 0.5
    images = torch.where(cut_B[:, None, None, None], pasted, blend)
    return images, torch.where(cut_B, outside_B, shares_B)


def _flipped_and_shifted(
    pixels: Tensor, draws_BD: Tensor, augmentation: Augmentation, *, fill: int
) -> Tensor:
    """One gather: where every pixel `(B, H, W, ...)` of the result comes from, row by row and column by column."""
    num, height, width = pixels.shape[:3]
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
        inside = inside_BHW.view(*inside_BHW.shape, *[1] * (pixels.ndim - 3))
        moved = moved * inside if fill == 0 else torch.where(inside, moved, fill)
    return moved


def _cropped(pixels: Tensor, draws_BD: Tensor, side: int) -> Tensor:
    """A window of `(B, H, W, ...)` anywhere."""
    num, height, width = pixels.shape[:3]
    inside, device = torch.arange(side, device=pixels.device), pixels.device
    tops_B = (draws_BD[:, WINDOW_Y] * (height - side + 1)).long()
    lefts_B = (draws_BD[:, WINDOW_X] * (width - side + 1)).long()
    ys, xs = (tops_B[:, None] + inside)[:, :, None], (lefts_B[:, None] + inside)[:, None, :]
    return pixels[torch.arange(num, device=device)[:, None, None], ys, xs]


def _window_grid(images: Tensor, draws_BD: Tensor, least: float) -> Tensor:
    """Where `grid_sample` finds a window of random area and aspect in `(B, c, H, W)`."""
    area_B = least + (1 - least) * draws_BD[:, AREA]
    aspect_B = torch.exp((2 * draws_BD[:, ASPECT] - 1) * math.log(MOST_ASPECT))
    height_B = (area_B / aspect_B).sqrt().clamp(max=1)
    width_B = (area_B * aspect_B).sqrt().clamp(max=1)
    # In coordinates from -1 to 1: the window's center is at 2 * start + size - 1.
    down_B = (1 - height_B) * (2 * draws_BD[:, TOP] - 1)
    right_B = (1 - width_B) * (2 * draws_BD[:, LEFT] - 1)
    zeros_B = torch.zeros_like(down_B)
    lines = [width_B, zeros_B, right_B, zeros_B, height_B, down_B]
    windows_B23 = torch.stack(lines, dim=1).view(-1, 2, 3)
    return functional.affine_grid(windows_B23, list(images.shape), align_corners=False)


def _jittered(pixels: Tensor, draws_BD: Tensor, strength: float) -> Tensor:
    """Brightness, then contrast, then saturation, each by a factor in 1 ± strength."""

    def factors(column: int) -> Tensor:
        return (1 + strength * (2 * draws_BD[:, column] - 1))[:, None, None, None]

    images = (pixels * factors(BRIGHTNESS)).clamp(0, 255)
    means = gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = blended(images, means, factors(CONTRAST))
    return _to_uint8(blended(images, gray(images), factors(SATURATION)))


def _holed(pixels: Tensor, draws_BD: Tensor, side: int) -> Tensor:
    """A gray square anywhere, its parts beyond the edge cut off."""
    height, width = pixels.shape[1:3]
    ys_BH = _within(draws_BD[:, HOLE_Y] * height, height, side)
    xs_BW = _within(draws_BD[:, HOLE_X] * width, width, side)
    hole_BHW1 = (ys_BH[:, :, None] & xs_BW[:, None, :])[..., None]
    return pixels.masked_fill(hole_BHW1, FILL)


def _within(center_B: Tensor, length: int, side: Tensor | int) -> Tensor:
    """`(B, length)` True for pixels of an interval of this length around a center."""
    start_B = (center_B - side / 2).round()
    places = torch.arange(length, device=center_B.device)
    return (places >= start_B[:, None]) & (places < (start_B + side)[:, None])


def _boxes(pixels: Tensor, draws_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Where cutmix pastes, as `(B, H, W, 1)`, and the `(B,)` shares of pixels that stay."""
    height, width = pixels.shape[1:3]
    side_B = (1 - draws_BD[:, CUTMIX]).sqrt()
    ys_BH = _within(draws_BD[:, BOX_Y] * height, height, (side_B * height).round())
    xs_BW = _within(draws_BD[:, BOX_X] * width, width, (side_B * width).round())
    boxes_BHW = ys_BH[:, :, None] & xs_BW[:, None, :]
    return boxes_BHW[..., None], 1 - boxes_BHW.float().mean(dim=(1, 2))


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
