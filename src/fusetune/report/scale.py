# SPDX-License-Identifier: Apache-2.0
"""Scales of the report's plots: from a value to a position in percent of the plot's width or height."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Scale", "finite"]


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn: neither None, nor NaN, nor infinite."""
    return [value for value in values if value is not None and math.isfinite(value)]


@dataclass(frozen=True)
class Scale:
    """A linear scale with ticks at round numbers.

    Args:
        low: Value at 0 %.
        high: Value at 100 %; above `low`.
        step: Distance of the ticks.
    """

    low: float
    high: float
    step: float

    @classmethod
    def covering(
        cls,
        values: Iterable[float | None],
        *,
        pad: float = 0.06,
        num_ticks: int = 4,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> "Scale":
        """The scale that holds all values, padded on both sides by a share of their range.

        Args:
            values: What has to fit; values that cannot be drawn are left out.
            pad: Share of the range that stays free at each end.
            num_ticks: About how many ticks.
            limits: Values that the ends, pads included, do not pass.
        """
        known = finite(values) or [0.0, 1.0]
        low, high = min(known), max(known)
        spread = (high - low) or abs(high) * 0.1 or 1.0
        low, high = low - pad * spread, high + pad * spread
        if low == high or max(known) == min(known):
            low, high = low - spread / 2, high + spread / 2
        low, high = max(low, limits[0]), min(high, limits[1])
        return cls(low, high, _round_step((high - low) / num_ticks))

    def at(self, value: float) -> float:
        """Position in percent, from the low end; two digits, so that pages stay small."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def up(self, value: float) -> float:
        """Position in percent from the top: SVG counts downwards."""
        return round(100 - self.at(value), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions in percent and labels, with no more digits than the step needs."""
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        digits += round(self.step * 10**digits, 6) % 1 != 0  # 0.25, 2.5
        values = [index * self.step for index in range(first, last + 1)]
        return [(self.at(value), f"{value:.{digits}f}".replace("-", "−")) for value in values]


def _round_step(about: float) -> float:
    power = 10 ** math.floor(math.log10(about))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= about * 0.999)
