# SPDX-License-Identifier: Apache-2.0
"""Small real files: PNG and JPEG made by Pillow."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


def encode(seed: int = 0, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """An image file of random pixels; `size` is height, width."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def image_file() -> Encode:
    return encode


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """30 images of 3 classes in folders, all different."""
    root = tmp_path / "pets"
    for number in range(30):
        folder = root / ("cat", "dog", "eel")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02d}.png").write_bytes(encode(number))
    return root
