# SPDX-License-Identifier: Apache-2.0
"""Width and height of images, without decoding their pixels.

Shapes: N images.
"""

import io

import numpy as np

from fusetune.data.inputs import ChosenImages, Encoded, Images, PixelImages
from fusetune.errors import DataError
from fusetune.predictions.kinds import Floats

__all__ = ["image_sizes"]

ORIENTATION = 0x0112  # the EXIF tag; from 5 on, an image lies on its side
SIDEWAYS = 5


def image_sizes(images: Images) -> Floats:
    """`(N, 2)` width and height in pixels, as `Images.pixels` gives them.

    Raises:
        DataError: A file that is no image, or that cannot be read.
    """
    if isinstance(images, ChosenImages):
        if isinstance(images.base, PixelImages):
            return _of_pixels(images.base, len(images))
        return image_sizes(images.base.take(images.rows_N))
    if isinstance(images, PixelImages):
        return _of_pixels(images, len(images))
    assert isinstance(images, Encoded)
    sizes = [_of_file(images, row) for row in range(len(images))]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _of_pixels(images: PixelImages, num: int) -> Floats:
    height, width = images.pixels_NHW3.shape[1:3]
    return np.tile(np.array([[width, height]], dtype=np.float64), (num, 1))


def _of_file(images: Encoded, row: int) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(images.encoded(row))) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= SIDEWAYS
    except OSError as error:
        paths = getattr(images, "paths", ())
        name = f"'{paths[row]}'" if paths else f"at position {row}"
        raise DataError(
            f"the image {name} cannot be read ({error.strerror or 'not an image'})",
            "a whole image file that Pillow can open",
            "Replace it, or remove its annotation.",
        ) from error
    return (height, width) if turned else (width, height)
