# SPDX-License-Identifier: Apache-2.0
"""Uniform soup: the plain average of all members' weights."""

from dataclasses import dataclass

from fusetune.fuse.soup import Cooked, Ingredients, Soup, Trial
from fusetune.fuse.state_dicts import averaged

__all__ = ["UniformSoup"]


@dataclass(frozen=True, kw_only=True)
class UniformSoup(Soup):
    """Average all members' weights: theta = 1/M sum theta_m.

    Chooses nothing, so the holdout decides only whether the soup or its best member is taken. One
    member is itself; the members' order changes nothing.

    Do not use it where one member is much worse than the others, or where members came to lie in
    different valleys (high learning rates, long training, new heads that differ): `greedy_soup`
    leaves such members out.

    Cost:
        One trial.

    Reference:
        Wortsman et al. "Model soups: averaging weights of multiple fine-tuned models improves
        accuracy without increasing inference time". ICML 2022.
    """

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The average."""
        names = list(ingredients.members)
        weights = dict.fromkeys(names, 1 / len(names))
        if len(names) == 1:
            return Cooked(candidate=ingredients.members[names[0]], weights=weights)
        return Cooked(candidate=trial(averaged(ingredients)), weights=weights)
