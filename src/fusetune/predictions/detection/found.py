# SPDX-License-Identifier: Apache-2.0
"""Boxes as files give them: COCO results JSON, tables with a line per box, folders of YOLO text files.

Shapes: K boxes, L lines of a table.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import PredictionError, counted, name_some
from fusetune.predictions.detection.annotations import yolo_lines, yolo_names
from fusetune.predictions.detection.coco import bbox_of, id_of, is_number, read_json
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.tables import ID, columns_of, named_errors, no_column, read_arrow

__all__ = ["CLASSES", "CORNERS", "RELATIVE", "Found", "found_in_table", "read_found"]

CORNERS = ("x1", "y1", "x2", "y2")
CALLED: Mapping[str, tuple[str, ...]] = {  # other names of the columns
    ID: ("image_id", "image"),
    "label": ("category_id", "class", "category", "class_name"),
    "score": ("confidence", "conf"),
    "x1": ("xmin", "left"),
    "y1": ("ymin", "top"),
    "x2": ("xmax", "right"),
    "y2": ("ymax", "bottom"),
}
CLASSES, RELATIVE = "fusetune.classes", "fusetune.relative"  # of a Parquet file that we wrote


@dataclass(frozen=True, eq=False)
class Found:
    """Boxes as a file gives them.

    Args:
        form: `coco`, `boxes` (a table) or `yolo`.
        images_K: `(K,)` name of each box's image.
        boxes_K4: `(K, 4)` corners.
        scores_K: `(K,)` scores.
        labels_K: `(K,)` class names, or numbers as text.
        images: Images that the file names, with boxes or without.
        relative: Whether coordinates are shares of the image.
        classes: What the member can find, where the file says so; else empty.
    """

    form: str
    images_K: Array
    boxes_K4: Floats
    scores_K: Floats
    labels_K: Array
    images: Sequence[str]
    relative: bool = False
    classes: tuple[str, ...] = ()


def read_found(path: Path) -> Found:
    """Read detections; what their numbers stand for is told by `boxes_of`.

    Args:
        path: A COCO results JSON file; a Parquet or CSV table with the columns `id`, `label`, `x1`,
            `y1`, `x2`, `y2` and `score`, one line per box (and one without a label for an image
            without boxes); or a folder of YOLO files (`class x y w h score`), one per image.

    Raises:
        PredictionError: It cannot be read, or lacks a part; rotated boxes.
    """
    if path.is_dir():
        return _from_yolo(path)
    if path.suffix.lower() == ".json":
        return _from_coco(read_json(path))
    return found_in_table(path)


def _from_coco(content: Any) -> Found:  # noqa: ANN401
    content = content.get("annotations") if isinstance(content, Mapping) else content
    needed = ("image_id", "category_id", "bbox", "score")
    entries = content if isinstance(content, list) else []
    whole = all(isinstance(one, Mapping) and all(key in one for key in needed) for one in entries)
    if not isinstance(content, list) or not whole:
        raise PredictionError(
            "the content is no COCO results file",
            f"a list of objects with {name_some(needed)}",
            "Write detections as COCO's evaluation takes them.",
        )
    images = [id_of(one["image_id"]) for one in entries]
    return Found(
        "coco",
        np.array(images, dtype=str),
        _corners(entries),
        _scores(entries),
        np.array([id_of(one["category_id"]) for one in entries], dtype=str),
        tuple(dict.fromkeys(images)),
    )


def _corners(entries: Sequence[Mapping[str, Any]]) -> Floats:
    """`(K, 4)` corners of corner, width and height."""
    boxes_K4 = _numbers([one["bbox"] for one in entries])
    if boxes_K4.shape != (len(entries), 4) and entries:
        for number, one in enumerate(entries):
            bbox_of(f"detection {number} of image '{id_of(one['image_id'])}'", one["bbox"])
    boxes_K4 = boxes_K4.reshape(-1, 4)
    return np.concatenate([boxes_K4[:, :2], boxes_K4[:, :2] + boxes_K4[:, 2:]], axis=1)


def _scores(entries: Sequence[Mapping[str, Any]]) -> Floats:
    scores_K = _numbers([one["score"] for one in entries])
    if scores_K.shape != (len(entries),):
        found = enumerate(entries)
        number, one = next(pair for pair in found if not is_number(pair[1]["score"]))
        raise PredictionError(
            f"detection {number} of image '{id_of(one['image_id'])}' has the score {one['score']!r}",
            "a number",
            "Correct it.",
        )
    return scores_K


def _numbers(values: Sequence[Any]) -> Floats:
    """The values as an array; an empty one if they are none or differ in their lengths."""
    try:
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError):
        return np.zeros((0, 0))


def _from_yolo(path: Path) -> Found:
    files = sorted(file for file in path.glob("*.txt") if file.name != "classes.txt")
    names, images, lines = yolo_names(path), list[str](), list[list[float]]()
    for file in files:
        own = yolo_lines(file, scores=True)
        images += [file.stem] * len(own)
        lines += own
    lines_K6 = np.array(lines, dtype=np.float64).reshape(-1, 6)
    half_K2 = lines_K6[:, 3:5] / 2
    corners_K4 = np.concatenate([lines_K6[:, 1:3] - half_K2, lines_K6[:, 1:3] + half_K2], axis=1)
    numbers_K = lines_K6[:, 0].astype(np.int64)
    labels = [names[n] if 0 <= n < len(names) else str(n) for n in numbers_K.tolist()]
    stems = tuple(file.stem for file in files)
    labels_K = np.array(labels, dtype=str)
    return Found(
        "yolo",
        np.array(images, dtype=str),
        corners_K4,
        lines_K6[:, 5],
        labels_K,
        stems,
        True,
        names,
    )


def found_in_table(path: Path) -> Found:
    """Read a Parquet or CSV table; see `read_found`.

    Raises:
        PredictionError: It cannot be read, lacks a column, or holds text among numbers, a box
            without a label or a label that is a fraction (each is named).
    """
    with named_errors(path):
        if not path.is_file():
            raise PredictionError(
                f"there is no file '{path}'", "a readable file", "Check the path."
            )
        if path.suffix.lower() not in (".parquet", ".csv"):
            raise PredictionError(
                f"'{path}' ends in '{path.suffix}'",
                "detections as .json (COCO results), .parquet, .csv or a folder of YOLO files",
                "Convert the file.",
            )
        table = read_arrow(path)
        about = {key.decode(): json.loads(value) for key, value in _about(table.schema.metadata)}
        columns, _ = columns_of(table)
        named = {name: columns[_called(name, columns)] for name in (ID, "label", *CORNERS, "score")}
        numbers = {name: _plain_numbers(name, named[name]) for name in (*CORNERS, "score")}
        images, labels_K = named[ID].astype(str), _labels(named["label"])
        kept = labels_K != ""
        corners_L4 = np.stack([numbers[name] for name in CORNERS], axis=1)
        _check_named(images, kept | ~np.isfinite(corners_L4).any(axis=1))
    boxes_K4 = corners_L4[kept]
    shares = bool(len(boxes_K4)) and bool((np.abs(boxes_K4) <= 1.5).all())
    classes = tuple(about.get(CLASSES, ()))
    return Found(
        "boxes",
        images[kept],
        boxes_K4,
        numbers["score"][kept],
        labels_K[kept],
        tuple(dict.fromkeys(images.tolist())),
        about.get(RELATIVE, shares),
        classes,
    )


def _check_named(images: Array, good_L: Array) -> None:
    """Refuse lines with a box and no label."""
    if not good_L.all():
        first = int(good_L.argmin())
        raise PredictionError(
            f"line {first + 1} has a box of row '{images[first]}' and no label "
            f"({counted(int((~good_L).sum()), 'such line')})",
            "a label for every box",
            "Write the label; only a line without any box has none.",
        )


def _plain_numbers(name: str, column: Array) -> Floats:
    texts = [] if column.dtype.kind in "fiub" else map(str, column.tolist())
    if strange := [text for text in texts if not _reads_as_number(text)]:
        raise PredictionError(
            f"the column '{name}' holds text: {name_some(list(dict.fromkeys(strange)))}",
            "numbers",
            "Correct them; an image without boxes has empty cells.",
        )
    if column.dtype.kind not in "fiub":
        column = np.where(column == "", "nan", column)
    return column.astype(np.float64)


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


def _labels(column: Array) -> Array:
    """`(L,)` names, or whole numbers as text; empty where there is none."""
    if column.dtype.kind != "f":
        return column.astype(str)
    known = ~np.isnan(column)
    if strange := [f"{value:g}" for value in column[known].tolist() if not value.is_integer()]:
        raise PredictionError(
            f"the labels hold {name_some(list(dict.fromkeys(strange)))}",
            "names, or whole numbers",
            "Correct them.",
        )
    return np.where(known, np.nan_to_num(column).astype(np.int64).astype(str), "")


def _about(metadata: Mapping[bytes, bytes] | None) -> Iterable[tuple[bytes, bytes]]:
    return [(k, v) for k, v in (metadata or {}).items() if k.startswith(b"fusetune.")]


def _called(name: str, columns: Mapping[str, Array]) -> str:
    """What the table calls a column."""
    for other in (name, *CALLED.get(name, ())):
        if other in columns:
            return other
    if "angle" in columns or "theta" in columns:
        raise PredictionError(
            "the table has a column of angles: the boxes are rotated",
            "upright boxes: x1, y1, x2, y2",
            "Rotated boxes are not supported; give the upright boxes around them.",
        )
    raise no_column(columns, name)
