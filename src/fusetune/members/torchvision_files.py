# SPDX-License-Identifier: Apache-2.0
"""torchvision's models, and its published weights in torch's cache."""

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fusetune.errors import WeightsError
from fusetune.plugins import missing_extra

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

__all__ = ["fetched", "torchvision_models"]

DOWNLOAD_TIMEOUT_S = 30.0
"""Of one silent read, not of the whole download."""


def torchvision_models() -> ModuleType:
    """The module `torchvision.models`.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_extra(str(error.name), "vision") from None
    return models


def fetched(entry: "WeightsEnum", member_name: str) -> Path:
    """Published weights in torch's cache (`TORCH_HOME`), downloaded if they are not there.

    Args:
        entry: torchvision's description of them.
        member_name: For messages.

    Raises:
        WeightsError: They cannot be downloaded.
    """
    from torch import hub

    path = Path(hub.get_dir()) / "checkpoints" / str(entry.url.rpartition("/")[2])
    if path.exists():
        return path
    digest = hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout(DOWNLOAD_TIMEOUT_S):
            hub.download_url_to_file(
                entry.url, str(path), digest and digest[1], progress=sys.stderr.isatty()
            )
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of '{member_name}' could not be downloaded ({error})",
            f"network access to {entry.url}, or the file itself",
            f"Fetch it elsewhere and put it at {path} (set TORCH_HOME to move that folder), "
            f"or name it in the recipe: weights: path/to/{path.name}; or write weights: none.",
        ) from None
    return path


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit the wait for a silent server: urlopen as torch calls it would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
