# SPDX-License-Identifier: Apache-2.0
"""The random policy beside torchvision's operations, one by one."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from fusetune.finetune.pytorch.rand_augment import OPERATIONS, operated, rand_augmented

RNG = np.random.default_rng(0)
SMOOTH = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8).repeat(6, 1).repeat(6, 2)
PIXELS = torch.from_numpy(
    (0.7 * SMOOTH + 0.2 * RNG.integers(0, 256, SMOOTH.shape)).astype(np.uint8)
)
STRENGTH = 0.6
GRAY = [128.0] * 3


def affine(image: torch.Tensor, **given: object) -> torch.Tensor:
    usual = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": GRAY}
    return tv.affine(image, **{**usual, **given})


REFERENCE = {
    "identity": lambda image: image,
    "shear_x": lambda image: affine(image, shear=[np.degrees(np.arctan(0.3 * STRENGTH)), 0.0]),
    "shear_y": lambda image: affine(image, shear=[0.0, np.degrees(np.arctan(0.3 * STRENGTH))]),
    "translate_x": lambda image: affine(image, translate=[int(150 / 331 * 24 * STRENGTH), 0]),
    "translate_y": lambda image: affine(image, translate=[0, int(150 / 331 * 24 * STRENGTH)]),
    "rotate": lambda image: tv.rotate(image, -30 * STRENGTH, fill=GRAY),
    "brightness": lambda image: tv.adjust_brightness(image, 1 + 0.9 * STRENGTH),
    "color": lambda image: tv.adjust_saturation(image, 1 + 0.9 * STRENGTH),
    "contrast": lambda image: tv.adjust_contrast(image, 1 + 0.9 * STRENGTH),
    "sharpness": lambda image: tv.adjust_sharpness(image, 1 + 0.9 * STRENGTH),
    "posterize": lambda image: tv.posterize(image, 8 - round(4 * STRENGTH)),
    "solarize": lambda image: tv.solarize(image, 255 * (1 - STRENGTH)),
    "auto_contrast": tv.autocontrast,
    "equalize": tv.equalize,
}


def test_all_operations_have_a_reference() -> None:
    assert set(REFERENCE) == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_what_torchvisions_does(name: str) -> None:
    which = torch.full((6,), OPERATIONS.index(name))
    made = operated(PIXELS, which, torch.full((6,), STRENGTH))
    expected = torch.stack([REFERENCE[name](image.permute(2, 0, 1)) for image in PIXELS])
    apart = (made.int() - expected.permute(0, 2, 3, 1).int()).abs()
    # The nearest pixel may be another one where two are as near; levels may be rounded otherwise.
    share = float((apart <= 1).float().mean())
    assert share > (0.97 if name in ("rotate", "shear_x", "shear_y") else 0.999)
    assert name == "identity" or not torch.equal(made, PIXELS)


def test_each_row_gets_its_own_operation() -> None:
    which = torch.tensor([OPERATIONS.index(n) for n in ("identity", "solarize", "rotate")])
    strength = torch.tensor([0.5, 1.0, -0.5])
    made = operated(PIXELS[:3], which, strength)
    assert torch.equal(made[0], PIXELS[0])
    assert torch.equal(made[1], 255 - PIXELS[1])
    assert torch.equal(made[2:], operated(PIXELS[2:3], which[2:], strength[2:]))


def test_no_magnitude_leaves_all_but_the_ranges() -> None:
    draws = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    draws[:, 0] = (torch.arange(6) + 0.5) / len(OPERATIONS)  # geometry and identity
    assert torch.equal(rand_augmented(PIXELS, draws, 0.0), PIXELS)
    assert not torch.equal(rand_augmented(PIXELS, draws, 30.0), PIXELS)


def test_flat_images_survive() -> None:
    flat = torch.full((len(OPERATIONS), 8, 8, 3), 77, dtype=torch.uint8)
    made = operated(flat, torch.arange(len(OPERATIONS)), torch.zeros(len(OPERATIONS)))
    assert torch.equal(made[OPERATIONS.index("auto_contrast")], flat[0])
    assert torch.equal(made[OPERATIONS.index("equalize")], flat[0])
