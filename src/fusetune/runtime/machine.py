# SPDX-License-Identifier: Apache-2.0
"""What this machine has to offer: cores and free memory; and how many threads a process takes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from fusetune.runtime.runner import Event

__all__ = ["available_bytes", "limit_threads", "num_cores", "num_threads"]

THREADS = "OMP_NUM_THREADS"
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def num_threads() -> int:
    """Threads that one process of numerical code takes: OMP_NUM_THREADS, else every core it may use."""
    given = os.environ.get(THREADS, "")
    return int(given) if given.isdecimal() and int(given) > 0 else num_cores()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int | None:
    """Memory that new processes can take without swapping; None where that is not known.

    The least of what the kernel says is available and of what a container's limit (cgroup v2)
    leaves.
    """
    found = []
    if MEMINFO.exists():
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        found += [1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"]
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdecimal():
        found.append(max(0, int(most) - int(used.read_text())))
    return min(found, default=None)


def limit_threads(number: int, report: Callable[[Event], None]) -> None:
    """A step function: this process computes with so many threads from now on.

    PyTorch, which reads the environment once, is told where it has been imported already.
    """
    os.environ[THREADS] = str(number)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)
