# SPDX-License-Identifier: Apache-2.0
"""Targets of more rows than their ids should be held for as text that NumPy can index.

Ids stay in Arrow's compact form, some 15 bytes a row instead of 4 bytes a letter.

Shapes: N rows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.errors import PredictionError
from fusetune.predictions.arrow import arrow_of, numpy_of
from fusetune.predictions.folds import hashes
from fusetune.predictions.kinds import Array, Ids, Kind, as_ids
from fusetune.predictions.tables import (
    ID,
    TABLES,
    Table,
    columns_of,
    named_errors,
    no_column,
    read_arrow,
)
from fusetune.predictions.targets import AnyTargets, LabelSets, Numbers, Targets, replaced
from fusetune.predictions.truth import KINDS, Truth, check_task, read_truth_of, truth_of

__all__ = ["LongTruth", "nameless", "read_long_truth"]

PIECE = 2**16  # rows that are interpreted at a time


@dataclass(frozen=True, eq=False)
class LongTruth:
    """A targets file, its ids apart.

    Args:
        targets: The truth; its rows are nameless (see `nameless`), so that slices cost nothing.
        kind: The kind of prediction that it judges.
        ids: N row names, a `pyarrow.LargeStringArray`.
        roles_N: `(N,)` roles, where the file has a column `role`.
    """

    targets: AnyTargets
    kind: type[Kind]
    ids: Any
    roles_N: Array | None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def plain(self) -> Truth:
        """What forms of files are inferred by."""
        return Truth(self.targets, self.kind)

    def names(self, rows: slice | Array) -> Ids:
        """`(len(rows),)` names of some rows, as text that NumPy can index."""
        if isinstance(rows, slice):
            return numpy_of(self.ids[rows])
        return numpy_of(self.ids.take(arrow_of(rows)))

    def hashes_N(self, seed: int) -> npt.NDArray[np.uint64]:
        """`(N,)` numbers that depend on nothing but the seed and each id."""
        pieces = [hashes(self.names(piece), seed) for piece in _pieces(len(self))]
        return np.concatenate(pieces)


def read_long_truth(path: Path, task: str = "auto") -> LongTruth:
    """Read a targets file piece by piece; see `read_truth_of`.

    Args:
        path: Parquet or CSV. Its table has to fit into memory: ids and targets of a million rows
            take some 30 MB.
        task: As there; inferred from the first 65,536 rows.

    Raises:
        UsageError: As there.
    """
    check_task(task)
    with named_errors(path):
        if path.suffix.lower() not in TABLES or not path.is_file():
            read_truth_of(path, task)  # says what is wrong, unless the file is an array
            raise PredictionError(
                f"'{path.name}' ends in '{path.suffix}'",
                "targets in a .parquet or .csv file",
                "Convert the file.",
            )
        table = read_arrow(path)
        if ID not in table.column_names:
            raise no_column(table.column_names, ID)
        ids = large_text(table.column(ID))
        table = table.drop_columns([ID])
        truths = []
        for piece in _pieces(max(1, len(ids))):
            columns, empty = columns_of(table.slice(piece.start, PIECE))
            named = Table(columns, numpy_of(ids[piece]), empty=empty)
            truths.append(truth_of(named, task))
            task = next(name for name, kind in KINDS.items() if kind is truths[0].kind)
        _check_unique(ids)
    roles = [truth.roles_N for truth in truths if truth.roles_N is not None]
    return LongTruth(
        _joined([truth.targets for truth in truths]),
        truths[0].kind,
        ids,
        np.concatenate(roles) if roles else None,
    )


def nameless(number: int) -> Ids:
    """`(number,)` ids that name nothing and take no memory: rows are known by their order."""
    return np.broadcast_to(np.array("", dtype="U1"), (number,))


def large_text(column: Any) -> Any:  # noqa: ANN401
    """A column of ids as one `pyarrow.LargeStringArray`; whole numbers become their digits.

    Raises:
        PredictionError: A cell is empty, or the column holds fractions.
    """
    import pyarrow as pa

    kind = column.type
    if column.null_count or not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        columns, empty = columns_of(pa.table({ID: column}))
        column = arrow_of(Table(columns, None, empty=empty).texts(ID))
    if isinstance(column, pa.ChunkedArray):
        column = column.cast(pa.large_string()).combine_chunks()
    return column.cast(pa.large_string())


def _pieces(number: int) -> list[slice]:
    return [slice(start, min(start + PIECE, number)) for start in range(0, number, PIECE)]


def _check_unique(ids: Any) -> None:  # noqa: ANN401
    import pyarrow.compute

    if pyarrow.compute.count_distinct(ids).as_py() < len(ids):
        as_ids(numpy_of(ids))  # names them


def _joined(pieces: list[AnyTargets]) -> AnyTargets:
    """One truth of nameless rows."""
    ids = nameless(sum(map(len, pieces)))
    first = pieces[0]
    if isinstance(first, LabelSets):
        return replaced(first, ids=ids, present_NC=np.concatenate([p.present_NC for p in pieces]))
    if isinstance(first, Numbers):
        return replaced(first, ids=ids, values_ND=np.concatenate([p.values_ND for p in pieces]))
    assert isinstance(first, Targets)
    classes = tuple(sorted({name for piece in pieces for name in piece.classes}))
    labels_N = np.concatenate([piece.columns(classes) for piece in pieces])
    return replaced(first, ids=ids, classes=classes, labels_N=labels_N)
