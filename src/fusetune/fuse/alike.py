# SPDX-License-Identifier: Apache-2.0
"""Members that all say the same: there is nothing to fuse, so fitted methods pass one through."""

from typing import Any

import numpy as np

from fusetune.fuse.forms import over_classes
from fusetune.predictions.kinds import Columnar
from fusetune.predictions.stack import Stack

__all__ = ["all_alike", "same_predictions"]


def all_alike(stack: Stack[Any]) -> bool:
    """Whether all members say exactly the same of the same rows; also true of one member."""
    first = stack.parts[0]
    return all(same_predictions(part, first) for part in stack.parts[1:])


def same_predictions(one: Columnar, other: Columnar) -> bool:
    """Whether two members say exactly the same, whatever the order of their columns."""
    return set(one.columns) == set(other.columns) and np.array_equal(
        over_classes(one, other.columns).array_NC, other.array_NC
    )
