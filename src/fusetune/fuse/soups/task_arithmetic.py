# SPDX-License-Identifier: Apache-2.0
"""Task arithmetic: what the members learned is added up and scaled.

Shapes: M members.
"""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.errors import InvalidValue
from fusetune.fuse.soup import Cooked, Ingredients, Soup, Trial
from fusetune.fuse.state_dicts import combined

__all__ = ["TaskArithmetic"]

GRID = tuple(step / 10 for step in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Soup):
    """Add the members' changes to their start: theta = theta_0 + s sum (theta_m - theta_0).

    The scaling s is the one of the highest score on the holdout; of equals the one with the lower
    loss, then the smaller. At s = 1/M the soup is the plain average; above it goes beyond, which
    pays where members learned different things (other rows, other tasks).

    Do not use it for members that learned the same thing from the same rows: their changes point
    the same way, and the plain average is already as far as each went.

    Args:
        scalings: Values of s that are tried, each above 0; a single one is taken as it is. None:
            0.1 to 1 in steps of 0.1, of the paper's range, and 1/M.

    Cost:
        One trial per scaling.

    Reference:
        Ilharco et al. "Editing models with task arithmetic". ICLR 2023. There s is chosen on
        held-out rows too, in steps of 0.05.
    """

    scalings: tuple[float, ...] | None = None

    needs_start: ClassVar[bool] = True
    keeps_equals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scalings is not None and not (self.scalings and min(self.scalings) > 0):
            raise InvalidValue(
                f"scalings is {list(self.scalings)}",
                "numbers above 0",
                "Write [0.5], or leave it out to have one chosen.",
            )

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The sum with the best scaling."""
        num = len(ingredients.members)
        scalings = (*GRID, 1 / num) if self.scalings is None else self.scalings
        tried = {s: trial(combined(ingredients, s * num)) for s in sorted(set(scalings))}
        best = max(tried, key=lambda s: tried[s].rank)
        along = {value: candidate.loss for value, candidate in tried.items()}
        return Cooked(candidate=tried[best], settings={"scaling": best}, along=along)
