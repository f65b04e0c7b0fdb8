# SPDX-License-Identifier: Apache-2.0
"""Arrays of images and labels in a NumPy .npz file.

Shapes: N rows, C classes, H height, W width, 3 RGB channels.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.data.dataset import Dataset, Rows, check_path
from fusetune.data.inputs import PixelImages
from fusetune.data.labels import class_names, named_labels
from fusetune.data.pixels import pixels_of_array
from fusetune.errors import DataError, UnknownName, unknown_name

__all__ = ["Arrays"]


@dataclass(frozen=True, kw_only=True)
class Arrays(Dataset):
    """Arrays of one .npz file: images and labels, and optionally `ids` and `classes`.

    Args:
        path: The file. Nothing in it is unpickled.
        images: Name of the array of images: `(N, H, W, 3)`, `(N, 3, H, W)` or gray `(N, H, W)`;
            uint8, or floats in [0, 1], which are multiplied by 255 and rounded.
        labels: Name of the `(N,)` array of class names or whole numbers; null: there is none. For
            Keras' mnist.npz, for instance, `images: x_train` and `labels: y_train`.
        classes: Names of whole-number labels, in their order: a list, or a text file with one a
            line. By default the array `classes` in the file, else a `classes.txt` beside it, else
            the numbers' digits.
    """

    path: Path
    images: str = "images"
    labels: str | None = "labels"
    classes: tuple[str, ...] | Path | None = None

    def read(self) -> Rows:
        """All rows; ids are those of the array `ids`, else positions from 0."""
        arrays = self._load(check_path(self.path))
        pixels_NHW3 = pixels_of_array(arrays[self.images], f"'{self.images}' in '{self.path}'")
        ids = self._column(arrays, "ids", len(pixels_NHW3)).astype(str)
        if self.labels is None:
            return Rows(ids, PixelImages(pixels_NHW3))
        values = self._column(arrays, self.labels, len(pixels_NHW3))
        if self.classes is None and "classes" in arrays:
            names = tuple(arrays["classes"].astype(str).tolist())
        else:
            names = class_names(self.classes, self.path)
        given = self.classes is not None or "classes" in arrays
        labels, classes = named_labels(values.tolist(), ids, names, given=given)
        return Rows(ids, PixelImages(pixels_NHW3), labels, classes=classes)

    def _load(self, path: Path) -> dict[str, npt.NDArray[Any]]:
        """The arrays that are needed, out of those in the file."""
        needed = [name for name in (self.images, self.labels) if name is not None]
        try:
            # opened here, as NumPy leaves a file open when it is no archive
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                for name in needed:
                    if name not in file.files:
                        raise unknown_name("array", name, file.files, where=f"in '{path}'")
                extra = [name for name in ("ids", "classes") if name in file.files]
                return {name: file[name] for name in dict.fromkeys([*needed, *extra])}
        except UnknownName:
            raise
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as e:
            reason = (
                "it holds Python objects"
                if "Object arrays" in str(e)
                else "it is no archive of arrays, or cut short"
            )
            raise DataError(
                f"the file '{path}' cannot be read ({reason})",
                "a whole .npz file of numbers and strings",
                "Write it again with numpy.savez.",
            ) from e

    def _column(
        self, arrays: dict[str, npt.NDArray[Any]], name: str, num_rows: int
    ) -> npt.NDArray[Any]:
        """An array with one value per image, which may stand in columns `(N, 1)`."""
        if name not in arrays:
            return np.arange(num_rows)
        values = arrays[name]
        if values.shape not in ((num_rows,), (num_rows, 1)):
            raise DataError(
                f"'{name}' in '{self.path}' has the shape {values.shape}",
                f"({num_rows},), one value per image",
                "Give class names or whole numbers, not one-hot rows."
                if name == self.labels
                else "Give one id per image.",
            )
        return values.reshape(num_rows)
