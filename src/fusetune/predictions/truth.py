# SPDX-License-Identifier: Apache-2.0
"""Targets files of any task: classes, sets of classes, or numbers, and perhaps roles.

Shapes: N rows, D numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusetune.errors import InvalidValue, PredictionError, unknown_name
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import (
    Array,
    Floats,
    Ids,
    Kind,
    Marginals,
    Probabilities,
    Values,
)
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.tables import ROLE, TARGET, Table, named_errors, read_table
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

__all__ = ["KINDS", "Truth", "check_task", "read_truth_of", "truth_of"]


@dataclass(frozen=True, eq=False)
class Truth:
    """A targets file.

    Args:
        targets: The truth of every row.
        kind: The kind of prediction that it judges.
        roles_N: `(N,)` roles, where the file has a column `role`.
    """

    targets: GroundTruth
    kind: type[Kind]
    roles_N: Array | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Class names, or names of numbers."""
        if isinstance(self.targets, Objects | LabelMaps):
            return self.targets.classes
        if isinstance(self.targets, Numbers):
            return self.targets.names
        assert isinstance(self.targets, Targets | LabelSets)
        return self.targets.classes


KINDS: dict[str, type[Kind]] = {
    "classification": Probabilities,
    "multilabel": Marginals,
    "regression": Values,
    "object_detection": Boxes,
    "semantic_segmentation": Masks,
}


def read_truth_of(path: Path, task: str = "auto") -> Truth:
    """Read a targets file of any task.

    Args:
        path: A table with `id` and one column `target` (names or whole numbers: classification;
            fractions: regression), or several columns (all 0 and 1: multi-label; else
            regression), and perhaps a column `role`.
        task: `auto` infers it; `classification`, `multilabel` or `regression` says it, which
            whole numbers that are quantities (ratings, counts) need.

    Raises:
        UsageError: A file that cannot be read, an empty or strange target (its row is named).
    """
    check_task(task)
    with named_errors(path):
        return truth_of(read_table(path), task)


def check_task(task: str) -> None:
    """Refuse what is neither `auto` nor a task.

    Raises:
        UnknownName: It is neither.
    """
    if task not in ("auto", *KINDS):
        raise unknown_name("task", task, ("auto", *KINDS), where="--task")


def truth_of(table: Table, task: str) -> Truth:
    """The truth that a table holds; see `read_truth_of`.

    Raises:
        PredictionError: An empty or strange target (its row is named), or no such column.
    """
    ids = _ids(table)
    names = (TARGET,) if TARGET in table.columns else table.names
    if not names or (names != (TARGET,) and len(names) < 2 and task == "auto"):
        table.texts(TARGET)  # says which column is missing
    if not len(ids):
        raise PredictionError(
            "there is no row", "the targets of the rows that are predicted", "Write them."
        )
    if task == "auto":
        task = _task_of(table, names)
    roles_N = table.texts(ROLE) if ROLE in table.columns else None
    if task == "classification":
        table.texts(TARGET) if TARGET not in names else None
        return Truth(Targets.from_names(ids, table.texts(TARGET)), Probabilities, roles_N)
    values_ND = _all_numbers(table, names)
    if task == "regression":
        return Truth(Numbers(ids, names, values_ND), Values, roles_N)
    if not np.isin(values_ND, (0, 1)).all():
        raise PredictionError(
            "some targets are neither 0 nor 1", "0 or 1 for every label", "Correct them."
        )
    return Truth(LabelSets(ids, names, values_ND > 0), Marginals, roles_N)


def _task_of(table: Table, names: Sequence[str]) -> str:
    if names == (TARGET,):
        values_N = table.columns[TARGET]
        if values_N.dtype.kind == "f":
            return "regression"
        fractions = values_N.dtype.kind == "U" and any(map(_is_fraction, values_N[:1000].tolist()))
        return "regression" if fractions and _as_numbers(values_N) is not None else "classification"
    numbers = [_as_numbers(table.columns[name]) for name in names]
    if any(values_N is None for values_N in numbers):
        table.texts(TARGET)  # says that there is no column of that name
    binary = all(np.isin(values_N, (0, 1)).all() for values_N in numbers if values_N is not None)
    return "multilabel" if binary else "regression"


def _all_numbers(table: Table, names: Sequence[str]) -> Floats:
    columns = []
    for name in names:
        if name in table.empty:
            table.texts(name)  # names the row
        values_N = _as_numbers(table.columns[name])
        if values_N is None or not np.isfinite(values_N).all():
            raise PredictionError(
                f"the column '{name}' holds values that are no finite numbers",
                "a number in every row",
                "Correct these cells, or remove the rows.",
            )
        columns.append(values_N)
    return np.stack(columns, axis=1)


def _as_numbers(values_N: Array) -> Floats | None:
    try:
        return values_N.astype(np.float64)
    except ValueError:
        return None


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer() or "." in text or "e" in text.lower()
    except (ValueError, OverflowError):
        return False


def _ids(table: Table) -> Ids:
    if table.ids is None:
        raise InvalidValue(
            "the targets are an array without ids", "a table with ids", "Write a CSV file."
        )
    return table.ids
