# SPDX-License-Identifier: Apache-2.0
"""Model Stock: between the start and the average, as far as the members' angle says.

Shapes: M members.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.fuse.soup import Cooked, Ingredients, Soup, Tensor, Trial
from fusetune.fuse.state_dicts import change_of, measured
from fusetune.predictions.kinds import Floats

__all__ = ["ModelStock"]


@dataclass(frozen=True, kw_only=True)
class ModelStock(Soup):
    """Go from the start towards the members' average, tensor by tensor, by the angle between them.

    theta = t average(theta_m) + (1 - t) theta_0, with t = M c / (1 + (M - 1) c) for every tensor,
    where c is the mean cosine over pairs of members' changes theta_m - theta_0. Members whose
    changes agree (c = 1) give their average; where the changes have nothing in common (c = 0),
    they are taken for noise and the start stays. Two members are enough. Chooses nothing on the
    holdout. One member is itself; the members' order changes nothing.

    Do not use it where members were fine-tuned on different rows or tasks: what only one of them
    knows looks like noise.

    Cost:
        One trial, and M^2 dot products of the weights.

    Reference:
        Jang, Yun, Han. "Model Stock: all we need is just a few fine-tuned models". ECCV 2024. t is
        kept in [0, 1]: opposing changes (c < 0) keep the start. Where a tensor moved in fewer than
        two members there is no angle, and t is 1.
    """

    needs_start: ClassVar[bool] = True

    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """The mixture that the angles give; `ratio` is the mean t over all weights."""
        names = list(ingredients.members)
        if len(names) == 1:
            return Cooked(candidate=ingredients.members[names[0]], weights={names[0]: 1.0})
        ratios: dict[str, tuple[float, int]] = {}

        def mixed(name: str, tensor: Tensor) -> Floats:
            changes = [change_of(ingredients, member, name) for member in sorted(names)]
            ratio = interpolation_ratio(changes)
            ratios[name] = (ratio, tensor.size)
            assert ingredients.start is not None
            start: Floats = ingredients.start[name].astype(float)
            return start + ratio * (sum(changes) / len(changes))

        candidate = trial(measured(ingredients, mixed))
        num = sum(size for _, size in ratios.values())
        mean = sum(ratio * size for ratio, size in ratios.values()) / max(num, 1)
        return Cooked(candidate=candidate, settings={"ratio": mean})


def interpolation_ratio(changes: list[Floats]) -> float:
    """The t of one tensor, from the members' changes of it.

    Example:
        >>> round(interpolation_ratio([np.array([1.0, 0.0]), np.array([3.0, 4.0])]), 6)  # cosine 0.6
        0.75
    """
    norms = [float(np.linalg.norm(change)) for change in changes]
    moved = [change / norm for change, norm in zip(changes, norms, strict=True) if norm > 0]
    if len(moved) < 2:
        return 1.0
    cosines = [float(np.sum(one * two)) for one, two in itertools.combinations(moved, 2)]
    cosine = min(sum(cosines) / len(cosines), 1.0)
    if cosine <= 0:
        return 0.0
    return len(changes) * cosine / (1 + (len(changes) - 1) * cosine)
