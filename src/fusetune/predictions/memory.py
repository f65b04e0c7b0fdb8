# SPDX-License-Identifier: Apache-2.0
"""How much memory a run may take, and what share of it each part gets.

All sizes follow from the bound and the pool alone, never from what the machine has free: the same
bound gives the same results everywhere.
"""

import ctypes
import re
from dataclasses import dataclass

from fusetune.errors import InvalidValue

__all__ = ["Budget", "bytes_of", "give_back", "map_arrays"]

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
RESERVED = (
    250 * 10**6
)  # interpreter, NumPy, pyarrow, SciPy: 190 MB were measured (docs/results/memory.md)
LEAST = 400 * 10**6
MAP_THRESHOLD, MAPPED_BYTES = -3, 2**20  # of mallopt: from this size on, memory is returned at once
BLOCK, FUSING, SAMPLE, STATISTICS = 0.4, 0.03, 0.85, 0.25  # shares; not all are held at once


@dataclass(frozen=True)
class Budget:
    """What a bound on the process's resident memory leaves for arrays.

    Args:
        memory_bytes: The bound on all that the process holds.
    """

    memory_bytes: int

    def __post_init__(self) -> None:
        if self.memory_bytes < LEAST:
            raise InvalidValue(
                f"the memory bound is {self.memory_bytes:,} bytes",
                f"at least {LEAST // 10**6} MB, of which Python and its libraries take "
                f"{RESERVED // 10**6}",
                "Give a larger bound, or none if the files fit into memory.",
            )

    @property
    def arrays_bytes(self) -> int:
        """What is left for arrays."""
        return self.memory_bytes - RESERVED

    @property
    def block_bytes(self) -> int:
        """Of the predictions of all members for one block of rows."""
        return int(BLOCK * self.arrays_bytes)

    @property
    def fusing_bytes(self) -> int:
        """Of the predictions that are fused at once: a fusion may need eight times as much."""
        return int(FUSING * self.arrays_bytes)

    @property
    def sample_bytes(self) -> int:
        """Of everything that fitting on sampled rows takes."""
        return int(SAMPLE * self.arrays_bytes)

    @property
    def statistics_bytes(self) -> int:
        """Of rows' statistics held in memory; more of them go to the disk."""
        return int(STATISTICS * self.arrays_bytes)


def bytes_of(memory: str | int) -> int:
    """A number of bytes from how people write it.

    Args:
        memory: `1GB`, `800 MB`, `1.5GiB`, or a number of bytes.

    Raises:
        InvalidValue: It is no such amount.

    Example:
        >>> bytes_of("1GB"), bytes_of("1.5 GiB"), bytes_of(1000)
        (1000000000, 1610612736, 1000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", str(memory))
    if found is None or found[2].upper() not in UNITS:
        raise InvalidValue(
            f"the memory bound is '{memory}'", "an amount of bytes", "Write 1GB or 800MB."
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


def map_arrays() -> None:
    """Let the C library return the memory of every array when it is freed; for the whole process.

    By default glibc keeps what was freed in pieces of up to 32 MB, which a bound then lacks.
    """
    if function := _glibc("mallopt"):
        function(MAP_THRESHOLD, MAPPED_BYTES)


def give_back() -> None:
    """Return to the system what was freed and is still held, by the C library and by pyarrow."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if function := _glibc("malloc_trim"):
        function(0)


def _glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of glibc; None where there is another C library."""
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
