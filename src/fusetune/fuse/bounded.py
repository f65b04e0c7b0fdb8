# SPDX-License-Identifier: Apache-2.0
"""A fusion method that fits on sampled rows with their weights, and on as few as memory allows.

Shapes: N rows.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.folds import hashes
from fusetune.predictions.kinds import Array, Floats, Ids, Kind, Marginals, Probabilities, Values
from fusetune.predictions.sampling import stratified_sample
from fusetune.predictions.stack import Stack, rows_of
from fusetune.predictions.targets import AnyTargets

__all__ = ["Bounded"]


@dataclass(frozen=True, kw_only=True)
class Bounded(FusionMethod[Any]):
    """A method whose rows are a sample: each counts by its weight, and at most so many are read.

    Args:
        method: The method.
        ids: Names of the sampled rows.
        weights_N: `(N,)` their weights.
        most_rows: Rows that fitting may take; of more, a stratified sample is taken, with weights.
        seed: Of that sample.
    """

    method: FusionMethod[Any]
    ids: Ids = field(repr=False)
    weights_N: Floats = field(repr=False)
    most_rows: int
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    @property
    def needs_targets(self) -> bool:  # type: ignore[override]
        """Whether the method does."""
        return self.method.needs_targets

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> Fusion[Any]:
        """Fit the method on some of the rows, with their weights."""
        rows, weights_N = self.sample(targets, sample_weights_N)
        if len(rows) < len(stack):
            stack, targets = stack.take(rows), targets.take(rows)
        same = bool((weights_N == weights_N[:1]).all())
        weights = None if same else weights_N
        return self.method.fit(stack, targets, metric, sample_weights_N=weights)

    def sample(
        self, targets: AnyTargets, sample_weights_N: Array | None = None
    ) -> tuple[Array, Floats]:
        """Positions of the rows that are fitted on, and their weights."""
        weights_N = self.weights_N[rows_of(self.ids, targets.ids)]
        if sample_weights_N is not None:
            weights_N = weights_N * sample_weights_N
        order_N = hashes(targets.ids, self.seed)
        return stratified_sample(targets.strata_N, order_N, self.most_rows, weights_N)
