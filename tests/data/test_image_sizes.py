# SPDX-License-Identifier: Apache-2.0
"""Sizes without decoding are those of the decoded pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from fusetune.data.image_sizes import image_sizes
from fusetune.data.inputs import ChosenImages, EncodedImages, FileImages, PixelImages
from fusetune.errors import DataError


def encoded(width: int, height: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_sizes_are_those_of_the_pixels() -> None:
    images = EncodedImages.of([encoded(30, 20), encoded(30, 20, orientation=6), encoded(8, 9, 3)])
    shapes = [images.pixels(row).shape[1::-1] for row in range(3)]
    assert image_sizes(images).tolist() == [list(shape) for shape in shapes]
    assert shapes == [(30, 20), (20, 30), (8, 9)]
    chosen = ChosenImages(images, np.array([2, 1]))
    assert image_sizes(chosen).tolist() == [[8, 9], [20, 30]]


def test_sizes_of_pixels() -> None:
    images = PixelImages(np.zeros((3, 5, 7, 3), dtype=np.uint8))
    assert image_sizes(images).tolist() == [[7, 5]] * 3
    assert image_sizes(ChosenImages(images, np.array([0]))).tolist() == [[7, 5]]
    assert image_sizes(images.take(np.array([], dtype=int))).shape == (0, 2)


def test_what_is_no_image_is_named(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the image '.*a.png' cannot be read \(not an image\)"):
        image_sizes(FileImages((path,)))
    with pytest.raises(DataError, match="the image at position 1 cannot be read"):
        image_sizes(EncodedImages.of([encoded(2, 2), b"x"]))
