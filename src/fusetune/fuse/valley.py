# SPDX-License-Identifier: Apache-2.0
"""The bottom of a list of losses that falls, then rises, asking for as few of them as possible."""

from collections.abc import Callable
from functools import cache

__all__ = ["valley"]


def valley(loss: Callable[[int], float], count: int, enough: float = 0.0) -> int:
    """Index of the least loss, walked to from the middle of the list.

    Args:
        loss: From an index to its loss; asked once for each index.
        count: Length of the list, at least 1. The first entry is the safest.
        enough: How much less a later entry has to lose than the one before it.

    Example:
        >>> asked = []
        >>> valley(lambda index: asked.append(index) or [9, 4, 2, 3, 8, 9][index], 6), asked
        (2, [1, 2, 3])
    """
    known = cache(loss)
    best = middle = (count - 1) // 2
    while best > 0 and known(best - 1) <= known(best) + enough:
        best -= 1
    while best >= middle and best + 1 < count and known(best + 1) < known(best) - enough:
        best += 1
    return best
