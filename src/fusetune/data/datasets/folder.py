# SPDX-License-Identifier: Apache-2.0
"""A folder of image files, one subfolder per class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusetune.data.dataset import Dataset, Rows, check_path
from fusetune.data.inputs import IMAGE_ENDINGS, FileImages
from fusetune.data.listing import listed_images
from fusetune.data.roles import ROLES
from fusetune.errors import DataError, counted, name_some

__all__ = ["Folder"]

SPLIT_FOLDERS = frozenset({*ROLES, "val", "valid", "dev"})


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Image files in a folder per class, at any depth below it.

    The class is the first folder's name, the id the path from `path` on. Hidden files, and files
    that do not end like images, are passed over. Images that lie directly in `path` have no labels:
    they can be predicted only. A single image file is such a row, too.

    Args:
        path: The folder above the class folders.
        labels: The first folder's name is the class; false: no row has a label, wherever it lies.
    """

    path: Path
    labels: bool = True

    def read(self) -> Rows:
        """All images, sorted by id; only listed, not opened."""
        if check_path(self.path).is_file():
            self._check_ending()
            return Rows(np.array([self.path.name]), FileImages((self.path,)))
        names = sorted(listed_images(self.path))
        if not names:
            raise DataError(
                f"the folder '{self.path}' holds no images",
                f"files that end in {', '.join(sorted(IMAGE_ENDINGS))}",
                "Check data.path.",
            )
        self._check_names(names)
        images = FileImages(tuple(self.path / name for name in names))
        classes = [name.partition("/")[0] for name in names if "/" in name]
        if not classes or not self.labels:
            return Rows(np.array(names), images)
        loose = [name for name in names if "/" not in name]
        if loose:
            raise DataError(
                f"beside the class folders of '{self.path}' there "
                f"{'is' if len(loose) == 1 else 'are'} {counted(len(loose), 'image')}: {name_some(loose)}",
                "every image in a class folder, or none",
                "Move them into class folders or elsewhere.",
            )
        self._check_splits(set(classes))
        return Rows(np.array(names), images, np.array(classes))

    def _check_ending(self) -> None:
        if self.path.suffix.lower() not in IMAGE_ENDINGS:
            raise DataError(
                f"data.path is the file '{self.path}'",
                "a folder, or a file that ends like an image",
                "Use the source table or arrays for a file of many images.",
            )

    def _check_names(self, names: list[str]) -> None:
        for name in names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                raise DataError(
                    f"the file name {name!a} in '{self.path}' is no UTF-8 text",
                    "file names that other programs can read, too",
                    "Rename the file.",
                )

    def _check_splits(self, classes: set[str]) -> None:
        if classes <= SPLIT_FOLDERS:
            first = sorted(classes)[0]
            raise DataError(
                f"the subfolders of '{self.path}' are {name_some(sorted(classes))}, which are "
                "splits and no classes",
                "one subfolder per class",
                f"Give each split: data: {{train: {{source: folder, path: "
                f"{self.path.name}/{first}}}, test: ...}}.",
            )
