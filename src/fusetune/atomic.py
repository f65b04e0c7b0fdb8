# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent under their final name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` at the end, or vanishes on an error.

    The folder is made if it is not there. The file reaches the disk before it gets its name, so a
    power cut leaves the old one or the new. Temporary names look like `.<stem>.<process>.tmp<suffix>`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
