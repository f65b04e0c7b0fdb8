# SPDX-License-Identifier: Apache-2.0
"""One at a time, of all processes and threads that share a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone"]


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Wait until nobody else is within a block of this name.

    The lock is `flock`'s on a file of its own beside the steps: the kernel frees it when a process
    dies.

    Args:
        folder: Of the steps; it is made.
        name: What is to be made by one only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
