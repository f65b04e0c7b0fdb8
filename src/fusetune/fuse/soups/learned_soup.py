# SPDX-License-Identifier: Apache-2.0
"""Learned soup: the weighted average of weights that loses least on the holdout.

Shapes: M members.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.fuse.simplex import searched_weights
from fusetune.fuse.soup import Candidate, Cooked, Ingredients, Soup, Trial
from fusetune.fuse.state_dicts import averaged
from fusetune.predictions.kinds import Floats

__all__ = ["LearnedSoup"]


@dataclass(frozen=True, kw_only=True)
class LearnedSoup(Soup):
    """Search member weights, at least 0 and summing to 1, whose average loses least.

    theta = sum w_m theta_m with the w of the lowest loss on the holdout, found by moving weight
    between members from the plain average and from every member: no gradients, so any framework and
    any architecture will do. Never a higher loss there than the plain average and every member. One
    member is itself; the members' order decides only where the search meets equal losses.

    Do not use it with many members (the trials grow with their number), or with so few holdout rows
    that M weights fit noise.

    Cost:
        Up to 48 M trials, 15 M as a rule.

    Reference:
        Wortsman et al. "Model soups". ICML 2022, appendix I. There the weights follow the gradient
        of the loss, with a temperature learned beside them; here calibration is a step of its own.
    """

    any_order: ClassVar[bool] = False

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The average with the weights that were found."""
        names = list(ingredients.members)
        tried: dict[tuple[float, ...], Candidate] = {}
        for name, corner_M in zip(names, np.eye(len(names)), strict=True):
            tried[tuple(corner_M.tolist())] = ingredients.members[name]
        corners = list(tried)

        def candidate(weights_M: Floats) -> Candidate:
            key = tuple(weights_M.tolist())
            if key not in tried:
                weights = dict(zip(names, key, strict=True))
                tried[key] = trial(averaged(ingredients, weights))
            return tried[key]

        starts = [np.full(len(names), 1 / len(names)), *map(np.array, corners)]
        weights_M, _ = searched_weights(lambda w_M: -candidate(w_M).loss, starts)
        weights = dict(zip(names, weights_M.tolist(), strict=True))
        return Cooked(candidate=candidate(weights_M), weights=weights)
