# SPDX-License-Identifier: Apache-2.0
"""The learning-rate range test: at which rates the loss falls, read from a few steps at each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusetune.predictions.kinds import Array

__all__ = ["RangeTest", "concluded", "has_diverged", "suggested", "trial_rates"]

STEPS = 100
"""Of a whole test, as fastai's `lr_find` and Lightning's take."""
LOWEST, HIGHEST = 1e-7, 10.0
"""Rates of the first and the last step, as in fastai; nearly all tests end before the last."""
SMOOTHING = 0.9
"""Share of the mean loss that is kept from step to step."""
DIVERGED = 4.0
"""The test ends at a smoothed loss of so many times the lowest, as in fastai and Lightning."""
MARGIN = 10.0
"""The suggestion is the rate of the lowest loss divided by this, as fastai's `minimum` has it."""
FALL = 0.05
"""Share of the first loss by which the lowest has to be below it: else nothing was learned."""


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """What a test found.

    Args:
        rates: The learning rate of every step.
        losses: The training loss of every step, before it.
        lr: The peak learning rate that follows.
        fell: False if no rate lowered the loss, and `lr` is the optimizer's default.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    lr: float
    fell: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user may want to know of it."""
        if not self.fell:
            note = f"the learning-rate range test found no rate that lowers the loss: {self.lr:.2g} was taken"
        else:
            note = f"the learning-rate range test took {self.lr:.2g} as the peak learning rate"
        return (note,)


def trial_rates() -> tuple[float, ...]:
    """The rates of a whole test, evenly spaced by their logarithms."""
    return tuple(float(rate) for rate in np.geomspace(LOWEST, HIGHEST, STEPS))


def concluded(losses: Sequence[float], default: float) -> RangeTest:
    """What a test found.

    Args:
        losses: Of the steps at the first of the `trial_rates`.
        default: The learning rate if none lowers the loss.
    """
    rates = trial_rates()[: len(losses)]
    lr = suggested(rates, losses)
    return RangeTest(
        rates=rates,
        losses=tuple(losses),
        lr=default if lr is None else lr,
        fell=lr is not None,
    )


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The peak learning rate that a test suggests; None if the loss never fell.

    A tenth of the rate at which the smoothed loss is lowest: there it is about to rise.

    Args:
        rates: Of each step, rising.
        losses: As many.

    Reference:
        Smith, "Cyclical learning rates for training neural networks", WACV 2017. He reads the rate
        off the plot; of the rules that do without a reader this is one of fastai's (`minimum`).
        docs/results/lr_range.md compares it with others.
    """
    if not losses:
        return None
    smooth = smoothed(losses)
    lowest = int(np.argmin(smooth))
    if smooth[lowest] > (1 - FALL) * smooth[0]:
        return None
    return rates[lowest] / MARGIN


def has_diverged(losses: Sequence[float]) -> bool:
    """True if going on would teach nothing more."""
    if not math.isfinite(losses[-1]):
        return True
    smooth = smoothed(losses)
    return bool(smooth[-1] > DIVERGED * smooth.min())


def smoothed(losses: Sequence[float]) -> Array:
    """Exponential moving averages, without the bias towards 0 that they begin with (Adam's way)."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**number))
    return np.array(means)
