# SPDX-License-Identifier: Apache-2.0
"""Numbers and sets of labels from a table's columns.

Shapes: N rows, C classes, D numbers.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusetune.data.labels import named_labels
from fusetune.errors import DataError
from fusetune.predictions.kinds import Ids
from fusetune.predictions.targets import LabelSets, Numbers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["label_sets", "listed_sets_of", "marked_sets_of", "numbers_of"]

MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def numbers_of(table: "pa.Table", columns: Sequence[str], ids: Ids) -> Numbers:
    """One number per row and column.

    Args:
        table: Numbers, or text that reads as such.
        columns: D of its columns.
        ids: `(N,)` row names.

    Raises:
        DataError: A cell that is empty or no finite number; its row and column are named.
    """
    parts = []
    for column in columns:
        values = [_number(value) for value in table[column].to_pylist()]
        for row, value in enumerate(values):
            if value is None:
                raise _no_target(ids[row], column, table, row, "a finite number in every row")
        parts.append(np.array(values, dtype=np.float64))
    return Numbers(ids, tuple(columns), np.stack(parts, axis=1))


def marked_sets_of(table: "pa.Table", columns: Sequence[str], ids: Ids) -> LabelSets:
    """Sets of labels from one column of 0 and 1 for each label.

    Raises:
        DataError: A cell holds something else; its row and column are named.
    """
    parts = []
    for column in columns:
        marks = [MARKS.get(str(value).lower()) for value in table[column].to_pylist()]
        for row, mark in enumerate(marks):
            if mark is None:
                raise _no_target(ids[row], column, table, row, "0 or 1 in every row")
        parts.append(np.array(marks, dtype=bool))
    return LabelSets(ids, tuple(columns), np.stack(parts, axis=1))


def listed_sets_of(table: "pa.Table", column: str, ids: Ids, separator: str) -> list[list[Any]]:
    """For every row its labels, from a column of lists or of text.

    Args:
        table: A list in every row (`[]` is no label), or text.
        column: Of the lists.
        ids: `(N,)` row names, for messages.
        separator: Between the labels of a text.

    Raises:
        DataError: An empty cell that is no list, or a column of something else.
    """
    found: list[list[Any]] = []
    for row, value in enumerate(table[column].to_pylist()):
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(separator)]
            found.append([part for part in parts if part])
        elif isinstance(value, list) and None not in value:
            found.append(value)
        else:
            raise _no_target(ids[row], column, table, row, "a list of labels in every row")
    return found


def label_sets(
    found: Sequence[Sequence[Any]], ids: Ids, names: tuple[str, ...], *, given: bool
) -> LabelSets:
    """Sets of labels from the labels of every row; whole numbers are positions in the names.

    Args:
        found: N lists of class names or whole numbers.
        ids: `(N,)` row names.
        names: C class names, or none.
        given: As `named_labels` has it.

    Raises:
        DataError: A label outside the names, or no label in any row.
    """
    rows = np.repeat(np.arange(len(found)), [len(labels) for labels in found])
    flat = [label for labels in found for label in labels]
    labels, known = named_labels(flat, ids[rows], names, given=given)
    classes = known or tuple(sorted(set(labels.tolist())))
    if not classes:
        raise DataError(
            "no row has a label", "labels in at least some rows", "Name their column in data.label."
        )
    position = {name: code for code, name in enumerate(classes)}
    present_NC = np.zeros((len(found), len(classes)), dtype=bool)
    present_NC[rows, [position[name] for name in labels.tolist()]] = True
    return LabelSets(ids, classes, present_NC)


def _number(value: Any) -> float | None:  # noqa: ANN401
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _no_target(name: str, column: str, table: "pa.Table", row: int, expected: str) -> DataError:
    value = table[column][row].as_py()
    held = "is empty" if value in (None, "") else f"holds {value!r}"
    return DataError(
        f"the column '{column}' {held} in row '{name}'",
        expected,
        "Correct the cell, remove the row, or name another column in data.label.",
    )
