# SPDX-License-Identifier: Apache-2.0
"""Members that stay on the disk: any rows of their predictions, in the targets' order.

A Parquet file with the targets' rows in their order, in row groups that fit a block of rows, is
read where it lies. One with larger row groups is first written out as plain numbers, batch by
batch; any other file is read whole, put in order, and written out likewise. One file at a time is
open, so that the readers' buffers do not add up.

Shapes: N rows, C classes or other columns.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import InvalidValue, PredictionError, UsageError
from fusetune.predictions.arrow import arrow_of, numpy_of
from fusetune.predictions.kinds import Array, Columnar, Probabilities
from fusetune.predictions.long_truth import LongTruth, large_text, nameless
from fusetune.predictions.memory import Budget
from fusetune.predictions.reading import Form, infer_form, read_prediction
from fusetune.predictions.stack import misaligned
from fusetune.predictions.tables import (
    ID,
    ROLE,
    Table,
    check_names,
    columns_of,
    named_errors,
    read_table,
    readable,
)
from fusetune.predictions.targets import replaced
from fusetune.predictions.truth import Truth

__all__ = ["MemberRows", "Streaming", "open_member"]

BATCH = 2**16  # rows of a file that is written out or checked
PROBE = 2**13  # rows that a form is told from
EXACT_SUM = 1e-6  # as `Probabilities` has it: rows that sum to 1 so closely are kept as given
WHOLE = (
    8  # times its numbers and text: what reading a whole file takes, measured with 36-letter ids
)


@dataclass(frozen=True, eq=False)
class Streaming:
    """What members are opened with.

    Args:
        truth: Names the rows, and their order.
        budget: Bounds what is held.
        scratch: Folder for numbers that are written out; its owner removes it.
        classes: Names of the columns of files without names.
        block_rows: Rows of a block; row groups may have as many.
    """

    truth: LongTruth
    budget: Budget
    scratch: Path
    classes: tuple[str, ...]
    block_rows: int


class MemberRows:
    """One member's predictions, any rows of them.

    Args:
        name: The member's.
        form: How its file is read.
        like: Its prediction of no row: columns, precision, quantile levels.
        written: Whether its numbers were written out as plain numbers.
    """

    def __init__(self, name: str, form: Form, like: Columnar, *, written: bool) -> None:
        self.name, self.form, self.like, self.written = name, form, like, written

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's predictions."""
        return self.like.array_NC.itemsize * len(self.like.columns)

    @property
    def step(self) -> int:
        """Rows that are read together most cheaply."""
        return BATCH

    def read(self, start: int, stop: int) -> Columnar:
        """The predictions of some rows, which are nameless.

        Raises:
            PredictionError: Numbers that are no predictions; the first such row is named.
        """
        raise NotImplementedError

    def blocks(self, num_rows: int) -> Iterator[tuple[int, Columnar]]:
        """All rows, block by block, each with the position of its first row."""
        for start in range(0, num_rows, self.step):
            yield start, self.read(start, min(start + self.step, num_rows))


class WrittenRows(MemberRows):
    """Numbers written out in the targets' order, in a file of their own."""

    def __init__(self, name: str, form: Form, like: Columnar, path: Path) -> None:
        super().__init__(name, form, like, written=True)
        self.path = path

    def read(self, start: int, stop: int) -> Columnar:
        """See `MemberRows`; what was written was checked."""
        num_columns = len(self.like.columns)
        numbers = np.fromfile(
            self.path,
            dtype=self.like.array_NC.dtype,
            count=(stop - start) * num_columns,
            offset=start * self.row_bytes,
        )
        array_NC = numbers.reshape(stop - start, num_columns)
        return self.like.trusted(self.like, nameless(stop - start), self.like.columns, array_NC)


@dataclass
class ParquetNumbers:
    """How the batches of one Parquet file become predictions.

    Args:
        path: The file.
        truth: Names its rows.
        form: What its numbers are.
        metadata: Of the file.
        rescaled: Whether rows are divided by their sums: all of them, as soon as one needs it,
            as where the file is read at once.
    """

    path: Path
    truth: LongTruth
    form: Form
    metadata: Any = field(repr=False)
    rescaled: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the columns that hold numbers."""
        return [n for n in self.metadata.schema.to_arrow_schema().names if n not in (ID, ROLE)]

    def open(self) -> Any:  # noqa: ANN401
        """The file; nothing is read yet."""
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self.path, metadata=self.metadata, memory_map=False)

    def prediction(self, table: Any, start: int) -> Columnar:  # noqa: ANN401
        """The prediction of consecutive rows."""
        with named_errors(self.path):
            columns, empty = columns_of(table)
            read = Table(columns, nameless(len(table)), empty=empty)
            plain = self.form.form == "probabilities" and self.truth.kind is Probabilities
            if plain and len(read.names) > 1:
                return self._probabilities(read, start)
            named = Table(columns, self.truth.names(slice(start, start + len(table))), empty=empty)
            made = read_prediction(named, self.form, self.truth.plain)
            return replaced(made, ids=nameless(len(table)))

    def _probabilities(self, read: Table, start: int) -> Columnar:
        numbers_NC, names = read.numbers_NC(read.names), self.form.columns or read.names
        if numbers_NC.dtype == np.float16:
            numbers_NC = numbers_NC.astype(np.float32)
        assert read.ids is not None
        sums_N = np.zeros(len(numbers_NC))
        least = 0.0
        for values_N in read.columns.values():
            sums_N += values_N
            least = min(least, float(values_N.min(initial=0)))
        exact = least >= 0 and bool((np.abs(sums_N - 1) <= EXACT_SUM).all())
        if not exact:  # names the first row at fault
            ids = self.truth.names(slice(start, start + len(numbers_NC)))
            Probabilities(ids, names, numbers_NC)
            self.rescaled = True
        if self.rescaled:
            sums_N = numbers_NC.sum(axis=1, dtype=np.float64)
            numbers_NC = (numbers_NC / sums_N[:, None]).astype(numbers_NC.dtype)
        made = object.__new__(Probabilities)
        return Probabilities.trusted(made, read.ids, names, numbers_NC)


class ParquetRows(MemberRows):
    """A Parquet file in the targets' order, read where it lies."""

    def __init__(self, name: str, numbers: ParquetNumbers, like: Columnar) -> None:
        super().__init__(name, numbers.form, like, written=False)
        self.numbers = numbers
        sizes = [
            numbers.metadata.row_group(group).num_rows
            for group in range(numbers.metadata.num_row_groups)
        ]
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        self.largest = max(sizes, default=0)

    @property
    def step(self) -> int:
        """See `MemberRows`: whole row groups, if they are equal."""
        return max(BATCH // max(1, self.largest), 1) * max(1, self.largest)

    def read(self, start: int, stop: int) -> Columnar:
        """See `MemberRows`. Row groups that hold some of the rows are decoded whole."""
        groups = np.flatnonzero((self.starts < stop) & (self.ends > start))
        with named_errors(self.numbers.path), readable(self.numbers.path), self.numbers.open() as f:
            table = f.read_row_groups(groups.tolist(), columns=self.numbers.names)
        first = int(self.starts[groups[0]]) if len(groups) else start
        return self.numbers.prediction(table.slice(start - first, stop - start), start)

    def blocks(self, num_rows: int) -> Iterator[tuple[int, Columnar]]:
        """See `MemberRows`; starts over where a row turns out to need rescaling.

        Whoever collects blocks starts over where one begins at 0.
        """
        before = self.numbers.rescaled
        for start, block in super().blocks(num_rows):
            if self.numbers.rescaled and not before:
                yield from super().blocks(num_rows)
                return
            yield start, block


def open_member(name: str, path: Path, given: str | None, streaming: Streaming) -> MemberRows:
    """Open a member's file, and write its numbers out where they cannot be read as they lie.

    Args:
        name: The member's.
        path: Its file, of any ending that `read_table` reads.
        given: Its form, where the user says it.
        streaming: Rows, budget, and where numbers are written out.

    Raises:
        UsageError: A file that cannot be read or does not have the targets' rows, one that is too
            large to be put in order, feature vectors, or a full disk.
    """
    with named_errors(path):
        numbers = _in_order(path, given, streaming)
        if numbers is None:
            return _from_whole_file(name, path, given, streaming)
        like = _first_rows(numbers)
        rows = ParquetRows(name, numbers, like)
        if rows.largest <= streaming.block_rows:
            return rows
        return _written(name, numbers, like, streaming)


def _in_order(path: Path, given: str | None, streaming: Streaming) -> ParquetNumbers | None:
    """The file's numbers, if it is Parquet with the targets' rows in their order, else None."""
    if path.suffix.lower() != ".parquet" or not path.is_file() or given in ("labels", "scores"):
        return None
    import pyarrow.parquet

    truth = streaming.truth
    with readable(path), pyarrow.parquet.ParquetFile(path) as file:
        check_names(file.schema_arrow.names)
        if ID not in file.schema_arrow.names or file.metadata.num_rows != len(truth):
            return None
        start, first = 0, None
        for batch in file.iter_batches(BATCH, columns=[ID], use_threads=False):
            ids = large_text(batch.column(0))
            if not ids.equals(truth.ids[start : start + len(ids)]):
                return None
            start += len(ids)
        for batch in file.iter_batches(PROBE, use_threads=False):
            first = batch
            break
        if first is None:
            return None
    import pyarrow as pa

    columns, empty = columns_of(pa.Table.from_batches([first]))
    ids = columns.pop(ID)
    table = Table(columns, ids.astype(str), empty=empty)
    form = infer_form(table, truth.plain, given, streaming.classes)
    if form.form in ("labels", "scores"):
        return None
    _refuse_features(form)
    return ParquetNumbers(path, truth, form, file.metadata)


def _first_rows(numbers: ParquetNumbers) -> Columnar:
    """The prediction of no rows: columns, precision and levels as the whole has them."""
    with readable(numbers.path), numbers.open() as file:
        for batch in file.iter_batches(PROBE, columns=numbers.names, use_threads=False):
            import pyarrow as pa

            first = numbers.prediction(pa.Table.from_batches([batch]), 0)
            return first.take(np.arange(0))
    raise AssertionError("a file of rows has a first batch")


def _written(
    name: str, numbers: ParquetNumbers, like: Columnar, streaming: Streaming
) -> WrittenRows:
    """Large row groups, written out batch by batch."""
    path = streaming.scratch / f"{name}.numbers"
    _check_disk(
        streaming.scratch, like.array_NC.itemsize * len(like.columns) * len(streaming.truth)
    )
    before = numbers.rescaled
    with readable(numbers.path), numbers.open() as file, path.open("wb") as out:
        import pyarrow as pa

        start = 0
        for batch in file.iter_batches(BATCH, columns=numbers.names, use_threads=False):
            part = numbers.prediction(pa.Table.from_batches([batch]), start)
            out.write(np.ascontiguousarray(part.array_NC).data)
            start += len(part)
    if numbers.rescaled and not before:
        return _written(name, numbers, like, streaming)
    return WrittenRows(name, numbers.form, like, path)


def _from_whole_file(name: str, path: Path, given: str | None, streaming: Streaming) -> WrittenRows:
    """Any other file: read, put in order, written out."""
    truth = streaming.truth
    _check_fits(path, streaming)
    table = read_table(path)
    names = truth.names(slice(0, len(truth))) if table.ids is None else table.ids
    form = infer_form(table, truth.plain, given, streaming.classes)
    _refuse_features(form)
    known = replaced(truth.targets, ids=names)
    made = read_prediction(table, form, Truth(known, truth.kind))
    if table.ids is not None:
        made = made.take(_positions(name, made, truth))
    target = streaming.scratch / f"{name}.numbers"
    _check_disk(streaming.scratch, made.array_NC.nbytes)
    np.ascontiguousarray(made.array_NC).tofile(target)
    like = replaced(made.take(np.arange(0)), ids=nameless(0))
    return WrittenRows(name, form, like, target)


def _positions(name: str, made: Columnar, truth: LongTruth) -> Array:
    """`(N,)` where a member's file has the targets' rows."""
    import pyarrow as pa
    import pyarrow.compute

    own = arrow_of(made.ids).cast(pa.large_string())
    found = pyarrow.compute.index_in(truth.ids, value_set=own)
    if found.null_count or len(own) > len(truth):
        missing = numpy_of(truth.ids.filter(found.is_null()))
        strange = pyarrow.compute.invert(pyarrow.compute.is_in(own, value_set=truth.ids))
        raise misaligned(name, (len(own), len(truth)), missing, numpy_of(own.filter(strange)))
    return numpy_of(found).astype(np.int64)


def _refuse_features(form: Form) -> None:
    if form.form == "features":
        raise InvalidValue(
            "the file holds feature vectors",
            "predictions, under a memory bound",
            "Leave the file out, or the bound.",
        )


def _check_fits(path: Path, streaming: Streaming) -> None:
    """A file that has to be read whole must fit; reading it takes several times its size."""
    if not path.is_file():
        return  # whoever reads it says so
    size = path.stat().st_size
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        with readable(path), pyarrow.parquet.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if size * WHOLE > streaming.budget.arrays_bytes:
        raise PredictionError(
            f"its rows are not in the targets' order, or it is no Parquet file of numbers, and its "
            f"{size / 1e6:,.0f} MB do not fit under the memory bound to be put in order",
            "a Parquet file with the targets' rows in their order, or a larger bound",
            "Sort the file like the targets and write it as Parquet, or raise --memory.",
        )


def _check_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise UsageError(
            f"the disk of '{folder}' has {free / 1e6:,.0f} MB free",
            f"{needed_bytes / 1e6:,.0f} MB for a member's numbers, which are written out",
            "Make room, give another --out, or write Parquet files in the targets' order with row "
            "groups of at most 65,536 rows, which are read where they lie.",
        )
