# SPDX-License-Identifier: Apache-2.0
"""The masks on which members disagree most: what is true, what each says, what the fusion makes of it.

Shapes: H W pixels.
"""

import io
from typing import Any, ClassVar

import numpy as np

from fusetune.predictions.kinds import Array
from fusetune.report.contents import Contents
from fusetune.report.images import data_uri, encoded
from fusetune.report.mask_pictures import DISPUTED, NOTHING
from fusetune.report.section import Section

__all__ = ["Masks"]

GRAY = (224, 224, 224)  # of pixels of no class; none of the first 200 colors is near it
MOST_NAMED = 5  # classes in the words of a picture


class Masks(Section):
    """A row of small pictures for each image, classes in colors."""

    title: ClassVar[str] = "Disputed masks"
    order: ClassVar[int] = 71

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds."""
        found = contents.mask_pictures
        if found is None:
            return None
        colors = _colors(len(found.classes))
        return {
            "rows_name": contents.rows_name,
            "chosen_name": contents.chosen,
            "legend": [
                {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colors[index])}
                for index, name in enumerate(found.classes)
            ],
            "rows": [
                {
                    "id": name,
                    "image": data_uri(found.images[name]) if name in found.images else None,
                    "pictures": [
                        _picture(layer, numbers_HW, colors)
                        | {"words": _words(layer, numbers_HW, found.classes)}
                        for layer, numbers_HW in zip(found.layers, numbers_LHW, strict=True)
                    ],
                }
                for name, numbers_LHW in found.pictures.items()
            ],
        }


def _colors(number: int) -> Array:
    """`(number, 3)` colors that differ: bits of the number spread over red, green and blue.

    Reference:
        The color map of the Pascal VOC development kit, from its second color on.
    """
    numbers = np.arange(1, number + 1)
    colors = np.zeros((number, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colors


def _picture(layer: str, numbers_HW: Array, colors: Array) -> dict[str, Any]:
    """A PNG as a data URI: classes in colors, or dark where many members differ."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(numbers_HW.astype(np.uint8)), mode="P")
    palette = np.full((256, 3), GRAY, dtype=np.uint8)
    if layer == DISPUTED:
        most = max(1, int(numbers_HW.max(initial=0)))
        palette[: most + 1] = np.linspace(245, 20, most + 1)[:, None]
    else:
        palette[: len(colors)] = colors[:NOTHING]
    image.putpalette(palette.ravel().tolist())
    file = io.BytesIO()
    image.save(file, format="PNG")
    return encoded(file, "png") | {"name": layer, "width": image.width, "height": image.height}


def _words(layer: str, numbers_HW: Array, classes: tuple[str, ...]) -> str:
    """What a picture shows, for those who do not see it."""
    if layer == DISPUTED:
        return f"on {100 * np.mean(numbers_HW > 0):.0f} % of the pixels"
    shares = [(float(np.mean(numbers_HW == index)), name) for index, name in enumerate(classes)]
    largest = sorted((one for one in shares if one[0] > 0), key=lambda one: -one[0])[:MOST_NAMED]
    return ", ".join(f"{name} {100 * share:.0f} %" for share, name in largest) or "no class"
