# SPDX-License-Identifier: Apache-2.0
"""Image files below a folder."""

import os
from pathlib import Path, PurePath

from fusetune.data.inputs import IMAGE_ENDINGS

__all__ = ["listed_images"]


def listed_images(folder: Path) -> list[str]:
    """Paths of the images below a folder, relative to it, with forward slashes, in any order.

    Hidden files and folders, and files that do not end like images, are passed over.
    """
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = PurePath(place).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_ENDINGS
        ]
    return found
