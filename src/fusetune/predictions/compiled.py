# SPDX-License-Identifier: Apache-2.0
"""Irregular loops, compiled by numba and kept compiled from one process to the next.

Only modules called `numba_*.py` use it, and those are imported where they are used.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from fusetune.plugins import missing_extra

try:
    import numba
except ModuleNotFoundError as error:
    raise missing_extra("numba", "detection") from error

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function in machine code; it lets other threads run meanwhile.

    What it calls has to be compiled too.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder that the compiled code could be kept in
        return cast(F, numba.njit(nogil=True)(function))
