# SPDX-License-Identifier: Apache-2.0
"""Class names from what files hold: names, whole numbers, or whole numbers and a list of names.

Shapes: N rows, C classes.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.data.dataset import check_path
from fusetune.errors import DataError, name_some
from fusetune.predictions.kinds import Ids

__all__ = ["CLASSES_FILE", "class_names", "named_labels"]

CLASSES_FILE = "classes.txt"
"""Names of whole-number labels, one a line, in a file of this name beside the data."""

WHOLE = re.compile(r"0|[1-9][0-9]*")


def class_names(given: tuple[str, ...] | Path | None, data: Path) -> tuple[str, ...]:
    """Class names from a recipe, a file, or the `classes.txt` beside the data; else none.

    Args:
        given: Names, or a text file with one name a line; None: `classes.txt` beside `data`, if
            it is there.
        data: The file that holds the labels.

    Raises:
        DataError: No such file, an empty line in it, or a name twice.
    """
    where = "data.classes"
    if given is None:
        beside = data.parent / CLASSES_FILE
        given, where = (beside, f"'{beside}'") if beside.is_file() else ((), where)
    if isinstance(given, Path):
        try:
            text = check_path(given, "data.classes").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the class names '{given}' cannot be read ({error})",
                "a UTF-8 text file with one class name a line",
                "Check data.classes.",
            ) from error
        given = tuple(line.strip() for line in text.rstrip().splitlines())
    repeated = sorted({name for name in given if given.count(name) > 1} | {""} & set(given))
    if repeated:
        raise DataError(
            f"{where} holds {name_some(repeated)} more than once, or empty",
            "one name for each class, in the order of the whole-number labels",
            "Rename or remove them.",
        )
    return given


def named_labels(
    values: Sequence[Any], ids: Ids, names: tuple[str, ...], *, given: bool
) -> tuple[npt.NDArray[np.str_], tuple[str, ...]]:
    """Class names of N labels.

    Whole numbers (also written as text, as in CSV files, or as floats) are positions in `names`,
    or without names their own digits. Text is a name.

    Args:
        values: N labels; None, NaN and "" are missing.
        ids: `(N,)` row names, for messages.
        names: C class names, or none.
        given: The user named the classes, so that text labels have to be among them; a mere
            `classes.txt` is for whole numbers only.

    Returns:
        `(N,)` names, "" where a label is missing, and the classes in order (empty: not known).

    Raises:
        DataError: A fraction, a position outside the names, or a name that is not among them.
    """
    texts = [_as_text(value, str(ids[row])) for row, value in enumerate(values)]
    present = set(texts) - {""}
    if names and all(WHOLE.fullmatch(text) for text in present):
        outside = sorted((t for t in present if int(t) >= len(names)), key=int)
        if outside:
            row = texts.index(outside[0])
            raise DataError(
                f"row '{ids[row]}' has the label {outside[0]}, and {len(names)} classes are named",
                f"whole numbers from 0 to {len(names) - 1}",
                f"Add the missing names to data.classes or {CLASSES_FILE}.",
            )
        return np.array([names[int(text)] if text else "" for text in texts], dtype=str), names
    if not (names and given):
        return np.array(texts, dtype=str), ()
    strange = sorted(present - set(names))
    if strange:
        raise DataError(
            f"the labels {name_some(strange)} are not among data.classes",
            f"only {name_some(names, most=12)}",
            "Add these classes to data.classes, or leave data.classes out.",
        )
    return np.array(texts, dtype=str), names


def _as_text(value: Any, name: str) -> str:  # noqa: ANN401
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        if value != int(value):
            raise DataError(
                f"row '{name}' has the label {value}",
                "class names or whole numbers",
                "Name the column that holds the classes in data.label.",
            )
        value = int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)
