# SPDX-License-Identifier: Apache-2.0
"""Detections from what files give, and as tables with a line per box.

Shapes: N rows, K boxes, L lines of a table.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusetune.errors import PredictionError, counted, name_some
from fusetune.predictions.detection.annotations import Annotations
from fusetune.predictions.detection.boxes import Boxes, check_boxes
from fusetune.predictions.detection.found import (
    CLASSES,
    CORNERS,
    RELATIVE,
    Found,
    found_in_table,
)
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array
from fusetune.predictions.ragged import Offsets
from fusetune.predictions.tables import ID, named_errors, write_table
from fusetune.predictions.targets import replaced

__all__ = ["box_columns", "boxes_of", "object_columns", "read_boxes", "write_boxes"]


def boxes_of(
    found: Found, known: Annotations, *, strangers: bool = False, classes: Sequence[str] = ()
) -> Boxes:
    """A member's detections of the images that are known.

    Args:
        found: As read.
        known: Says which images there are, in which unit and order, and what numbers stand for.
        strangers: Leave out boxes of other images; else they are an error.
        classes: What the member can find, beside what it found; empty: what the file says.

    Raises:
        PredictionError: Other images, a class that nothing is known of, relative boxes of images
            whose size is not known, or pixels where the truth is relative.
    """
    truth = known.objects
    names = known.stems if found.form == "yolo" else truth.ids
    row_of = {name: row for row, name in enumerate(names.tolist())}
    rows_K = np.array([row_of.get(name, -1) for name in found.images_K.tolist()], dtype=np.int64)
    if (rows_K < 0).any() and not strangers:
        strange = list(dict.fromkeys(found.images_K[rows_K < 0].tolist()))
        raise PredictionError(
            f"there are no annotations of {counted(len(strange), 'image')}: {name_some(strange)}",
            "detections of the annotated images",
            "Give the annotations of these images, or pass --missing renormalize to leave them out.",
        )
    kept = rows_K >= 0
    called = known.numbers if found.form == "yolo" else known.categories
    labels = [called.get(label, label) for label in found.labels_K[kept].tolist()]
    able = tuple(dict.fromkeys((*(classes or found.classes), *sorted(labels))))
    unknown = sorted(set(labels) - {*truth.classes, *found.classes})
    if unknown and (found.form != "boxes" or not set(labels) & set(truth.classes)):
        raise PredictionError(
            f"the boxes are of the classes {name_some(unknown)}",
            f"classes, or their numbers, among {name_some(truth.classes)}",
            "Rename them, or pass --classes with the names of the numbers, in their order.",
        )
    place = {name: index for index, name in enumerate(able)}
    labels_K = np.array([place[label] for label in labels], dtype=np.int64)
    corners = (found.boxes_K4[kept], found.scores_K[kept], labels_K)
    boxes = Boxes.from_entries(truth.ids, able, rows_K[kept], corners)
    check_boxes(boxes.boxes_K4, boxes.ids, boxes.rows_K, relative=found.relative)
    return _in_unit(replaced(boxes, relative=found.relative), truth)


def _in_unit(boxes: Boxes, truth: Objects) -> Boxes:
    """The boxes in the truth's unit; shares become pixels where the images' sizes are known."""
    if not len(boxes.scores_K):
        return replaced(boxes, relative=truth.relative)  # none are of either unit
    if boxes.relative and truth.sizes_N2 is not None:
        return boxes.scaled(truth.sizes_N2, relative=False)
    if boxes.relative != truth.relative:
        unit = {True: "shares of the image", False: "pixels"}
        raise PredictionError(
            f"the boxes are {unit[boxes.relative]} and the annotations {unit[truth.relative]}",
            "one unit, or the images' width and height to convert by",
            "Write boxes in the annotations' unit, or annotations with the images' sizes.",
        )
    return boxes


def write_boxes(path: Path, boxes: Boxes) -> None:
    """Write detections as a table; see `box_columns`. Parquet also keeps the classes and the unit."""
    about = {CLASSES: json.dumps(boxes.classes), RELATIVE: json.dumps(boxes.relative)}
    write_table(path, box_columns(boxes), about)


def read_boxes(path: Path) -> Boxes:
    """Read what `write_boxes` wrote, in Parquet: rows, classes and unit as they were.

    Raises:
        PredictionError: It cannot be read, or lacks a part.
    """
    with named_errors(path):
        found = found_in_table(path)
        row_of = {name: row for row, name in enumerate(found.images)}
        rows_K = np.array([row_of[name] for name in found.images_K.tolist()], dtype=np.int64)
        place = {name: index for index, name in enumerate(found.classes)}
        labels_K = np.array([place[name] for name in found.labels_K.tolist()], dtype=np.int64)
        corners = (found.boxes_K4, found.scores_K, labels_K)
        boxes = Boxes.from_entries(np.array(found.images, str), found.classes, rows_K, corners)
        return replaced(boxes, relative=found.relative)


def box_columns(boxes: Boxes) -> dict[str, Array]:
    """A line per box: `id`, `label`, corners, `score`; for a row without any, a line of NaN."""
    lines, entries = _lines(boxes.offsets)
    labels = np.array(boxes.classes or ("",), dtype=str)[_filled(boxes.labels_K, entries, 0)]
    columns: dict[str, Array] = {
        ID: boxes.ids[lines],
        "label": np.where(entries < 0, "", labels).astype(str),
    }
    for index, name in enumerate(CORNERS):
        columns[name] = _filled(boxes.boxes_K4[:, index], entries, np.nan)
    return columns | {"score": _filled(boxes.scores_K, entries, np.nan)}


def object_columns(objects: Objects) -> dict[str, Array]:
    """As `box_columns`, with `crowd`, `ignored` and `area` in the place of scores."""
    lines, entries = _lines(objects.offsets)
    labels = np.array(objects.classes or ("",), dtype=str)[_filled(objects.labels_K, entries, 0)]
    assert objects.crowd_K is not None and objects.ignored_K is not None
    assert objects.areas_K is not None
    columns: dict[str, Array] = {
        ID: objects.ids[lines],
        "label": np.where(entries < 0, "", labels).astype(str),
    }
    for index, name in enumerate(CORNERS):
        columns[name] = _filled(objects.boxes_K4[:, index], entries, np.nan)
    return columns | {
        "crowd": _filled(objects.crowd_K.astype(np.int8), entries, 0),
        "ignored": _filled(objects.ignored_K.astype(np.int8), entries, 0),
        "area": _filled(objects.areas_K, entries, np.nan),
    }


def _lines(offsets: Offsets) -> tuple[Offsets, Offsets]:
    """`(L,)` row and entry of each line; rows without entries have one line with entry -1."""
    counts_N = np.diff(offsets)
    lines = np.repeat(np.arange(len(counts_N)), np.maximum(counts_N, 1))
    entries = np.full(len(lines), -1, dtype=np.int64)
    entries[np.repeat(counts_N > 0, np.maximum(counts_N, 1))] = np.arange(offsets[-1])
    return lines, entries


def _filled(values_K: Array, entries: Offsets, empty: float) -> Array:
    """`(L,)` the values of the lines' entries, and something else where there is none."""
    wider = np.append(values_K, np.asarray([empty]).astype(values_K.dtype))
    return wider[entries]
