# SPDX-License-Identifier: Apache-2.0
"""A table of images and labels: Parquet, CSV or TSV."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusetune.data.columns import Columns, rows_of_table
from fusetune.data.dataset import Dataset, Rows, check_path
from fusetune.data.labels import class_names
from fusetune.data.truth_columns import label_sets, listed_sets_of, marked_sets_of, numbers_of
from fusetune.errors import DataError
from fusetune.predictions.targets import GroundTruth, Numbers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Table"]

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, kw_only=True)
class Table(Dataset):
    """Rows of a CSV, TSV or Parquet file, with a header or column names.

    Args:
        path: The file; its ending says its format.
        image: Column of the images: bytes of image files, structs of `bytes` and `path` (as
            Hugging Face data sets have them), or paths, relative ones from the table's folder on.
        label: Column of the classes: names or whole numbers; null: the table has no labels. For
            image_regression a column of numbers, or a list of such columns; for image_multilabel a
            column of lists of labels (or of text that `separator` divides), or a list of columns
            that hold 0 or 1.
        id: Column of unique row names; a table without it is numbered from 0.
        role: Column that says train, validation, holdout or test, or nothing; null: there is none.
        classes: Names of whole-number labels, in their order: a list, or a text file with one a
            line. By default the names in the Parquet file's own metadata (Hugging Face), else
            those of a `classes.txt` beside the table, else the numbers' digits. With text labels
            a given list fixes the classes' order.
        separator: Between the labels of one row, where they are text; empty text is no label.

    Raises:
        DataError: See `read`; a format that is not known.
    """

    path: Path
    image: str = "image"
    label: str | tuple[str, ...] | None = "label"
    id: str = "id"
    role: str | None = None
    classes: tuple[str, ...] | Path | None = None
    separator: str = ";"

    def read(self) -> Rows:
        """All rows, in the file's order; only the columns that are named are read."""
        if isinstance(self.label, tuple):
            raise DataError(
                f"data.label names {len(self.label)} columns",
                "one column of class names, as the task wants one class per image",
                "Name one column, or set task: image_multilabel or image_regression.",
            )
        columns = Columns(image=self.image, label=self.label, id=self.id, role=self.role)
        table = self._load(check_path(self.path), columns)
        if self.label is None:
            names: tuple[str, ...] = ()
        elif self.classes is None and (stored := _stored_names(table.schema, self.label)):
            names = stored
        else:
            names = class_names(self.classes, self.path)
        given = self.classes is not None
        return rows_of_table(table, columns, self.path.parent, names, given=given)

    def read_as(self, truth: type[GroundTruth]) -> Rows:
        """All rows with numbers or sets of labels."""
        if self.label is None:
            raise DataError(
                "data.label is null", "the columns of the targets", "Name them in data.label."
            )
        columns = Columns(image=self.image, label=self.label, id=self.id, role=self.role)
        table = self._load(check_path(self.path), columns)
        rows = rows_of_table(table, replace(columns, label=None), self.path.parent, (), given=False)
        if truth is Numbers:
            return replace(rows, truth=numbers_of(table, columns.labels, rows.ids))
        if isinstance(self.label, tuple):
            return replace(rows, truth=marked_sets_of(table, columns.labels, rows.ids))
        names = class_names(self.classes, self.path)
        found = listed_sets_of(table, self.label, rows.ids, self.separator)
        given = self.classes is not None
        return replace(rows, truth=label_sets(found, rows.ids, names, given=given))

    def _load(self, path: Path, columns: Columns) -> "pa.Table":
        import pyarrow as pa

        suffix = path.suffix.lower()
        if path.is_dir() or suffix not in (*DELIMITERS, *PARQUET):
            raise DataError(
                f"data.path is '{path}', whose ending is '{suffix}'",
                f"a file that ends in {', '.join((*DELIMITERS, *PARQUET))}",
                "Save the table as CSV or Parquet, or use the source folder for a folder.",
            )
        try:
            if suffix in PARQUET:
                return _read_parquet(path, columns)
            return _read_csv(path, columns, DELIMITERS[suffix])
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"the table '{path}' cannot be read ({reason})",
                "a whole Parquet file, or UTF-8 text with a header and equal rows",
                "Write the file again.",
            ) from error


def _read_parquet(path: Path, columns: Columns) -> "pa.Table":
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = columns.present(file.schema_arrow.names, f"in '{path}'")
        return file.read(columns=names)


def _read_csv(path: Path, columns: Columns, delimiter: str) -> "pa.Table":
    """The needed columns as text: "007" stays an id, and "true" a class name."""
    import pyarrow as pa
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as reader:
        names = columns.present(reader.schema.names, f"in '{path}'")
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=names,
        strings_can_be_null=False,
    )
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _stored_names(schema: "pa.Schema", label: str) -> tuple[str, ...]:
    """Class names that Hugging Face's datasets library writes into a Parquet file."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(stored["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
