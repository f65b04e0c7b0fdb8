# SPDX-License-Identifier: Apache-2.0
"""A random policy of operations on a batch of images.

Reference:
    Cubuk, Zoph, Shlens & Le, "RandAugment: Practical automated data augmentation with a reduced
    search space", 2020. The fourteen operations and their ranges are those of torchvision's
    RandAugment; here every row draws its own, and what geometry lays bare is gray.

Shapes: B rows of a batch, H height, W width, 3 RGB channels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATIONS", "blended", "gray", "operated", "rand_augmented"]

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("color", "contrast", "sharpness", "posterize", "solarize", "auto_contrast", "equalize"),
)
MOST_MAGNITUDE = 30
GRAY = (0.2989, 0.587, 0.114)  # as torchvision weighs the channels
FILL = 128.0


def rand_augmented(pixels: Tensor, draws_BD: Tensor, magnitude: float) -> Tensor:
    """`(B, H, W, 3)` uint8 after one operation per pair of draws: which it is, and its sign."""
    strength = magnitude / MOST_MAGNITUDE
    for column in range(0, draws_BD.shape[1], 2):
        which_B = (draws_BD[:, column] * len(OPERATIONS)).long()
        signs_B = torch.where(draws_BD[:, column + 1] < 0.5, -1.0, 1.0)
        pixels = operated(pixels, which_B, signs_B * strength)
    return pixels


def operated(pixels: Tensor, which_B: Tensor, strength_B: Tensor) -> Tensor:
    """`(B, H, W, 3)` uint8, each row changed by its operation of `OPERATIONS`.

    Args:
        pixels: `(B, H, W, 3)` uint8.
        which_B: Position of each row's operation.
        strength_B: In [-1, 1], of an operation's range; the sign is left or right, less or more.
    """
    images = pixels.float()
    strength_B111 = strength_B[:, None, None, None]
    size_B111 = strength_B111.abs()
    factor = 1 + 0.9 * strength_B111
    means = gray(images).floor().mean(dim=(1, 2, 3), keepdim=True)
    step = 2 ** (4 * size_B111).round()
    candidates = {
        "brightness": (images * factor).clamp(0, 255).floor(),
        "color": blended(images, gray(images).floor(), factor).floor(),
        "contrast": blended(images, means, factor).floor(),
        "sharpness": blended(images, _smoothed(images), factor).floor(),
        "posterize": (images / step).floor() * step,
        "solarize": torch.where(images >= 255 * (1 - size_B111), 255 - images, images),
        "auto_contrast": _auto_contrast(images),
        "equalize": _equalized(pixels).float(),
    }
    result = _moved(images, which_B, strength_B)
    for name, candidate in candidates.items():
        chosen = which_B == OPERATIONS.index(name)
        result = torch.where(chosen[:, None, None, None], candidate, result)
    return result.to(torch.uint8)


def gray(images: Tensor) -> Tensor:
    """`(B, H, W, 1)` luminance of `(B, H, W, 3)` floats."""
    red, green, blue = images.unbind(-1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[..., None]


def blended(images: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    """Away from `base` by a factor; 0 gives `base`, 1 the images."""
    return (base + (images - base) * factor).clamp(0, 255)


def _moved(images: Tensor, which_B: Tensor, strength_B: Tensor) -> Tensor:
    """Sheared, translated or rotated about the center, by the nearest pixel; others as they are."""
    num, height, width, _ = images.shape

    def if_chosen(name: str, values_B: Tensor) -> Tensor:
        return torch.where(which_B == OPERATIONS.index(name), values_B, 0.0)

    angle_B = if_chosen("rotate", strength_B * math.radians(30))
    shear_x_B = if_chosen("shear_x", 0.3 * strength_B)
    shear_y_B = if_chosen("shear_y", 0.3 * strength_B)
    right_B = if_chosen("translate_x", (150 / 331 * width * strength_B).trunc())
    down_B = if_chosen("translate_y", (150 / 331 * height * strength_B).trunc())
    ys_H = torch.arange(height, device=images.device) - (height - 1) / 2
    xs_W = torch.arange(width, device=images.device) - (width - 1) / 2
    cos, sin = angle_B.cos()[:, None, None], angle_B.sin()[:, None, None]
    ys, xs = ys_H[None, :, None], xs_W[None, None, :]
    from_x = cos * xs + (sin + shear_x_B[:, None, None]) * ys - right_B[:, None, None]
    from_y = cos * ys - (sin - shear_y_B[:, None, None]) * xs - down_B[:, None, None]
    x_BHW = (from_x + (width - 1) / 2).round().long()
    y_BHW = (from_y + (height - 1) / 2).round().long()
    inside_BHW = (x_BHW >= 0) & (x_BHW < width) & (y_BHW >= 0) & (y_BHW < height)
    rows = torch.arange(num, device=images.device)[:, None, None]
    moved = images[rows, y_BHW.clamp(0, height - 1), x_BHW.clamp(0, width - 1)]
    return torch.where(inside_BHW[..., None], moved, FILL)


def _smoothed(images: Tensor) -> Tensor:
    """Every pixel but the outermost as a mean of its neighborhood, itself five times."""
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5  # whole numbers: exact in the TF32 of GPUs, as thirteenths are not
    result = images.clone()
    inner = functional.conv2d(images.permute(0, 3, 1, 2), kernel.expand(3, 1, 3, 3), groups=3)
    result[:, 1:-1, 1:-1] = (inner.permute(0, 2, 3, 1) / 13).round()
    return result


def _auto_contrast(images: Tensor) -> Tensor:
    """Each channel stretched to the whole range; a channel of one value stays."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    return torch.where(high > low, stretched, images).clamp(0, 255).floor()


def _equalized(pixels: Tensor) -> Tensor:
    """Each channel's values spread evenly, as Pillow does it."""
    num, height, width, _ = pixels.shape
    values = pixels.permute(0, 3, 1, 2).reshape(num * 3, height * width).long()
    counts = torch.zeros(num * 3, 256, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    last = ((counts > 0) * torch.arange(256, device=pixels.device)).amax(1, keepdim=True)
    step = (height * width - counts.gather(1, last)) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    spread = torch.where(step > 0, table.clamp(max=255).gather(1, values), values)
    return spread.view(num, 3, height, width).permute(0, 2, 3, 1).to(torch.uint8)
