# SPDX-License-Identifier: Apache-2.0
"""What members and fusions cost: measured seconds, and parameters to keep in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Cost", "cost_ratio", "total_cost"]

N = TypeVar("N", int, float)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one member, of a fusion's own arithmetic, or of both together.

    Args:
        fit_s: Seconds of fine-tuning, or of fitting the fusion.
        predict_s_per_row: Seconds per predicted row.
        parameters: Numbers that the model holds.

    None means not known (a member that came as a prediction file), which is not 0.
    """

    fit_s: float | None = None
    predict_s_per_row: float | None = None
    parameters: int | None = None


def total_cost(members: Iterable[Cost], own: Cost | None = None) -> Cost:
    """Cost of a fusion: the sum over the members that it runs, plus its own.

    What any part does not know is unknown in the sum. Only members with weight belong in it. A
    fusion's own `parameters` may stay unknown: they are its weights, few beside any model's.

    Example:
        >>> total_cost([Cost(predict_s_per_row=1.5), Cost(predict_s_per_row=0.5)]).predict_s_per_row
        2.0
    """
    parts = [*members]
    own = own or Cost(fit_s=0.0, predict_s_per_row=0.0)
    return Cost(
        fit_s=_sum([*(part.fit_s for part in parts), own.fit_s]),
        predict_s_per_row=_sum(
            [*(part.predict_s_per_row for part in parts), own.predict_s_per_row]
        ),
        parameters=_sum([*(part.parameters for part in parts), own.parameters or 0]),
    )


def cost_ratio(chosen: Cost, best_member: Cost) -> float | None:
    """Seconds per row of the chosen predictor over those of the best member; None if unknown.

    Example:
        >>> cost_ratio(Cost(predict_s_per_row=0.006), Cost(predict_s_per_row=0.002))
        3.0
    """
    if chosen.predict_s_per_row is None or not best_member.predict_s_per_row:
        return None
    return chosen.predict_s_per_row / best_member.predict_s_per_row


def _sum(values: Iterable[N | None]) -> N | None:
    total: N | None = None
    for value in values:
        if value is None:
            return None
        total = value if total is None else total + value
    return total
