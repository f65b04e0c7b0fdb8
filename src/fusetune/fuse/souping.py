# SPDX-License-Identifier: Apache-2.0
"""From members' weights to a soup that is safe to use: checked, tried, and no worse than its best.

Layers below know no framework: `Trial` scores weights and re-estimates their statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fusetune.errors import WeightsError
from fusetune.fuse.soup import Candidate, Cooked, Ingredients, Soup, State, Trial
from fusetune.fuse.state_dicts import averaged, check_states

__all__ = ["PATH", "LossPath", "Souped", "Start", "make_soup"]

PATH = (0.25, 0.5, 0.75)
"""Where losses are measured between two members; Frankle et al. (ICML 2020) took 30 points, and
three show the hill between two valleys too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What is known of where members were fine-tuned from.

    Args:
        shared: True or False where it is known, None where it is not.
        state: The weights they share, for methods that measure from them; None: not read.
        reason: Why they do not share it, or why it is not known.
    """

    shared: bool | None
    state: State | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class LossPath:
    """Losses on the straight line between two members' weights.

    Batch-norm statistics are re-estimated everywhere, at the ends too, so that like is compared
    with like: a member's own score, with the statistics it was fine-tuned with, may differ.

    Args:
        ends: Names of both.
        losses: At the first, at every point of `PATH`, and at the second.
    """

    ends: tuple[str, str]
    losses: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between those of the ends; at least 0.

        Reference:
            Frankle, Dziugaite, Roy, Carbin. "Linear mode connectivity and the lottery ticket
            hypothesis". ICML 2020.

        Example:
            >>> LossPath(ends=("a", "b"), losses=(0.25, 0.5, 1.0, 0.75, 0.75)).barrier
            0.5
        """
        first, *between, last = self.losses
        if not np.isfinite([first, last]).all():
            return 0.0
        pairs = zip(PATH, between, strict=True)
        return max(0.0, *(loss - ((1 - at) * first + at * last) for at, loss in pairs))


@dataclass(frozen=True, kw_only=True, eq=False)
class Souped:
    """A soup that was made, or the member that stands in for it.

    Args:
        state: Its weights.
        cooked: What the method gave.
        members: Name → weights as they were fine-tuned, with their scores.
        best: Name of the best member.
        fell_back: True if the soup was worse, and `state` is the best member's.
        paths: From the best member to every other.
    """

    state: State
    cooked: Cooked
    members: Mapping[str, Candidate]
    best: str
    fell_back: bool
    paths: tuple[LossPath, ...]

    @property
    def same_as(self) -> str | None:
        """The member that the soup is, to the bit; None: a mixture."""
        alike = (name for name, member in self.members.items() if self.state is member.state)
        return next(alike, None)


def make_soup(
    soup: Soup,
    states: Mapping[str, State],
    trial: Trial,
    *,
    start: Start,
    statistics: frozenset[str] = frozenset(),
) -> Souped:
    """Check the members, average them by a method, and fall back to the best where that is better.

    Args:
        soup: The method.
        states: Name → weights, unchanged afterwards.
        trial: Scores weights; a member's with the statistics that it was fine-tuned with.
        start: What is known of the members' start.
        statistics: As in `Ingredients`.

    Raises:
        WeightsError: The states cannot be averaged, or the method needs a start that is not known
            or not shared.

    Cost:
        M trials of the members, 4 M - 3 on the paths from the best member to the others, and the
        method's own. A trial is a pass over the rows that score it, and one over the train rows if
        there are batch-norm statistics to re-estimate.
    """
    _check_start(soup, states, start)
    candidates = {name: trial(state, refresh=False) for name, state in states.items()}
    ingredients = Ingredients(members=candidates, start=start.state, statistics=statistics)
    best = ingredients.best
    cooked = soup.cook(ingredients, trial)
    fell_back = cooked.candidate.rank < candidates[best].rank
    return Souped(
        state=candidates[best].state if fell_back else cooked.candidate.state,
        cooked=cooked,
        members=candidates,
        best=best,
        fell_back=fell_back,
        paths=_paths(ingredients, trial),
    )


def _check_start(soup: Soup, states: Mapping[str, State], start: Start) -> None:
    named = dict(states)
    if start.state is not None:
        named |= {"the start": start.state}
    check_states(named)
    if soup.needs_start and (start.state is None or start.shared is not True):
        raise WeightsError(
            f"{soup.name} measures from the weights that all members started from, "
            f"and {start.reason or 'these are not known'}",
            "members of one start",
            "Fine-tune them from the same weights in this run, or take uniform_soup or greedy_soup.",
        )


def _paths(ingredients: Ingredients, trial: Trial) -> tuple[LossPath, ...]:
    """From the best member to every other."""
    best, members = ingredients.best, ingredients.members
    others = [name for name in members if name != best]
    if not others:
        return ()
    from_best = trial(members[best].state).loss
    paths = []
    for other in others:
        shares = [{best: 1 - share, other: share} for share in (*PATH, 1.0)]
        losses = [trial(averaged(ingredients, weights)).loss for weights in shares]
        paths.append(LossPath(ends=(best, other), losses=(from_best, *losses)))
    return tuple(paths)
