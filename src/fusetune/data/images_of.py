# SPDX-License-Identifier: Apache-2.0
"""New images to predict, in whatever form the user has them.

Shapes: N rows, H height, W width, 3 RGB channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fusetune.data.columns import Columns, rows_of_table
from fusetune.data.dataset import Dataset, Rows, check_ids, check_path
from fusetune.data.inputs import (
    IMAGE_ENDINGS,
    FileImages,
    Images,
    PixelImages,
    concat_images,
    rgb_pixels,
)
from fusetune.data.pixels import pixels_of_array
from fusetune.data.readable import readable_images
from fusetune.errors import DataError
from fusetune.plugins import find

__all__ = ["images_from"]


@runtime_checkable
class Frame(Protocol):
    """A table in memory: of pandas, polars, pyarrow and others."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's common interface for tables."""


def images_from(value: Any) -> Rows:  # noqa: ANN401
    """Rows without labels, every image found to be readable.

    Args:
        value: One of
            a path of a folder, an image file, a table (.csv, .tsv, .parquet with a column `image`,
            and `id` if there is one), or an .npz file with an array `images`;
            a list of paths of image files;
            an array `(N, H, W, 3)` or `(H, W, 3)`, uint8 or floats in [0, 1];
            a Pillow image, or a list of Pillow images or `(H, W, 3)` arrays of any sizes;
            a frame of pandas, polars or pyarrow with the columns that a table has;
            `Rows`, as a data set gives them.

    Returns:
        Ids are those of the table, paths in a folder, the listed paths as they were given, or
        positions from 0.

    Raises:
        DataError: Nothing at a path, no images, an unreadable one (named), an id twice, or a value
            of another form.
    """
    rows = _rows(value)
    check_ids(rows.ids, "the images")
    return Rows(rows.ids, readable_images(rows.ids, rows.images))


def _rows(value: Any) -> Rows:  # noqa: ANN401
    from PIL import Image

    if isinstance(value, Rows):
        return value
    if isinstance(value, str | Path):
        return _from_path(check_path(Path(value), "the input"))
    if isinstance(value, np.ndarray):
        single = value.ndim == 3 and value.shape[2] in (1, 3)
        return _numbered(
            PixelImages(pixels_of_array(value[None] if single else value, "the array"))
        )
    if isinstance(value, Image.Image):
        return _from_list([value])
    if isinstance(value, Frame):
        return _from_frame(value)
    if isinstance(value, Sequence):
        return _from_list(value)
    raise _unknown_form(value)


def _from_path(path: Path) -> Rows:
    ending = path.suffix.lower()
    if path.is_dir() or ending in IMAGE_ENDINGS:
        return find(Dataset, "folder")(path=path, labels=False).read()  # type: ignore[call-arg]
    if ending == ".npz":
        return find(Dataset, "arrays")(path=path, labels=None).read()  # type: ignore[call-arg]
    return find(Dataset, "table")(path=path, label=None).read()  # type: ignore[call-arg]


def _from_frame(frame: Frame) -> Rows:
    import pyarrow as pa

    table = pa.table(frame)
    columns = Columns(label=None)
    columns.present(table.column_names, "in the frame")
    return rows_of_table(table, columns, Path.cwd(), (), given=False)


def _from_list(values: Sequence[Any]) -> Rows:
    from PIL import Image

    if values and all(isinstance(value, str | Path) for value in values):
        paths = tuple(check_path(Path(value), "an input") for value in values)
        ids = np.array([Path(value).as_posix() for value in values])
        return Rows(ids, FileImages(paths))
    if values and all(isinstance(value, Image.Image | np.ndarray) for value in values):
        return _numbered(_of_arrays(values))
    raise _unknown_form(values)


def _of_arrays(values: Sequence[Any]) -> Images:
    from PIL import Image

    parts = []
    for position, value in enumerate(values):
        try:
            array = rgb_pixels(value) if isinstance(value, Image.Image) else value
        except OSError as error:  # Pillow reads lazily
            raise DataError(
                f"image {position} cannot be read ({error})", "whole images", "Replace it."
            ) from error
        parts.append(PixelImages(pixels_of_array(array[None], f"image {position}")))
    return concat_images(parts)


def _numbered(images: Images) -> Rows:
    return Rows(np.arange(len(images)).astype(str), images)


def _unknown_form(value: Any) -> DataError:  # noqa: ANN401
    if isinstance(value, Sequence):
        kinds = sorted({type(item).__name__ for item in value}) or ["nothing"]
        given = f"a {type(value).__name__} of {' and '.join(kinds)}"
    else:
        given = f"a {type(value).__name__}"
    return DataError(
        f"the images are given as {given}",
        "a path, a list of paths, an array, Pillow images, or a frame",
        "Give a folder of images, for instance.",
    )
