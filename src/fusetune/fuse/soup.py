# SPDX-License-Identifier: Apache-2.0
"""Interface of a soup: members' weights become the weights of one more member.

Weights are state dicts: mappings of names to NumPy arrays, whatever the framework. What a method
cannot know (how good weights are, which statistics belong to them) is handed in.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fusetune.plugins import plugin_name

__all__ = ["Candidate", "Cooked", "Ingredients", "Soup", "State", "Trial"]

Tensor: TypeAlias = npt.NDArray[np.generic]
State: TypeAlias = Mapping[str, Tensor]
"""The weights and buffers of a model: name → array, never changed in place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """Weights that were tried on rows that trained no member.

    Args:
        state: The weights, their batch-norm statistics re-estimated where they are a mixture.
        score: Of the run's metric, higher is better; minus infinity for outputs that are not finite.
        loss: Of the objective, lower is better; infinity likewise.
    """

    state: State
    score: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """By the score; of equal scores, the lower loss is better."""
        return self.score, -self.loss


class Trial(Protocol):
    """Re-estimates batch-norm statistics, and scores weights."""

    def __call__(self, state: State, *, refresh: bool = True) -> Candidate:
        """Try weights.

        Args:
            state: Unchanged afterwards.
            refresh: Re-estimate the statistics, as mixtures need it; False: keep them.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Ingredients:
    """What a soup is made of. The names, shapes and types of all states agree.

    Args:
        members: Name → weights as they were fine-tuned, with their scores; at least one.
        start: The weights that all members were fine-tuned from; None: not known.
        statistics: Names of the batch-norm statistics: averaged by every method, since `Trial`
            re-estimates them, and no part of what methods measure.
    """

    members: Mapping[str, Candidate]
    start: State | None = None
    statistics: frozenset[str] = frozenset()

    @property
    def best(self) -> str:
        """The member of the highest rank; of equals the first."""
        return max(self.members, key=lambda name: self.members[name].rank)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cooked:
    """What came out of a soup.

    Args:
        candidate: The weights, as they were tried.
        weights: Member → its weight in the average, summing to 1; None where the start has a
            share, or a single number cannot say it.
        settings: What the method chose or measured: name → number.
        along: Coefficient or scaling that was tried → the loss there.
    """

    candidate: Candidate
    weights: Mapping[str, float] | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    along: Mapping[float, float] = field(default_factory=dict)


class Soup(abc.ABC):
    """How to average weights. Plug-ins are frozen, keyword-only dataclasses."""

    needs_start: ClassVar[bool] = False
    """Measures from the pretrained weights, which have to be known and shared."""

    min_members: ClassVar[int] = 2
    """So many members make sense in a recipe; any method takes one."""

    keeps_equals: ClassVar[bool] = True
    """Identical members give that member, whatever the scores. False for a method that scales the
    way from the start: there it depends on what the scores choose."""

    any_order: ClassVar[bool] = True
    """The members' order changes no bit, but between members of equal rank. False for a search that
    takes them in turn."""

    @property
    def name(self) -> str:
        """Name in recipes and results: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def cook(self, ingredients: Ingredients, trial: Trial) -> Cooked:
        """Average the members' weights.

        Args:
            ingredients: Checked, as `souping.make_soup` does it; unchanged afterwards.
            trial: Tries a mixture. Members have been tried already.
        """
