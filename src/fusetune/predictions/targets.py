# SPDX-License-Identifier: Apache-2.0
"""Ground truth, as types of its own: never a prediction, never mixed up with one.

`Probabilities` are judged by `Targets`, `Marginals` by `LabelSets`, `Values` by `Numbers`.

Shapes: N rows, C classes, D numbers.
"""

import abc
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.kinds import Array, Floats, Ids, as_ids

__all__ = ["AnyTargets", "GroundTruth", "LabelSets", "Numbers", "Targets", "replaced"]

Integers = npt.NDArray[np.int64]

STRATA = 10  # of numbers: with deciles, five folds of 50 rows still get one row of each

AnyTargets: TypeAlias = Any
"""Targets, LabelSets or Numbers, as the kind demands: interfaces say it, a plug-in names its own."""


T = TypeVar("T")


class GroundTruth(abc.ABC):
    """The truth about rows named by ids. Immutable; sliced along rows only."""

    ids: Ids
    """`(N,)` unique row names."""

    @property
    @abc.abstractmethod
    def strata_N(self) -> Integers:
        """`(N,)` numbers from 0 of groups that every fold should hold evenly."""

    @abc.abstractmethod
    def take(self, rows: Array) -> Self:
        """The truth of some rows, by position or by mask, in the order given."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Targets(GroundTruth):
    """The true class of every row.

    Args:
        ids: `(N,)` unique row names.
        classes: C class names; every target is one of them, not every one need occur.
        labels_N: `(N,)` indices into `classes`.
    """

    ids: Ids
    classes: tuple[str, ...]
    labels_N: Integers

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        labels_N = np.asarray(self.labels_N, dtype=np.int64)
        object.__setattr__(self, "labels_N", labels_N)
        assert labels_N.shape == self.ids.shape
        assert not len(labels_N) or 0 <= labels_N.min() <= labels_N.max() < len(self.classes)

    @classmethod
    def from_names(
        cls, ids: Ids, names_N: Sequence[str] | Array, classes: Sequence[str] = ()
    ) -> Self:
        """Targets from class names.

        Args:
            ids: `(N,)` unique row names.
            names_N: `(N,)` class names.
            classes: Known class names, which fix the order; empty: the sorted names that occur.

        Raises:
            PredictionError: A target is not among the known classes.
        """
        names_N = np.asarray(names_N).astype(str)
        names = names_N.tolist()
        occurring = set(names)
        known = tuple(classes) or tuple(sorted(occurring))
        position = {name: index for index, name in enumerate(known)}
        strange = sorted(occurring - set(position))
        if strange:
            raise PredictionError(
                f"the targets hold {name_some(strange)}",
                f"only the classes {name_some(known, most=12)}",
                "Rename these targets, or give predictions that have a column for them.",
            )
        return cls(ids, known, np.array([position[name] for name in names], dtype=np.int64))

    @property
    def strata_N(self) -> Integers:
        """The classes."""
        return self.labels_N

    def take(self, rows: Array) -> Self:
        """Targets of some rows, by position or by mask, in the order given."""
        return replaced(self, ids=self.ids[rows], labels_N=self.labels_N[rows])

    def columns(self, classes: Sequence[str]) -> Integers:
        """`(N,)` positions of the true classes among other class names, -1 where absent."""
        position = {name: index for index, name in enumerate(classes)}
        return np.array([position.get(name, -1) for name in self.classes] or [-1])[self.labels_N]

    def names(self) -> npt.NDArray[np.str_]:
        """`(N,)` class names."""
        return np.asarray(self.classes, dtype=str)[self.labels_N]


@dataclass(frozen=True, eq=False)
class LabelSets(GroundTruth):
    """The set of true classes of every row (multi-label); it may be empty.

    Args:
        ids: `(N,)` unique row names.
        classes: C class names.
        present_NC: `(N, C)` booleans.
    """

    ids: Ids
    classes: tuple[str, ...]
    present_NC: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        object.__setattr__(self, "present_NC", np.asarray(self.present_NC, dtype=bool))
        assert self.present_NC.shape == (len(self.ids), len(self.classes))

    @property
    def strata_N(self) -> Integers:
        """Each row's rarest class, so that rare ones reach every fold; C where a row has none."""
        counts_C = self.present_NC.sum(axis=0)
        rarity_NC = np.where(self.present_NC, counts_C, len(self.ids) + 1)
        rarest_N = rarity_NC.argmin(axis=1)
        return np.where(self.present_NC.any(axis=1), rarest_N, len(self.classes))

    def take(self, rows: Array) -> Self:
        """Label sets of some rows, by position or by mask, in the order given."""
        return replaced(self, ids=self.ids[rows], present_NC=self.present_NC[rows])

    def over(self, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
        """`(N, len(classes))` booleans in the order of other class names; unknown ones are absent."""
        position = {name: index for index, name in enumerate(self.classes)}
        wider_NC = np.pad(self.present_NC, ((0, 0), (0, 1)))
        return wider_NC[:, [position.get(name, len(self.classes)) for name in classes]]


@dataclass(frozen=True, eq=False)
class Numbers(GroundTruth):
    """The true numbers of every row (regression).

    Args:
        ids: `(N,)` unique row names.
        names: D names of the numbers.
        values_ND: `(N, D)` finite numbers, in double precision.
    """

    ids: Ids
    names: tuple[str, ...]
    values_ND: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "values_ND", np.asarray(self.values_ND, dtype=np.float64))
        assert self.values_ND.shape == (len(self.ids), len(self.names)) and self.names
        assert np.isfinite(self.values_ND).all()

    @property
    def strata_N(self) -> Integers:
        """Tenths of the rows by the first number; equal numbers are in one."""
        values_N = self.values_ND[:, 0]
        ranks_N = np.searchsorted(np.sort(values_N), values_N)
        return ranks_N * STRATA // max(1, len(self.ids))

    def take(self, rows: Array) -> Self:
        """Numbers of some rows, by position or by mask, in the order given."""
        return replaced(self, ids=self.ids[rows], values_ND=self.values_ND[rows])


def replaced(whole: T, **fields: object) -> T:
    """A copy with other fields, not checked again: rows of what was checked."""
    made = copy.copy(whole)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
