# SPDX-License-Identifier: Apache-2.0
"""Annotated objects beside the images that they are of.

Shapes: N rows, K objects of all rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fusetune.errors import DataError, counted, name_some, unknown_name
from fusetune.predictions.detection.annotations import Annotations
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, as_ids
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.targets import replaced

__all__ = ["in_pixels", "of_classes", "with_unlabeled"]


def in_pixels(objects: Objects, sizes_N2: Floats) -> Objects:
    """The same objects in pixels of the images, whose sizes they now know.

    Args:
        objects: In pixels, with the sizes that the annotations state or none, or in shares.
        sizes_N2: `(N, 2)` width and height of the images.

    Raises:
        DataError: The annotations state other sizes, or objects lie outside of their image.
    """
    if objects.relative:
        factors_K2 = sizes_N2[objects.rows_K]
        boxes_K4 = objects.boxes_K4 * np.tile(factors_K2, 2)
        areas_K = np.asarray(objects.areas_K) * factors_K2.prod(axis=1)
        return replaced(
            objects, boxes_K4=boxes_K4, areas_K=areas_K, relative=False, sizes_N2=sizes_N2
        )
    if objects.sizes_N2 is not None:
        _check_sizes(objects, sizes_N2)
    edges_K4 = np.tile(sizes_N2, 2)[objects.rows_K]
    outside_K = ((objects.boxes_K4 < -1) | (objects.boxes_K4 > edges_K4 + 1)).any(axis=1)
    if outside_K.any():
        first = int(outside_K.argmax())
        row = objects.rows_K[first]
        numbers = ", ".join(f"{value:g}" for value in objects.boxes_K4[first])
        width, height = sizes_N2[row]
        raise DataError(
            f"a box of '{objects.ids[row]}' sticks out of its image: ({numbers}) in {width:g} by "
            f"{height:g} ({counted(int(outside_K.sum()), 'such box')})",
            "boxes inside their image",
            "State width and height in the annotations and write repair: true to cut them.",
        )
    return replaced(objects, sizes_N2=sizes_N2)


def _check_sizes(objects: Objects, sizes_N2: Floats) -> None:
    assert objects.sizes_N2 is not None
    other_N = (objects.sizes_N2 != sizes_N2).any(axis=1)
    if other_N.any():
        row = int(other_N.argmax())
        said, seen = (
            " by ".join(f"{side:g}" for side in sizes[row])
            for sizes in (objects.sizes_N2, sizes_N2)
        )
        raise DataError(
            f"'{objects.ids[row]}' is {said} pixels by its annotation and {seen} in its file "
            f"({counted(int(other_N.sum()), 'such image')})",
            "annotations of these very files",
            "Give the images that were annotated, not resized or turned ones.",
        )


def of_classes(objects: Objects, chosen: Sequence[str] | None) -> tuple[Objects, tuple[str, ...]]:
    """The objects of the chosen classes that there are any of, and notes on what was left out.

    Raises:
        UnknownName: A chosen class that the annotations do not have.
    """
    for name in chosen or ():
        if name not in objects.classes:
            raise unknown_name(
                "class", name, objects.classes, where="in data.classes", error=DataError
            )
    counts_C = np.bincount(objects.labels_K, minlength=len(objects.classes))
    wanted = objects.classes if chosen is None else tuple(chosen)
    kept = [name for name in wanted if counts_C[objects.classes.index(name)]]
    notes = []
    if empty := [name for name in wanted if name not in kept]:
        notes.append(
            f"{counted(len(empty), 'class')} without an object left out: {name_some(empty)}"
        )
    place_C = np.array([kept.index(n) if n in kept else -1 for n in objects.classes] or [-1])
    labels_K = place_C[objects.labels_K]
    if dropped := int((labels_K < 0).sum()):
        notes.append(f"{counted(dropped, 'object')} of other classes left out")
    stay_K = labels_K >= 0
    counts_N = np.bincount(objects.rows_K[stay_K], minlength=len(objects))
    made = replaced(objects, classes=tuple(kept), offsets=offsets_of(counts_N))
    arrays = {"boxes_K4": objects.boxes_K4, "crowd_K": objects.crowd_K}
    arrays |= {"ignored_K": objects.ignored_K, "areas_K": objects.areas_K}
    parts = {name: np.asarray(array)[stay_K] for name, array in arrays.items()}
    return replaced(made, labels_K=labels_K[stay_K], **parts), tuple(notes)


def with_unlabeled(known: Annotations, names: Sequence[str]) -> Annotations:
    """The annotations with rows without objects for images that have no label file.

    Args:
        known: Of YOLO files.
        names: Of all images, without their endings.
    """
    more = sorted(set(names) - set(known.stems.tolist()))
    ids = as_ids([*known.stems.tolist(), *more])
    offsets = known.objects.offsets
    longer = np.concatenate([offsets, np.full(len(more), offsets[-1])])
    return replace(known, objects=replaced(known.objects, ids=ids, offsets=longer), stems=ids)
