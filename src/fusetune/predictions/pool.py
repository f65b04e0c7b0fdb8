# SPDX-License-Identifier: Apache-2.0
"""Prediction files and their targets, read and lined up: what fusing starts from.

Shapes: M members, N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fusetune.errors import InvalidValue, MisalignedMembers, PredictionError, name_some
from fusetune.predictions.detection.annotations import holds_annotations
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.pool import new_boxes, read_detections
from fusetune.predictions.kinds import Array, Columnar, Ids, Kind, Probabilities, Values
from fusetune.predictions.reading import Form, infer_form, read_prediction
from fusetune.predictions.segmentation.files import holds_masks
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pool import MaskOptions, new_masks, read_masks
from fusetune.predictions.stack import RESERVED_MEMBERS, Stack, rows_of
from fusetune.predictions.tables import named_errors, read_table
from fusetune.predictions.targets import GroundTruth, Targets
from fusetune.predictions.truth import Truth, read_truth_of

__all__ = ["Pool", "Reading", "member_names", "read_members", "read_pool"]

Missing = Literal["error", "renormalize"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the user says of the files.

    Args:
        task: `auto`, `classification`, `multilabel`, `regression`, `object_detection` or
            `semantic_segmentation`.
        forms: Member → form, where it is not to be inferred.
        classes: Names of the columns of files without names (npy).
        repair: Mend annotations of detection that are wrong, see `read_annotations`; or label maps, see
            `MaskOptions`.
        missing: What to do with a row that a member does not predict: `error`, or `renormalize`:
            the other members' mean stands in for it, which at equal weights is the same as
            combining the members that are there. Of detections, boxes of images that have no
            annotations are then left out; of masks, those of images without a label map.
        ignore_index: Number in label maps that means that a pixel is of no class; None: none does.
    """

    task: str = "auto"
    forms: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    missing: Missing = "error"
    repair: bool = False
    ignore_index: int | None = 255

    def __post_init__(self) -> None:
        if self.missing not in ("error", "renormalize"):
            raise InvalidValue(
                f"--missing is '{self.missing}'", "error or renormalize", "Choose one of these."
            )

    @property
    def of_masks(self) -> MaskOptions:
        """What of it folders of masks are read by."""
        return MaskOptions(
            forms=self.forms,
            classes=self.classes,
            ignored=self.ignore_index,
            repair=self.repair,
            missing=self.missing == "renormalize",
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """Members' predictions of the targets' rows, in their order.

    Args:
        stack: The predictions, with the feature vectors of files that hold such.
        truth: The targets.
        forms: Member → how its file was read.
        notes: What the user should know of the reading.
    """

    stack: Stack[Any]
    truth: Truth
    forms: Mapping[str, Form]
    notes: tuple[str, ...] = ()


def read_pool(files: Sequence[Path], targets: Path, reading: Reading) -> Pool:
    """Read and align prediction files and their targets; a member is called like its file.

    Raises:
        UsageError: Files that cannot be read, whose form cannot be told, or that do not fit
            together (rows and classes are counted and named).
    """
    names = member_names(files)
    if unknown := sorted(set(reading.forms) - set(names)):
        raise InvalidValue(
            f"--form names {name_some(unknown)}",
            f"members among {name_some(names)}",
            "A member is called like its file, without the ending.",
        )
    if reading.task == "semantic_segmentation" or (reading.task == "auto" and holds_masks(targets)):
        return Pool(*read_masks(dict(zip(names, files, strict=True)), targets, reading.of_masks))
    if holds_annotations(targets) or reading.task == "object_detection":
        return Pool(*_detections(files, targets, reading))
    truth = read_truth_of(targets, reading.task)
    predictions: dict[str, Columnar] = {}
    features: dict[str, Values] = {}
    forms: dict[str, Form] = {}
    for name, path in zip(names, files, strict=True):
        with named_errors(path):
            table = read_table(path)
            form = infer_form(table, truth, reading.forms.get(name), reading.classes)
            prediction = read_prediction(table, form, truth)
        forms[name] = form
        if form.form == "features":
            assert isinstance(prediction, Values)
            features[name] = prediction
        else:
            predictions[name] = prediction
    return _aligned(predictions, features, truth, forms, targets.name, reading.missing)


def _detections(
    files: Sequence[Path], targets: Path, reading: Reading
) -> tuple[Stack[Any], Truth, Mapping[str, Form], tuple[str, ...]]:
    """The pool of detection files; see `read_detections`."""
    if reading.task not in ("auto", "object_detection"):
        raise InvalidValue(
            f"the task is '{reading.task}', and '{targets}' holds annotations of objects",
            "object_detection, or a table of targets",
            "Leave --task out, or give other targets.",
        )
    if not holds_annotations(targets):
        raise InvalidValue(
            f"'{targets}' holds no annotations of objects",
            "a COCO JSON file, or a folder of YOLO or Pascal VOC labels",
            "Convert the annotations.",
        )
    if reading.forms:
        raise InvalidValue(
            f"--form was given for {name_some(list(reading.forms))}",
            "detections, whose form is that of their file",
            "Leave --form out.",
        )
    return read_detections(
        dict(zip(member_names(files), files, strict=True)),
        targets,
        repair=reading.repair,
        classes=reading.classes,
        strict=reading.missing == "error",
    )


def read_members(
    files: Sequence[Path], forms: Mapping[str, Form], kind: type[Kind], columns: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Values]]:
    """Predictions of new rows by the members of a fusion of files, read as those files were.

    Returns:
        Member → prediction, and name → feature vectors.

    Raises:
        UsageError: A file that is called like no member, or cannot be read.
    """
    names = member_names(files)
    if strange := [name for name in names if name not in forms]:
        raise MisalignedMembers(
            f"the files {name_some(strange)} are called like no member",
            f"files called {name_some(list(forms))}",
            "Rename them like the files that were fused.",
        )
    if kind is Masks:
        return dict(new_masks(dict(zip(names, files, strict=True)), forms)), {}
    if kind is Boxes:
        return dict(new_boxes(dict(zip(names, files, strict=True)), forms, columns)), {}
    read: dict[str, Columnar] = {}
    features: dict[str, Values] = {}
    for name, path in zip(names, files, strict=True):
        with named_errors(path):
            table = read_table(path)
            num_rows = len(next(iter(table.columns.values()), ()))
            ids = np.arange(num_rows).astype(str) if table.ids is None else table.ids
            no_targets = Truth(_NoTargets(ids, tuple(columns)), kind)
            prediction = read_prediction(table, forms[name], no_targets)
        if forms[name].form == "features":
            assert isinstance(prediction, Values)
            features[name] = prediction
        else:
            read[name] = prediction
    return read, features


class _NoTargets(Targets):
    """Stands where only rows and class names are read."""

    def __init__(self, ids: Ids, classes: tuple[str, ...]) -> None:
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "classes", classes)


def member_names(files: Sequence[Path]) -> list[str]:
    """What the members are called: like their files, or if these are called alike, like their folders.

    So `a/test.parquet` and `b/test.parquet`, as a run folder has them, are `a` and `b`.

    Raises:
        InvalidValue: Two files are called alike, and folders too, or one like a fusion.
    """
    stems = [file.stem for file in files]
    folders = [file.absolute().parent.name for file in files]
    if len(set(stems)) < len(stems) == len(set(folders)):
        stems = folders
    if odd := {stem for stem in stems if stems.count(stem) > 1 or stem in RESERVED_MEMBERS}:
        raise InvalidValue(
            f"{name_some(sorted(odd))} cannot be the name of one member",
            f"files of different names, none called {', '.join(RESERVED_MEMBERS)}",
            "Rename the files: a member is called like its file, or like its folder.",
        )
    return stems


def _aligned(
    predictions: dict[str, Columnar],
    features: Mapping[str, Values],
    truth: Truth,
    forms: Mapping[str, Form],
    targets_name: str,
    missing: Missing,
) -> Pool:
    if not predictions:
        raise MisalignedMembers(
            "no file holds predictions", "at least one member", "Name a prediction file."
        )
    _check_levels(predictions)
    ids, notes = truth.targets.ids, list[str]()
    if missing == "renormalize":
        ids, predictions, notes = _filled(predictions, ids)
        rows = rows_of(truth.targets.ids, ids)
        roles_N = None if truth.roles_N is None else truth.roles_N[rows]
        truth = Truth(truth.targets.take(rows), truth.kind, roles_N)
    else:
        _check_rows(predictions, truth.targets, targets_name)
    stack = Stack.align(predictions, ids=ids, features=features)
    if isinstance(truth.targets, Targets):
        known = Targets.from_names(ids, truth.targets.names(), stack.classes)
        truth = Truth(known, truth.kind, truth.roles_N)
    return Pool(stack, truth, forms, tuple(notes))


def _check_rows(
    predictions: Mapping[str, Columnar], targets: GroundTruth, targets_name: str
) -> None:
    """Every member has exactly the targets' rows; the targets stand in as one more member."""
    ones = np.ones((len(targets), 1), dtype=np.float32)
    same: dict[str, Kind] = {**predictions, targets_name: Probabilities(targets.ids, ("",), ones)}
    Stack.align(same)


def _filled(
    predictions: Mapping[str, Columnar], wanted: Ids
) -> tuple[Ids, dict[str, Columnar], list[str]]:
    """Rows that at least one member and the targets have; gaps filled by the others' mean."""
    rows = {name: rows_of(part.ids, wanted) for name, part in predictions.items()}
    counts_N = np.sum([at_N >= 0 for at_N in rows.values()], axis=0)
    kept = np.flatnonzero(counts_N > 0)
    if not len(kept):
        raise MisalignedMembers(
            "members and targets have no row in common", "rows with the same ids", "Check the ids."
        )
    columns = tuple(dict.fromkeys(c for part in predictions.values() for c in part.columns))
    if any(set(part.columns) != set(columns) for part in predictions.values()):
        raise PredictionError(
            "members know different classes, and lack rows",
            "the same classes from all members where rows are missing",
            "Predict the missing rows, or the missing classes.",
        )
    kept_rows = {name: at_N[kept] for name, at_N in rows.items()}
    filled = _filled_rows(predictions, kept_rows, wanted[kept], columns)
    notes = []
    for name, part in predictions.items():
        if absent := int((kept_rows[name] < 0).sum()):
            notes.append(
                f"{name} does not predict {absent:,} of {len(kept):,} rows; "
                "the other members' mean stands in for it."
            )
        if strange := len(part) - int((rows[name] >= 0).sum()):
            notes.append(f"{strange:,} rows of {name} have no target and were left out.")
    if dropped := len(wanted) - len(kept):
        notes.append(f"{dropped:,} rows with a target are predicted by no member.")
    return wanted[kept], filled, notes


def _filled_rows(
    predictions: Mapping[str, Columnar],
    rows: Mapping[str, Array],
    ids: Ids,
    columns: tuple[str, ...],
) -> dict[str, Columnar]:
    """Members' predictions of the rows; where one has none (-1), the mean of those that do."""
    arrays = {}
    for name, part in predictions.items():
        order = [part.columns.index(column) for column in columns]
        arrays[name] = part.array_NC[rows[name]][:, order]
        arrays[name][rows[name] < 0] = 0
    counts_N = np.sum([at_N >= 0 for at_N in rows.values()], axis=0)
    mean_NC = np.sum(list(arrays.values()), axis=0, dtype=np.float64) / counts_N[:, None]
    for name, array_NC in arrays.items():
        array_NC[rows[name] < 0] = mean_NC[rows[name] < 0]
    return {
        name: part.trusted(part, ids, columns, arrays[name]) for name, part in predictions.items()
    }


def _check_levels(predictions: Mapping[str, Columnar]) -> None:
    levels = {name: part.levels for name, part in predictions.items() if isinstance(part, Values)}
    if len(set(levels.values())) > 1:
        one = next(iter(levels))
        other = next(name for name in levels if levels[name] != levels[one])
        raise MisalignedMembers(
            f"'{one}' gives {_said(levels[one])} and '{other}' {_said(levels[other])}",
            "the same quantiles, or plain values, from every member",
            "Leave one of them out, or predict the same quantiles with it.",
        )


def _said(levels: Sequence[float]) -> str:
    return f"the quantiles {', '.join(f'{v:g}' for v in levels)}" if levels else "plain values"
