# SPDX-License-Identifier: Apache-2.0
"""The loss of a model with auxiliary heads: what all objectives share."""

from collections.abc import Callable
from typing import Any

__all__ = ["AUXILIARY_WEIGHT", "with_auxiliary"]

Tensor = Any

AUXILIARY_WEIGHT = 0.4
"""Of every auxiliary head's loss, as in torchvision's training of Inception v3 (Szegedy et al. 2015
took 0.3 for GoogLeNet)."""


def with_auxiliary(outputs: Tensor, loss_of: Callable[[Tensor], Tensor], weight: float) -> Tensor:
    """The main head's loss plus the weighted losses of the auxiliary heads.

    Args:
        outputs: `(B, C)`, or a tuple of such, the main head's first; None stands for a head that is
            off.
        loss_of: From one head's outputs, in single precision at least, to a scalar.
        weight: Of an auxiliary head.
    """
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = loss_of(_widened(main))
    for head in auxiliary:
        if head is not None:
            loss = loss + weight * loss_of(_widened(head))
    return loss


def _widened(outputs: Tensor) -> Tensor:
    """Half-precision outputs in single precision; double precision stays."""
    return outputs if outputs.itemsize == 8 else outputs.float()
