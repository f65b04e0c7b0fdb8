# SPDX-License-Identifier: Apache-2.0
"""Interface of a fusion method and of its fitted result."""

import abc
from typing import ClassVar, Generic, TypeVar

from fusetune.fitted import Fitted
from fusetune.metric import Metric
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Fusion", "FusionMethod"]

K = TypeVar("K", bound=Kind)


class Fusion(Fitted, abc.ABC, Generic[K]):
    """A fitted fusion: a frozen dataclass of arrays, numbers, strings and nested fusions only.

    `members` are those with weight: only they have to run at prediction time.
    """

    members: tuple[str, ...]

    @abc.abstractmethod
    def __call__(self, stack: Stack[K]) -> K:
        """Combine the members' predictions; the stack may hold more members, in any order."""

    def weights(self) -> dict[str, float] | None:
        """Member → weight, summing to 1, or None where a single number cannot say it."""
        return None


class FusionMethod(abc.ABC, Generic[K]):
    """How to combine predictions. Plug-ins are frozen, keyword-only dataclasses.

    The fields are the hyperparameters (recipe keys, command line options and documentation at
    once); a method that draws random numbers has a field `seed`.
    """

    accepts: ClassVar[frozenset[type[Kind]]]
    needs_targets: ClassVar[bool] = True
    fit_copies: ClassVar[float] = 24.0
    """What fitting holds at most besides the stack, in bytes per byte of it (in single precision):
    where memory is bounded, so many fewer rows are fitted on. 0: rows are not read."""

    quantiles: ClassVar[bool] = True
    """Takes values that are quantiles; only read where it accepts values."""
    reads_labels: ClassVar[bool] = False
    """Reads nothing but the class that each member names: calibrating members changes nothing."""

    @property
    def name(self) -> str:
        """Name in recipes and results: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def fit(
        self,
        stack: Stack[K],
        targets: AnyTargets,
        metric: Metric[K],
        *,
        sample_weights_N: Array | None = None,
    ) -> Fusion[K]:
        """Fit on rows that trained no member.

        Args:
            stack: Predictions of M members for N holdout rows.
            targets: Their truth (`Targets`, `LabelSets` or `Numbers`, as the kind demands), in the
                same order; None only if `needs_targets` is False.
            metric: What the user is judged by; methods with an objective of their own ignore it.
            sample_weights_N: `(N,)` non-negative weights of the rows; None: all 1.
        """
