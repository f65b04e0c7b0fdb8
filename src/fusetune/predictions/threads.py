# SPDX-License-Identifier: Apache-2.0
"""Independent pieces of work, as many at a time as there are processors."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_threads"]

P = TypeVar("P")
R = TypeVar("R")


def in_threads(work: Callable[[P], R], pieces: Sequence[P]) -> list[R]:
    """The results in the order of the pieces; for work that lets other threads run.

    Example:
        >>> in_threads(abs, [-1, 2])
        [1, 2]
    """
    known = getattr(os, "sched_getaffinity", None)  # what this process may use; not on every system
    processors = len(known(0)) if known else os.cpu_count() or 1
    if min(processors, len(pieces)) < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(min(processors, len(pieces))) as threads:
        return list(threads.map(work, pieces))
