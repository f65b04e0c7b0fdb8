# SPDX-License-Identifier: Apache-2.0
"""Save and load any fitted fusion; see `fusetune.fitted` for the files."""

from pathlib import Path
from typing import Any

from fusetune.errors import InvalidValue
from fusetune.fitted import load_fitted, save_fitted
from fusetune.fuse.method import Fusion

__all__ = ["load_fusion", "save_fusion"]


def save_fusion(fusion: Fusion[Any], folder: Path) -> None:
    """Write a fitted fusion into a folder; see `save_fitted`."""
    save_fitted(fusion, folder)


def load_fusion(folder: Path) -> Fusion[Any]:
    """Read a fusion that `save_fusion` wrote; see `load_fitted` for what may go wrong.

    Raises:
        InvalidValue: The folder holds another fitted object.
    """
    fitted = load_fitted(folder)
    if not isinstance(fitted, Fusion):
        raise InvalidValue(
            f"'{folder}' holds a {type(fitted).__name__}", "a fusion", "Check the path."
        )
    return fitted
