# SPDX-License-Identifier: Apache-2.0
"""TIES: small changes are trimmed, signs elected, and those that agree averaged.

Shapes: M members, P weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.soup import Cooked, Ingredients, Soup, Tensor, Trial
from fusetune.fuse.state_dicts import change_of, measured
from fusetune.predictions.kinds import Floats

__all__ = ["Ties"]


@dataclass(frozen=True, kw_only=True)
class Ties(Soup):
    """Trim each member's changes, elect a sign for every weight, and average what agrees with it.

    Of each member's change theta_m - theta_0 the largest share of entries stays, the rest becomes 0;
    a weight's sign is that of the sum of what stayed; the changes of that sign are averaged over
    the members that have them, scaled by s and added to the start. s is the scaling of the highest
    score on the holdout; of equals the one with the lower loss, then the one nearer to 1.

    Do not use it for members that learned the same thing from the same rows: small changes that all
    share are signal there, and trimming throws it away. It is made for different tasks.

    Args:
        density: Share of a member's changes that stays, the largest; 0.2 as in the paper.
        scalings: Values of s that are tried, each above 0; around 1, which the paper takes where
            nothing can be tried. A single one is taken as it is.

    Cost:
        One trial per scaling, and M partial sorts of P weights.

    Reference:
        Yadav et al. "TIES-merging: resolving interference when merging models". NeurIPS 2023. The
        share is of the whole model, as in the authors' code; entries as large as the last that
        stays all stay; a sum of exactly 0 elects no sign, and that weight stays at the start.
    """

    density: float = 0.2
    scalings: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)

    needs_start: ClassVar[bool] = True
    keeps_equals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise InvalidValue(
                f"density is {self.density}",
                "a share above 0, up to 1",
                "Write 0.2, the default.",
            )
        if not (self.scalings and min(self.scalings) > 0):
            raise InvalidValue(
                f"scalings is {list(self.scalings)}",
                "numbers above 0",
                "Write [1.0], or leave it out to have one chosen.",
            )

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The start and the merged change, by the best scaling."""
        assert ingredients.start is not None
        merged, start = self._merged(ingredients), ingredients.start
        tried = {}
        for scaling in sorted(set(self.scalings), key=lambda s: (abs(s - 1), s)):

            def moved(name: str, _: Tensor, scaling: float = scaling) -> Floats:
                return start[name].astype(float) + scaling * merged[name]

            tried[scaling] = trial(measured(ingredients, moved))
        best = max(tried, key=lambda scaling: tried[scaling].rank)
        settings = {"scaling": best, "density": self.density}
        along = {value: candidate.loss for value, candidate in tried.items()}
        return Cooked(candidate=tried[best], settings=settings, along=along)

    def _merged(self, ingredients: Ingredients) -> Mapping[str, Floats]:
        members, first = sorted(ingredients.members), ingredients.members[ingredients.best].state
        names = [
            name
            for name, tensor in first.items()
            if tensor.dtype.kind == "f" and name not in ingredients.statistics
        ]
        least = {
            member: smallest_kept(
                [change_of(ingredients, member, name) for name in names], self.density
            )
            for member in members
        }
        return {
            name: agreed([trimmed(change_of(ingredients, m, name), least[m]) for m in members])
            for name in names
        }


def smallest_kept(changes: list[Floats], density: float) -> float:
    """The smallest magnitude among the largest `density` of all entries; at least one entry stays.

    Example:
        >>> smallest_kept([np.array([0.1, -3.0]), np.array([2.0])], 0.67)
        2.0
    """
    sizes_P = np.abs(np.concatenate([change.ravel() for change in changes] or [np.zeros(1)]))
    num_kept = max(1, int(density * len(sizes_P) + 1e-9))
    return float(np.partition(sizes_P, len(sizes_P) - num_kept)[len(sizes_P) - num_kept])


def trimmed(change: Floats, least: float) -> Floats:
    """The change without its entries below a magnitude."""
    return np.where(np.abs(change) >= least, change, 0.0)


def agreed(changes: list[Floats]) -> Floats:
    """The mean, weight by weight, of the changes that have the sign of their sum.

    Example:
        >>> agreed([np.array([2.0, 1.0]), np.array([-1.0, 3.0]), np.array([0.0, -1.0])]).tolist()
        [2.0, 2.0]
    """
    sign = np.sign(sum(changes))
    agreeing = [(np.sign(change) == sign) & (change != 0) for change in changes]
    total = sum(
        np.where(agrees, change, 0.0) for agrees, change in zip(agreeing, changes, strict=True)
    )
    return np.asarray(total / np.maximum(sum(agrees.astype(float) for agrees in agreeing), 1.0))
