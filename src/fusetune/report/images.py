# SPDX-License-Identifier: Apache-2.0
"""Images inside the page, as data URIs.

Shapes: H W pixels.
"""

import base64
import io
from typing import Any

import numpy as np

from fusetune.predictions.kinds import Array

__all__ = ["data_uri", "encoded"]

SMALL = 128  # pixels of the longer side up to which PNG is as small as JPEG, and exact
COARSE = 80  # up to which an image is shown pixel by pixel


def data_uri(pixels_HWC: Array) -> dict[str, Any]:
    """`uri`, `width`, `height`, and whether to show it pixel by pixel.

    Args:
        pixels_HWC: `(H, W, 3)` uint8; PNG where it is small, else JPEG.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels_HWC[..., :3]))
    small = max(image.size) <= SMALL
    file = io.BytesIO()
    if small:
        image.save(file, format="PNG", optimize=False)
    else:
        image.save(file, format="JPEG", quality=80)
    return encoded(file, "png" if small else "jpeg") | {
        "pixelated": max(image.size) <= COARSE,
        "width": image.width,
        "height": image.height,
    }


def encoded(file: io.BytesIO, kind: str) -> dict[str, str]:
    """The bytes of an image file as `uri`."""
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return {"uri": f"data:image/{kind};base64,{text}"}
