# SPDX-License-Identifier: Apache-2.0
"""Greedy soup: members are added from the best down, and stay if the average is no worse."""

from dataclasses import dataclass

from fusetune.fuse.soup import Cooked, Ingredients, Soup, Trial
from fusetune.fuse.state_dicts import averaged

__all__ = ["GreedySoup"]


@dataclass(frozen=True, kw_only=True)
class GreedySoup(Soup):
    """Start from the best member; add each other, best first, where the average does not get worse.

    What stays is averaged with equal weights. Better and worse are the run's metric on the holdout,
    and where that is equal the loss. Never worse there than the best member. One member is itself;
    the members' order matters only between members of equal score and loss.

    Do not use it with very few holdout rows (below some 100): it then keeps members by luck, and
    `uniform_soup` chooses less.

    Cost:
        M - 1 trials.

    Reference:
        Wortsman et al. "Model soups". ICML 2022, recipe 1. There a tie in accuracy adds the
        member; here it does if the loss does not rise.
    """

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The average of the members that stayed."""
        members = ingredients.members
        first, *others = sorted(members, key=lambda name: members[name].rank, reverse=True)
        kept, soup = [first], members[first]
        for name in others:
            weights = dict.fromkeys([*kept, name], 1 / (len(kept) + 1))
            candidate = trial(averaged(ingredients, weights))
            if candidate.rank >= soup.rank:
                kept, soup = [*kept, name], candidate
        shares = {name: (name in kept) / len(kept) for name in members}
        return Cooked(candidate=soup, weights=shares)
