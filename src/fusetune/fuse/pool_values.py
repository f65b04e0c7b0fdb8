# SPDX-License-Identifier: Apache-2.0
"""What a metric makes of a pool with one more member, for each member in turn.

Shapes: M members.
"""

import abc

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats

__all__ = ["PoolValues"]

Integers = npt.NDArray[np.int64]


class PoolValues(abc.ABC):
    """Values of a metric for the members chosen so far plus each of some members in turn."""

    @abc.abstractmethod
    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        """`(len(members),)` values of the pool with one more of each."""

    @abc.abstractmethod
    def add(self, member: int) -> None:
        """Choose a member."""
