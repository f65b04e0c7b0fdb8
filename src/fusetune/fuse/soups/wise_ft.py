# SPDX-License-Identifier: Apache-2.0
"""WiSE-FT: between the pretrained weights and the fine-tuned ones."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.errors import InvalidValue
from fusetune.fuse.soup import Cooked, Ingredients, Soup, Trial
from fusetune.fuse.state_dicts import combined

__all__ = ["WiseFt"]


@dataclass(frozen=True, kw_only=True)
class WiseFt(Soup):
    """Go back part of the way from the fine-tuned weights to the pretrained ones.

    theta = (1 - a) theta_0 + a theta_1, where theta_0 is the start, theta_1 the member, or the plain
    average of several, and a the coefficient of the highest score on the holdout; of equals the one
    with the lower loss, then the larger. Of use where rows will come from elsewhere than the train
    rows: what the pretrained weights knew of the world is kept in part.

    Do not use it with `weights: none`, where there is nothing to go back to. A head that is new
    starts near 0: going back then makes probabilities more even, which calibration undoes.

    Args:
        coefficients: Values of a that are tried, each above 0 and at most 1; steps of 0.1, since
            the paper finds the optimum flat and 0.5 close to it. A single one is taken as it is.

    Cost:
        One trial per coefficient.

    Reference:
        Wortsman et al. "Robust fine-tuning of zero-shot models". CVPR 2022. There theta_0 is a
        zero-shot classifier, head and all.
    """

    coefficients: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    needs_start: ClassVar[bool] = True
    min_members: ClassVar[int] = 1
    keeps_equals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.coefficients or not all(0 < a <= 1 for a in self.coefficients):
            raise InvalidValue(
                f"coefficients is {list(self.coefficients)}",
                "numbers above 0, up to 1",
                "Write [0.5], or leave it out for steps of 0.1.",
            )

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The mixture of the best coefficient."""
        members = list(ingredients.members.values())
        tried = {}
        for a in sorted(set(self.coefficients), reverse=True):
            alone = a == 1 and len(members) == 1
            tried[a] = members[0] if alone else trial(combined(ingredients, a))
        best = max(tried, key=lambda a: tried[a].rank)
        along = {value: candidate.loss for value, candidate in tried.items()}
        return Cooked(candidate=tried[best], settings={"coefficient": best}, along=along)
