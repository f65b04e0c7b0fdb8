# SPDX-License-Identifier: Apache-2.0
"""Tables of named columns in files: Parquet, CSV, npz and npy in; Parquet and CSV out.

Nothing is interpreted here but ids; `files.py` and `reading.py` say what columns mean.

Shapes: N rows, C columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from fusetune.atomic import replacing
from fusetune.errors import FusetuneError, PredictionError, name_some
from fusetune.predictions.arrow import arrow_of, numpy_of
from fusetune.predictions.kinds import Array, Floats, Ids, as_ids

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ID",
    "ROLE",
    "TABLES",
    "TARGET",
    "Table",
    "check_names",
    "columns_of",
    "named_errors",
    "no_column",
    "read_arrow",
    "read_table",
    "readable",
    "write_pieces",
    "write_table",
]

ID, TARGET, ROLE = "id", "target", "role"
TABLES = (".parquet", ".csv")
ARRAYS = (".npz", ".npy")
CONTENTS = ("probs", "logits", "scores", "labels", "values", "features")  # of an npz file
Texts = Mapping[str, str]
GROUP = 2**16  # rows of a row group
SAVE = "Save it with numpy.savez(path, ids=..., probs=..., classes=...)."


@dataclass(frozen=True, eq=False)
class Table:
    """Columns as a file gave them.

    Args:
        columns: Name → `(N,)` floats, whole numbers, booleans or text.
        ids: `(N,)` row names; None where the file gives none (npy): rows are in the targets' order.
        form: What the numbers are, where the file says so (npz): one of `CONTENTS`.
        named: Whether the columns have names of their own (an npy file's are "0", "1", ...).
        empty: Name → first row with an empty cell and how many such rows, for columns of text.
        levels: Quantile levels, where the file says so (npz).
    """

    columns: Mapping[str, Array]
    ids: Ids | None
    form: str | None = None
    named: bool = True
    empty: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    levels: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns but `id` and `role`."""
        return tuple(name for name in self.columns if name not in (ID, ROLE))

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        return self.columns[name].dtype.kind == "U"

    def numbers_NC(self, names: Sequence[str]) -> Floats:
        """`(N, C)` floats of some columns, NaN for empty cells, in the widest precision of them.

        Raises:
            PredictionError: A column holds text that is no number (its first such value is named).
        """
        arrays = [self._numbers(name) for name in names]
        dtype = np.result_type(*arrays) if arrays else np.dtype(np.float32)
        if len(arrays) > 1 and arrays[0].base is not None and arrays[0].base is arrays[-1].base:
            base = arrays[0].base
            if base.shape == (len(arrays[0]), len(arrays)) and base.dtype == dtype:
                return base  # an npz or npy file: the array is there already
        num_rows = len(next(iter(self.columns.values()))) if self.columns else 0
        num_rows = num_rows if self.ids is None else len(self.ids)
        numbers_NC = np.empty((num_rows, len(names)), dtype=dtype)
        for index, values_N in enumerate(arrays):
            numbers_NC[:, index] = values_N
        return numbers_NC

    def _numbers(self, name: str) -> Floats:
        values_N = self.columns[name]
        if not self.is_text(name):
            return _floats(values_N)
        if all(_is_number(value) for value in values_N.tolist() if value):
            return np.where(values_N == "", "nan", values_N).astype(np.float64)
        strange = next(value for value in values_N if value and not _is_number(value))
        raise PredictionError(
            f"the column '{name}' holds text (first: '{strange}')",
            "numbers",
            "Remove the column, or correct it.",
        )

    def texts(self, name: str) -> Array:
        """`(N,)` text of a column of names or whole numbers.

        Raises:
            PredictionError: There is no such column, a cell is empty (its row is named), or the
                column holds fractions.
        """
        if name not in self.columns:
            raise no_column(self.columns if self.ids is None else {ID: 0, **self.columns}, name)
        if name in self.empty:
            row, count = self.empty[name]
            where = f"row {row + 1}" if name == ID or self.ids is None else f"row '{self.ids[row]}'"
            raise PredictionError(
                f"'{name}' is empty in {where} ({count:,} such rows)",
                "a value in every row",
                "Fill these cells, or remove the rows.",
            )
        values_N = self.columns[name]
        if values_N.dtype.kind not in "Uiub":
            raise PredictionError(
                f"the column '{name}' holds {'double' if values_N.dtype.kind == 'f' else values_N.dtype}",
                "text or whole numbers",
                "Write names, or whole numbers.",
            )
        if values_N.dtype.kind == "b":
            values_N = values_N.astype(np.int64)
        return values_N.astype(str) if len(values_N) else np.empty(0, dtype="U1")


def read_table(path: Path) -> Table:
    """Read a file.

    Args:
        path: Parquet or CSV with a column `id`; npz with the arrays `ids`, one of `probs`,
            `logits`, `scores`, `labels`, `values` or `features`, and for two axes their `classes`
            (or `names`); or npy with one or two axes, whose rows are in the targets' order. In a
            CSV file `id`, `target` and `role` are text, and only an empty cell is missing.

    Raises:
        PredictionError: No such file, another ending, a damaged or truncated file, no column `id`,
            repeated ids or columns. The message does not name the file: see `named_errors`.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES + ARRAYS:
        raise PredictionError(
            f"'{path}' ends in '{path.suffix}'",
            f"a file ending in {', '.join(TABLES + ARRAYS)}",
            "Convert the file, or correct its name.",
        )
    if not path.is_file():
        raise PredictionError(f"there is no file '{path}'", "a readable file", "Check the path.")
    if suffix == ".npz":
        return _from_npz(path)
    if suffix == ".npy":
        return _from_npy(path)
    return _from_arrow(read_arrow(path))


def write_table(path: Path, columns: Mapping[str, Array], about: Texts | None = None) -> None:
    """Write equally long columns of text or numbers as Parquet or CSV, by the ending.

    Args:
        path: Ends in `.parquet` or `.csv`; its folder is made if it is not there. It is replaced
            in one step: whatever goes wrong, an old file stays.
        columns: Name → `(N,)` values, in the order of the columns.
        about: What a Parquet file says of itself beside them.

    Raises:
        PredictionError: The path has another ending.
        OSError: The disk is full, or a limit on the file's size was reached.
    """
    import pyarrow as pa

    path = Path(path)
    if path.suffix.lower() not in TABLES:
        raise PredictionError(
            f"'{path.name}' ends in '{path.suffix}'", ".parquet or .csv", "Choose one of these."
        )
    table = pa.table({name: arrow_of(values) for name, values in columns.items()}, metadata=about)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            import pyarrow.csv

            pyarrow.csv.write_csv(table, temporary)
        else:
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, temporary, compression="zstd")


def write_pieces(path: Path, pieces: Iterable[Mapping[str, "Array | pa.Array"]]) -> None:
    """Write a Parquet file of rows that come piece by piece, in row groups of some 65,536 rows.

    Args:
        path: As for `write_table`.
        pieces: Columns of some rows each, of the same names and types; at least one piece.
    """
    import pyarrow as pa
    import pyarrow.parquet

    with replacing(path) as temporary:
        writer, held = None, list[pa.Table]()
        for piece in pieces:
            held.append(pa.table({name: arrow_of(values) for name, values in piece.items()}))
            writer = writer or pyarrow.parquet.ParquetWriter(
                temporary, held[0].schema, compression="zstd"
            )
            if sum(map(len, held)) >= GROUP:
                writer.write_table(pa.concat_tables(held))
                held.clear()
        assert writer is not None
        if held:
            writer.write_table(pa.concat_tables(held))
        writer.close()


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Put the file's name in front of errors about its content."""
    try:
        yield
    except FusetuneError as error:
        if f"'{path}'" in error.given:
            raise
        raise PredictionError(
            f"in '{path}', {error.given}", error.expected, error.remedy
        ) from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say what is wrong with a file that pyarrow cannot read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no data"
        raise PredictionError(
            f"the content cannot be read ({reason})",
            f"a complete {path.suffix[1:].lower()} file",
            "Write or copy the file again.",
        ) from error


def check_names(names: Sequence[str]) -> None:
    """Refuse columns that occur twice.

    Raises:
        PredictionError: One does.
    """
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise PredictionError(
            f"the columns {name_some(sorted(repeated))} occur more than once",
            "every column once",
            "Rename or remove columns.",
        )


def read_arrow(path: Path) -> "pa.Table":
    """Read a Parquet or CSV file as it is.

    Raises:
        PredictionError: It cannot be read, or a column occurs twice.
    """
    with readable(path):
        if path.suffix.lower() == ".csv":
            import pyarrow as pa
            import pyarrow.csv

            # A row may be called NA; only an empty cell is missing.
            convert = pyarrow.csv.ConvertOptions(
                column_types={ID: pa.string(), TARGET: pa.string(), ROLE: pa.string()},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            )
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)
        else:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as file:  # read_table loads pyarrow.dataset
                table = file.read()
    check_names(table.column_names)
    return table


def _from_arrow(table: "pa.Table") -> Table:
    columns, empty = columns_of(table)
    if ID not in columns:
        raise no_column(columns, ID)
    without = {name: values for name, values in columns.items() if name != ID}
    ids = as_ids(Table(columns, None, empty=empty).texts(ID))
    return Table(without, ids, empty=empty)


def columns_of(table: "pa.Table") -> tuple[dict[str, Array], dict[str, tuple[int, int]]]:
    """A table's columns as arrays, and the empty cells as `Table` has them.

    Raises:
        PredictionError: A column holds neither numbers nor text.
    """
    import pyarrow as pa

    columns: dict[str, Array] = {}
    empty: dict[str, tuple[int, int]] = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            if column.null_count:
                first = int(numpy_of(column.is_null()).argmax())
                empty[name] = (first, column.null_count)
                column = column.fill_null("")
            columns[name] = numpy_of(column)
        elif pa.types.is_null(kind):
            empty[name] = (0, len(column))
            columns[name] = np.full(len(column), np.nan)
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind):
            if column.null_count and name in (ID, TARGET, ROLE):
                first = int(numpy_of(column.is_null()).argmax())
                empty[name] = (first, column.null_count)
            columns[name] = numpy_of(column)
        else:
            raise PredictionError(
                f"the column '{name}' holds {kind}",
                "numbers or text",
                "Remove the column, or write it as plain numbers.",
            )
    return columns, empty


def no_column(columns: Iterable[str], name: str) -> PredictionError:
    """The error for a table without a column that it must have."""
    purpose = {ID: "names the rows", TARGET: "holds the truth"}.get(name, "holds it")
    return PredictionError(
        f"the columns are {name_some(list(columns))}",
        f"one called '{name}' that {purpose}",
        f"Rename the column that {purpose} to '{name}'.",
    )


def _from_npz(path: Path) -> Table:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise PredictionError(
            f"the content cannot be read ({error})",
            "a complete npz file of numbers and text, without pickled objects",
            SAVE,
        ) from error
    forms = [name for name in CONTENTS if name in held]
    names = held.get("classes", held.get("names"))
    if "ids" not in held or len(forms) != 1 or (held[forms[0]].ndim > 1 and names is None):
        raise PredictionError(
            f"the arrays are {name_some(list(held))}",
            f"ids, one of {', '.join(CONTENTS)}, and classes (or names) for the columns",
            SAVE,
        )
    array, ids = held[forms[0]], held["ids"]
    names = np.array([forms[0]]) if names is None else names
    numeric = array.dtype.kind in "fiub" or forms[0] == "labels"
    array = array[:, None] if array.ndim == 1 else array
    if not numeric or ids.ndim != 1 or names.ndim != 1 or array.shape[1:] != names.shape:
        raise PredictionError(
            f"{forms[0]} hold {array.dtype} of shape {array.shape}, ids have {ids.ndim} axes and "
            f"classes {names.ndim}",
            "numbers, and one axis each for ids and classes",
            f"Save {forms[0]} as an (N, C) array of numbers, ids as (N,) and classes as (C,).",
        )
    return Table(
        _split(array, names.astype(str).tolist()),
        as_ids(ids),
        form=forms[0],
        levels=tuple(np.asarray(held.get("levels", ()), dtype=float).tolist()),
    )


def _from_npy(path: Path) -> Table:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise PredictionError(
            f"the content cannot be read ({error})",
            "a complete npy file of numbers or text, without pickled objects",
            "Save it with numpy.save(path, array).",
        ) from error
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiubU":
        raise PredictionError(
            f"the array holds {array.dtype} and has the shape {array.shape}",
            "numbers or text with one axis, or two: rows in the targets' order, and columns",
            "Save it with numpy.save(path, array).",
        )
    array = array[:, None] if array.ndim == 1 else array
    names = [str(index) for index in range(array.shape[1])]
    return Table(_split(array, names), None, named=False)


def _split(array_NC: Array, names: Sequence[str]) -> dict[str, Array]:
    return {name: array_NC[:, index] for index, name in enumerate(names)}


def _floats(values_N: Array) -> Floats:
    return values_N if values_N.dtype.kind == "f" else values_N.astype(np.float64)


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True
