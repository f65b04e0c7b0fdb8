# SPDX-License-Identifier: Apache-2.0
"""The parts of COCO's JSON files, each checked as it is read.

Shapes: N rows.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.kinds import Floats

__all__ = [
    "bbox_of",
    "categories_of",
    "check_size",
    "coco_content",
    "id_of",
    "is_number",
    "order_of",
    "read_json",
    "sizes_of",
]

PARTS: Mapping[str, tuple[str, ...]] = {  # of a file of annotations, with what each entry needs
    "images": ("id",),
    "annotations": ("image_id",),
    "categories": ("id", "name"),
}


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The content of a JSON file.

    Raises:
        PredictionError: There is no such file, or it is no JSON or cut short (the place is named).
    """
    if not path.is_file():
        raise PredictionError(f"there is no file '{path}'", "a readable file", "Check the path.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise PredictionError(
            f"the content is no complete JSON ({getattr(error, 'msg', error)}{where})",
            "a complete JSON file",
            "Write or copy the file again.",
        ) from error


def coco_content(path: Path) -> Mapping[str, list[Any]]:
    """Images, annotations and categories of a file, each with what it needs.

    Raises:
        PredictionError: A part is missing, or an entry lacks something (it is named).
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or any(
        not isinstance(content.get(name), list) for name in PARTS
    ):
        raise PredictionError(
            "the content is no COCO annotation file",
            f"lists called {name_some(list(PARTS))}",
            "Give a file in COCO's format, or a folder of YOLO or Pascal VOC labels.",
        )
    for part, keys in PARTS.items():
        for number, one in enumerate(content[part]):
            if not isinstance(one, Mapping) or any(key not in one for key in keys):
                raise PredictionError(
                    f"entry {number} of '{part}' is {json.dumps(one)[:80]}",
                    f"an object with {name_some(keys)}",
                    "Correct it.",
                )
    return content


def id_of(value: object) -> str:
    """An id as text; whole numbers that some tools write as fractions are whole again.

    Example:
        >>> id_of(7.0), id_of("7"), id_of(7.5)
        ('7', '7', '7.5')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def categories_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Id → name; several ids may have one name, but not the other way around."""
    names: dict[str, str] = {}
    for one in entries:
        number, name = id_of(one["id"]), str(one["name"])
        if names.setdefault(number, name) != name:
            raise PredictionError(
                f"the category {number} is called '{names[number]}' and '{name}'",
                "one name for each category",
                "Correct the categories.",
            )
    return names


def sizes_of(images: Sequence[Mapping[str, Any]]) -> Floats | None:
    """`(N, 2)` widths and heights; None where some are not stated."""
    sides = ("width", "height")
    if not all(image.get(side) for image in images for side in sides):
        return None
    sizes = [[image[side] for side in sides] for image in images]
    for image, size in zip(images, sizes, strict=True):
        check_size(f"image '{id_of(image['id'])}'", size)
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


def check_size(where: str, size: Sequence[Any]) -> None:
    """Refuse a width or height that no image has.

    Raises:
        PredictionError: One is not positive.
    """
    if not all(is_number(side) and 0 < side < np.inf for side in size):
        raise PredictionError(
            f"{where} is {size[0]} by {size[1]} pixels by its annotation",
            "a positive width and height",
            "Correct them, or leave them out where that is allowed.",
        )


def bbox_of(where: str, bbox: object) -> Sequence[float]:
    """Left, top, width and height, as they are."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox)):
        return bbox
    rotated = " and may be rotated" if isinstance(bbox, list) and len(bbox) == 5 else ""
    raise PredictionError(
        f"{where} has the bbox {bbox}{rotated}",
        "four numbers: left, top, width, height",
        "Give upright boxes.",
    )


def is_number(value: object) -> bool:
    """Whether it is a number, NaN included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def order_of(name: str) -> tuple[float, str]:
    """By what COCO orders images: the numbers of their ids."""
    return (float(name) if name.lstrip("-").isdigit() else np.inf, name)
