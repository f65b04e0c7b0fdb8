# SPDX-License-Identifier: Apache-2.0
"""Detection files and their annotations, read and lined up; and detections of new images.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import InvalidValue, PredictionError, counted
from fusetune.predictions.detection.annotations import Annotations, read_annotations
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.detections import boxes_of
from fusetune.predictions.detection.found import Found, read_found
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import as_ids
from fusetune.predictions.reading import Form
from fusetune.predictions.stack import Stack
from fusetune.predictions.tables import named_errors
from fusetune.predictions.truth import Truth

__all__ = ["new_boxes", "read_detections"]


def read_detections(
    files: Mapping[str, Path], targets: Path, *, repair: bool, classes: Sequence[str], strict: bool
) -> tuple[Stack[Any], Truth, dict[str, Form], tuple[str, ...]]:
    """Members' boxes of the annotated images; an image that a member does not name has none.

    Args:
        files: Member → its file or folder; see `read_found`.
        targets: See `read_annotations`.
        repair: Mend annotations; see there.
        classes: Names of the numbers in YOLO files.
        strict: Boxes of images without annotations are an error, else they are left out.

    Returns:
        The stack, the truth, how each member's file was read, and what the user should know.

    Raises:
        PredictionError: Files that cannot be read or do not fit together.
    """
    known = read_annotations(targets, repair=repair, classes=classes)
    if classes:
        known = replace(known, numbers={str(n): name for n, name in enumerate(classes)})
    if not len(known.objects):
        raise PredictionError(
            f"'{targets}' lists no image", "annotated images", "Give those of the detections."
        )
    parts: dict[str, Boxes] = {}
    forms: dict[str, Form] = {}
    notes = list(known.notes)
    for name, path in files.items():
        with named_errors(path):
            found = read_found(path)
            parts[name] = boxes_of(found, known, strangers=not strict)
            forms[name] = _form(found, known, parts[name])
        if dropped := len(found.scores_K) - len(parts[name].scores_K):
            left_out = f"{counted(dropped, 'detection')} of {name} were left out"
            notes.append(f"{left_out}: their images have no annotations.")
    stack = Stack.align(parts, ids=known.objects.ids, classes=known.objects.classes)
    return stack, Truth(known.objects, Boxes), forms, tuple(notes)


def _form(found: Found, known: Annotations, boxes: Boxes) -> Form:
    called = known.numbers if found.form == "yolo" else known.categories
    return Form(found.form, tuple(called.values()), classes=boxes.classes, numbers=tuple(called))


def new_boxes(
    files: Mapping[str, Path], forms: Mapping[str, Form], classes: Sequence[str]
) -> dict[str, Boxes]:
    """Detections of new images by the members of a fusion of files, read as those files were.

    The images are those that any file names, in the order of their numbers or names.

    Raises:
        PredictionError: A file that cannot be read, or shares of the image beside pixels.
    """
    found: dict[str, Found] = {}
    for name, path in files.items():
        with named_errors(path):
            found[name] = read_found(path)
    images = {image for one in found.values() for image in one.images}
    ids = as_ids(sorted(images, key=lambda name: (not name.isdigit(), len(name), name)))
    none = np.zeros(len(ids) + 1, dtype=np.int64)
    relative = all(one.relative for one in found.values() if len(one.scores_K))
    empty = Objects(ids, tuple(classes), none, np.zeros((0, 4)), none[:0], relative=relative)
    read = {}
    for name, one in found.items():
        form = forms[name]
        if one.form != form.form:
            raise InvalidValue(
                f"'{name}' was fused from a file of the form '{form.form}', and this one is '{one.form}'",
                "detections in the same form",
                "Write them as those that were fused.",
            )
        called = dict(zip(form.numbers, form.columns, strict=True))
        known = Annotations(empty, ids, called, called)
        with named_errors(files[name]):
            read[name] = boxes_of(one, known, classes=form.classes)
    return read
