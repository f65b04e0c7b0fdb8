# SPDX-License-Identifier: Apache-2.0
"""Find images that cannot be read, before a member meets them.

Shapes: N rows, H height, W width, 3 RGB channels.
"""

import numpy as np
import numpy.typing as npt

from fusetune.data.inputs import Encoded, Images, PixelImages, check_readable, decode
from fusetune.errors import DataError, counted, name_some
from fusetune.predictions.kinds import Ids

__all__ = ["MOST_PIXEL_BYTES", "readable_images"]

Pixels = npt.NDArray[np.uint8]

MOST_PIXEL_BYTES = 2**30
"""Images of one size are held decoded up to this size in all, so that no epoch decodes again."""


def readable_images(ids: Ids, images: Images) -> Images:
    """The same images, every one of them found to be readable.

    Args:
        ids: `(N,)` row names, for the message.
        images: N images.

    Returns:
        Pixels where all images decode to one size and take at most `MOST_PIXEL_BYTES` together,
        else the images as they were given.

    Raises:
        DataError: Images that are no images, end too early, or whose file cannot be read; they are
            counted and named.

    Cost:
        About 0.1 ms for a 32x32 JPEG, 1.3 ms for a 640x480 one.
    """
    if not isinstance(images, Encoded):
        return images
    pixels_NHW3: Pixels | None = None
    bad: dict[str, str] = {}
    for row in range(len(images)):
        try:
            encoded = images.encoded(row)
            if row == 0 or pixels_NHW3 is not None:
                pixels_NHW3 = _put(pixels_NHW3, row, decode(encoded), len(images))
            else:
                check_readable(encoded)
        except OSError as error:
            bad[str(ids[row])] = error.strerror or str(error)
    if bad:
        name, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad):,} of {counted(len(images), 'image')} cannot be read: {name_some(bad)} "
            f"('{name}': {reason})",
            "whole image files that Pillow can open",
            "Replace these files, or remove their rows.",
        )
    return images if pixels_NHW3 is None else PixelImages(pixels_NHW3)


def _put(pixels_NHW3: Pixels | None, row: int, pixels_HW3: Pixels, num_rows: int) -> Pixels | None:
    """The array with one more image, or None once the images do not fit one array."""
    if row == 0 and num_rows * pixels_HW3.nbytes <= MOST_PIXEL_BYTES:
        pixels_NHW3 = np.empty((num_rows, *pixels_HW3.shape), dtype=np.uint8)
    if pixels_NHW3 is None or pixels_HW3.shape != pixels_NHW3.shape[1:]:
        return None
    pixels_NHW3[row] = pixels_HW3
    return pixels_NHW3
