# SPDX-License-Identifier: Apache-2.0
"""One thread for small matrices: faster on a busy machine, and the same bits on every machine."""

import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]

BRINGERS = ("scipy.linalg", "sklearn", "torch")  # packages that load a BLAS or threads of their own


def one_thread() -> AbstractContextManager[Any]:
    """Run the block's matrix products on one thread, and restore the setting afterwards.

    Fitting multiplies thousands of small matrices; on a machine whose cores are busy, threads that
    wait for one another made it 10 to 100 times slower. The order of additions, and with it the
    last bit of every result, also no longer depends on the number of cores.

    It holds for the libraries loaded so far: SciPy brings one of its own, so import it first.
    """
    limits: AbstractContextManager[Any] = _controller(
        tuple(name in sys.modules for name in BRINGERS)
    ).limit(limits=1, user_api="blas")
    return limits


@cache
def _controller(loaded: tuple[bool, ...]) -> "ThreadpoolController":
    """Looking for the loaded libraries takes 2 ms, which small fits would pay again and again."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
