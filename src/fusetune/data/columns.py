# SPDX-License-Identifier: Apache-2.0
"""Rows from the columns of a table, whether it comes from a file or is in memory.

Shapes: N rows, B bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusetune.data.dataset import Rows
from fusetune.data.inputs import EncodedImages, FileImages, Images
from fusetune.data.labels import named_labels
from fusetune.errors import DataError, counted, name_some, unknown_name
from fusetune.predictions.kinds import Ids

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Columns", "rows_of_table"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what.

    Args:
        image: Bytes of image files, structs of `bytes` and `path`, or paths.
        label: Class names or whole numbers, or several columns of numbers; None: there are none.
        id: Row names; where the table has no such column, row positions.
        role: Names of roles; None: there are none.
    """

    image: str = "image"
    label: str | tuple[str, ...] | None = "label"
    id: str = "id"
    role: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns; none, one, or several."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    def present(self, names: list[str], where: str) -> list[str]:
        """The columns to read, of those that a table has.

        Raises:
            UnknownName: A column that is needed is not there.
        """
        role = () if self.role is None else (self.role,)
        needed = [self.image, *self.labels, *role]
        for name in needed:
            if name not in names:
                raise unknown_name("column", name, names, where=where)
            if names.count(name) > 1:
                raise DataError(
                    f"{where} has {names.count(name)} columns called '{name}'",
                    "every column to have a name of its own",
                    "Rename or remove one of them.",
                )
        return list(dict.fromkeys([*needed, *([self.id] if self.id in names else [])]))


def rows_of_table(
    table: "pa.Table", columns: Columns, folder: Path, names: tuple[str, ...], *, given: bool
) -> Rows:
    """Rows from a table's columns.

    Args:
        table: At least the columns that are present.
        columns: Which column holds what.
        folder: Where relative paths start.
        names: Names of whole-number labels, or none.
        given: The user gave these names.

    Raises:
        DataError: A missing id or image, a path that is not there, a column of a wrong type.
    """
    ids = _ids(table, columns.id)
    labels = None
    classes: tuple[str, ...] = ()
    if columns.label is not None:
        assert isinstance(columns.label, str)
        values = table[columns.label].to_pylist()
        labels, classes = named_labels(values, ids, names, given=given)
    roles = None
    if columns.role is not None:
        texts = ["" if v is None else str(v) for v in table[columns.role].to_pylist()]
        roles = np.array(texts, dtype=str)
    images = _images(table[columns.image], columns.image, ids, folder)
    return Rows(ids, images, labels, roles, classes)


def _ids(table: "pa.Table", column: str) -> Ids:
    if column not in table.column_names:
        return np.arange(table.num_rows).astype(str)
    values = table[column].to_pylist()
    return np.array(["" if value is None else str(value) for value in values], dtype=str)


def _images(column: "pa.ChunkedArray", name: str, ids: Ids, folder: Path) -> Images:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if column.null_count:
        raise _missing(ids[_nulls(column)], name)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _encoded(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _files(column.to_pylist(), ids, folder)
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return _structs(column, name, ids, folder)
    raise DataError(
        f"the column '{name}' holds {kind}",
        "bytes of image files, structs of bytes and path, or paths",
        "Name the column that holds the images in data.image.",
    )


def _structs(column: "pa.ChunkedArray", name: str, ids: Ids, folder: Path) -> Images:
    """Images of `{bytes, path}` structs; the path counts where there are no bytes."""
    import pyarrow.compute as pc

    fields = {field.name for field in column.type}
    content = pc.struct_field(column, "bytes") if "bytes" in fields else None
    if content is not None and content.null_count == 0:
        return _encoded(content)
    empty: list[Any] = [None] * len(ids)
    bytes_N: list[Any] = empty if content is None else content.to_pylist()
    paths_N: list[Any] = pc.struct_field(column, "path").to_pylist() if "path" in fields else empty
    on_disk = [row for row in range(len(ids)) if bytes_N[row] is None]
    nowhere = [row for row in on_disk if paths_N[row] is None]
    if nowhere:
        raise _missing(ids[nowhere], name)
    files = _files([str(paths_N[row]) for row in on_disk], ids[on_disk], folder)
    if len(on_disk) == len(ids):
        return files
    for position, row in enumerate(on_disk):
        bytes_N[row] = files.encoded(position)
    return EncodedImages.of(bytes_N)


def _encoded(column: "pa.ChunkedArray") -> EncodedImages:
    """The bytes of a column without nulls, not copied where the table is one chunk."""
    import pyarrow as pa

    array = column.cast(pa.large_binary()).combine_chunks()
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    ends = ends if len(ends) else np.zeros(1, dtype=np.int64)
    content = np.frombuffer(data or b"", dtype=np.uint8)
    return EncodedImages(content[ends[0] : ends[-1]], ends - ends[0])


def _files(paths: list[str], ids: Ids, folder: Path) -> FileImages:
    files = tuple(folder / path for path in paths)
    absent = [row for row, file in enumerate(files) if not file.is_file()]
    if absent:
        raise DataError(
            f"{counted(len(absent), 'image file')} cannot be found: {name_some(paths[row] for row in absent)} "
            f"(first of row '{ids[absent[0]]}')",
            f"paths of files, from '{folder}' on where they are relative",
            "Correct the paths, or move the table beside its images.",
        )
    return FileImages(files)


def _nulls(column: "pa.ChunkedArray") -> npt.NDArray[Any]:
    return np.asarray(column.is_null().to_pylist(), dtype=bool)


def _missing(ids: Ids, name: str) -> DataError:
    return DataError(
        f"the column '{name}' is empty in {counted(len(ids), 'row')}: {name_some(ids.tolist())}",
        "an image in every row",
        "Fill these rows, or remove them.",
    )
