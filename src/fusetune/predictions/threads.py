# SPDX-License-Identifier: Apache-2.0
"""Independent pieces of work, as many at a time as there are processors."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_threads", "num_processors"]

P = TypeVar("P")
R = TypeVar("R")


def in_threads(work: Callable[[P], R], pieces: Sequence[P], *, most: int | None = None) -> list[R]:
    """The results in the order of the pieces; for work that lets other threads run.

    Args:
        work: Done for each piece.
        pieces: What is worked on.
        most: At most so many at a time, where each takes much memory; None: as many as there are
            processors.

    Example:
        >>> in_threads(abs, [-1, 2])
        [1, 2]
    """
    processors = num_processors()
    number = min(processors, len(pieces), most or processors)
    if number < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(work, pieces))


def num_processors() -> int:
    """How many this process may use."""
    known = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(known(0)) if known else os.cpu_count() or 1
