# SPDX-License-Identifier: Apache-2.0
"""Find out how a folder or file holds labelled images, for `fusetune init`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusetune.data.dataset import Dataset, check_path
from fusetune.data.inputs import IMAGE_ENDINGS
from fusetune.data.roles import ROLES
from fusetune.errors import DataError, name_some
from fusetune.plugins import find

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Guess", "guess_sources"]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "holdout": "holdout",
    "test": "test",
    "testing": "test",
}
IMAGE_COLUMNS = (
    *("image", "img", "picture", "photo"),
    *("image_path", "file_name", "filename", "file", "filepath", "path"),
)
LABEL_COLUMNS = ("label", "labels", "target", "class", "category", "class_name", "y")
ROLE_COLUMNS = ("role", "split")
TABLE_ENDINGS = (".parquet", ".pq", ".csv", ".tsv")
NUM_PEEKED_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A source of rows and the options it needs, as a recipe writes them."""

    source: str
    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self) -> Dataset:
        """The data set that the recipe would make."""
        return find(Dataset, self.source)(path=self.path, **self.options)  # type: ignore[call-arg]


def guess_sources(path: Path) -> dict[str, Guess]:
    """The source at a path, as `{"all": source}`, or several as official splits.

    Understood are a folder with a folder per class; a folder with train and test folders of that
    form; a table; an .npz file; and a folder with one table or .npz file, or one for each split.

    Raises:
        DataError: Nothing is there, or nothing with both images and labels; what was found is named.
    """
    check_path(path, "the data")
    return _of_folder(path) if path.is_dir() else _of_file(path)


def _of_folder(path: Path) -> dict[str, Guess]:
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and _holds_images(entry)]
    splits = _by_split((folder.name, folder) for folder in folders)
    if splits and len(splits) == len(folders):
        return {role: Guess(source="folder", path=folder) for role, folder in splits.items()}
    if folders:
        return {"all": Guess(source="folder", path=path)}
    files = [entry for entry in entries if entry.suffix.lower() in (*TABLE_ENDINGS, ".npz")]
    splits = _by_split((file.stem, file) for file in files)
    if splits and len(splits) == len(files):
        return {role: _of_file(file)["all"] for role, file in splits.items()}
    if len(files) == 1:
        return _of_file(files[0])
    names = [entry.name + "/" * entry.is_dir() for entry in entries]
    raise DataError(
        f"the folder '{path}' holds {name_some(names) if names else 'nothing'}",
        "a folder of images for every class, or one table or .npz file",
        "Name one of these files, or sort the images into one folder per class.",
    )


def _holds_images(folder: Path) -> bool:
    return any(
        entry.suffix.lower() in IMAGE_ENDINGS and not entry.name.startswith(".")
        for entry in folder.rglob("*")
    )


def _by_split(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Role → path of what is named by a split, alone or as a word (`jpeg_train`); train is needed."""
    found: dict[str, Path] = {}
    for name, path in named:
        words = name.lower().replace("-", "_").split("_")
        roles = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(roles) == 1:
            found.setdefault(roles.pop(), path)
    return {role: found[role] for role in ROLES if role in found} if "train" in found else {}


def _of_file(path: Path) -> dict[str, Guess]:
    ending = path.suffix.lower()
    if ending in TABLE_ENDINGS:
        return {"all": _of_table(path)}
    if ending == ".npz":
        return _of_arrays(path)
    raise DataError(
        f"the data is the file '{path}'",
        f"a folder, or a file that ends in {', '.join((*TABLE_ENDINGS, '.npz'))}",
        "Name the folder of the images, or a table.",
    )


def _of_table(path: Path) -> Guess:
    peeked = _peek(path)
    image = _image_column(peeked, path.parent)
    names = [name for name in peeked.column_names if name != image]
    label = _first(LABEL_COLUMNS, names)
    if image is None or label is None:
        what = "images" if image is None else "labels"
        raise DataError(
            f"the table '{path}' has the columns {name_some(peeked.column_names, most=12)}",
            f"one with {what}, called {', '.join(IMAGE_COLUMNS if image is None else LABEL_COLUMNS)}",
            f"Rename the column that holds the {what}.",
        )
    options = {"image": image, "label": label}
    if "id" not in names and _is_text(peeked, image) and _is_unique(peeked, image):
        options["id"] = image
    for role in (name for name in names if name.lower() in ROLE_COLUMNS):
        if {*peeked[role].to_pylist()} <= {*ROLES, "", None}:
            options["role"] = role
    return Guess(source="table", path=path, options=_needed(options, {"image", "label"}))


def _peek(path: Path) -> "pa.Table":
    """The table's first rows, enough to see what a column holds."""
    import pyarrow as pa
    from pyarrow import csv
    from pyarrow import parquet as pq

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            with pq.ParquetFile(path) as file:
                first = next(file.iter_batches(batch_size=NUM_PEEKED_ROWS))
                return pa.Table.from_batches([first])
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        with csv.open_csv(path, parse_options=parse) as reader:
            return pa.Table.from_batches([reader.read_next_batch()]).slice(0, NUM_PEEKED_ROWS)
    except (pa.ArrowException, OSError, StopIteration) as error:
        reason = str(error).partition("\n")[0] or "it has no rows"
        raise DataError(
            f"the table '{path}' cannot be read ({reason})",
            "a whole Parquet file, or UTF-8 text with a header and equal rows",
            "Write the file again.",
        ) from error


def _image_column(table: "pa.Table", folder: Path) -> str | None:
    """The column of image bytes, of `{bytes, path}` structs, or of paths that are there."""
    import pyarrow as pa

    for field_ in table.schema:
        kind = field_.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field_.name)
        if pa.types.is_struct(kind) and {"bytes", "path"} & {part.name for part in kind}:
            return str(field_.name)
    for name in [n for n in table.column_names if n.lower() in IMAGE_COLUMNS]:
        values = table[name].to_pylist()
        if values and isinstance(values[0], str) and (folder / values[0]).is_file():
            return str(name)
    return None


def _is_text(table: "pa.Table", column: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(table[column].type))


def _is_unique(table: "pa.Table", column: str) -> bool:
    values = table[column].to_pylist()
    return len(set(values)) == len(values)


def _first(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the known names that is there, whatever its case."""
    by_name = {name.lower(): name for name in reversed(names)}
    return next((by_name[name] for name in known if name in by_name), None)


def _of_arrays(path: Path) -> dict[str, Guess]:
    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file.files)
    except Exception as error:  # NumPy raises many kinds on damaged files
        raise DataError(
            f"the file '{path}' cannot be read", "a whole .npz file", "Write it with numpy.savez."
        ) from error
    pairs = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "target"), ("data", "labels"))
    for images, labels in pairs:
        if images in names and labels in names:
            options = {"images": images, "labels": labels}
            needed = _needed(options, {"images", "labels"})
            return {"all": Guess(source="arrays", path=path, options=needed)}
    splits = {
        SPLIT_NAMES[name[2:]]: Guess(
            source="arrays", path=path, options={"images": name, "labels": f"y_{name[2:]}"}
        )
        for name in names
        if name.startswith("x_") and name[2:] in SPLIT_NAMES and f"y_{name[2:]}" in names
    }
    if "train" in splits:
        return splits
    raise DataError(
        f"the file '{path}' holds the arrays {name_some(names)}",
        "images and labels, or x_train and y_train",
        "Save them under these names with numpy.savez.",
    )


def _needed(options: Mapping[str, str], defaults: set[str]) -> dict[str, str]:
    """The options that differ from their defaults, which are called like the options."""
    return {key: value for key, value in options.items() if not (key in defaults and key == value)}
