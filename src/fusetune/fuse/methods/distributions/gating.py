# SPDX-License-Identifier: Apache-2.0
"""Gating: weights that depend on the row, by what the members say of it and by its features.

Shapes: M members, N rows, F inputs of the gate, D numbers that are predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.confidence import confidence_NS
from fusetune.fuse.evidence import filled_arrays, truth_NC
from fusetune.fuse.forms import WeightedAverage, fit_weights, true_probs_MN
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.row_weights import (
    Scale,
    feature_names,
    feature_vectors,
    feature_widths,
    pool_by_row,
)
from fusetune.fuse.softmax_gate import GateLoss, LogLosses, SquaredErrors, choose_gate, gate_weights
from fusetune.metric import Metric
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Array, Columnar, Floats, Kind, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Numbers, Targets

__all__ = ["GatedAverage", "Gating"]

LIMIT = 5.0  # standard deviations: how far from the holdout an input may pull


@dataclass(frozen=True, kw_only=True)
class Gating(FusionMethod[Any]):
    """Weighted averaging with weights for each row: softmax over m of a_m + V_m · z(row).

    The inputs z are, for class probabilities, each member's largest probability, entropy (as a
    share of log C), margin and the share of the others that disagree with it; and the features
    that the stack carries. All are standardized as on the holdout, cut off at 5 deviations, and
    divided by the root of how many there are in their block (the statistics, each feature), so
    that long vectors weigh no more than short ones. For values (regression) only the features say
    where a member is good: without any, the weights are the same for all rows.

    a and V minimize the log-loss of the weighted average (for values, half the squared error over
    that of the plain mean, column by column), plus penalty/2 (|V|^2 + 0.01 |a|^2): a strong
    penalty leaves fixed weights, a stronger one the plain mean. The penalty is weakened along the
    grid for as long as the cross-validated loss falls. If even then the gain over the plain mean
    is not above its standard error, or if there are fewer than `min_rows` rows, the result is the
    plain mean. One member alone passes through.

    Columns that a member does not have are left to the others, as in `weighted_mean`. Do not use
    it for quantiles (refused), nor with few rows, where it falls back to the mean at best.

    Args:
        features: Names of the stack's features to look at; None: all that it has; empty: none.
        penalties: Strengths to choose from, for the sum of the rows' losses; powers of ten, as in
            `stacking`, up to where only fixed weights are left. A single one is not questioned.
        folds: Folds of the cross-validation; 5 as in scikit-learn.
        min_rows: Fewest holdout rows for which a gate is tried; 50 is ten in each fold.
        seed: Deals the rows to the folds; any number serves, 0 as everywhere else.

    Cost:
        (folds + 1) fits per penalty, each about a hundred passes over N M F multiplications, where
        F is 4 M and the features' widths.

    Reference:
        Jacobs, Jordan, Nowlan, Hinton. "Adaptive mixtures of local experts". Neural Computation,
        1991, for members that stay as they are. Inputs, penalty and retreat to the mean are ours.

    Example:
        >>> from fusetune.metrics.log_loss import LogLoss
        >>> ids, classes = np.arange(60), ("x", "y")
        >>> left = Probabilities(ids, classes, np.array([[0.8, 0.2]] * 60))
        >>> right = Probabilities(ids, classes, np.array([[0.3, 0.7]] * 60))
        >>> place = {"place": Values(ids, ("km",), np.arange(60.0)[:, None])}
        >>> stack = Stack.align({"left": left, "right": right}, features=place)
        >>> targets = Targets.from_names(ids, ["x"] * 30 + ["y"] * 30)
        >>> fusion = Gating().fit(stack, targets, LogLoss())
        >>> fusion.row_weights_NM(stack)[[0, -1]].round(2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    features: tuple[str, ...] | None = None
    penalties: tuple[float, ...] = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
    folds: int = 5
    min_rows: int = 50
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Values})
    quantiles: ClassVar[bool] = False

    def __post_init__(self) -> None:
        wrong = {
            "penalties": (not self.penalties or min(self.penalties) <= 0, "numbers above 0"),
            "folds": (self.folds < 2, "a whole number of at least 2"),
            "min_rows": (self.min_rows < 1, "a whole number of at least 1"),
        }
        for name, (bad, expected) in wrong.items():
            if bad:
                raise InvalidValue(
                    f"{name} is {getattr(self, name)}",
                    expected,
                    "Change it, or leave it out for the default.",
                )

    def fit(
        self,
        stack: Stack[Any],
        targets: Targets | Numbers | None,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> "GatedAverage | WeightedAverage":
        """The gate, or the plain mean; the metric is not read.

        Raises:
            PredictionError: There are no rows, a named feature is missing, the members give
                quantiles, or their values are named otherwise than the targets.
        """
        assert targets is not None
        weights_N = fit_weights(stack, targets, sample_weights_N)
        order = np.argsort(stack.ids)  # sums then do not depend on the order of the rows
        stack, targets, weights_N = stack.take(order), targets.take(order), weights_N[order]
        names = feature_names(stack, self.features)
        widths = feature_widths(stack, names)
        loss = _loss(stack, targets, weights_N)
        plain = WeightedAverage(members=stack.members, weights_M=np.ones(len(stack.members)))
        if len(stack.members) == 1 or len(stack) < self.min_rows:
            return plain
        inputs_NF = _inputs(stack, names, widths)
        scale = Scale.of(inputs_NF, weights_N)
        folds_N = stratified_folds(targets, min(self.folds, len(targets)), self.seed)
        scaled_NF = _scaled(inputs_NF, scale, widths)
        found = choose_gate(scaled_NF, loss, weights_N, self.penalties, folds_N)
        if found is None:
            return plain
        return GatedAverage(
            members=stack.members,
            features=names,
            widths=widths,
            scale=scale,
            penalty=found[0],
            coefficients_FM=found[1],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedAverage(Fusion[Any]):
    """Fitted gate: plain arrays.

    Args:
        members: M member names.
        features: Names of the stack's features that it looks at.
        widths: How many numbers each has.
        scale: Standardization of the inputs.
        penalty: The penalty that was chosen; not read when predicting.
        coefficients_FM: `(F + 1, M)` V, and in the last row a.
    """

    members: tuple[str, ...]
    features: tuple[str, ...]
    widths: tuple[int, ...]
    scale: Scale
    penalty: float
    coefficients_FM: Floats

    def __call__(self, stack: Stack[Any]) -> Columnar:
        """The average with each row's own weights."""
        stack = stack.select(self.members)
        return pool_by_row(stack.parts, self.row_weights_NM(stack).T, stack.classes)

    def row_weights_NM(self, stack: Stack[Any]) -> Floats:
        """`(N, M)` weights of the members in every row, which sum to 1 within 1e-9 M."""
        inputs_NF = _inputs(stack.select(self.members), self.features, self.widths)
        return gate_weights(_scaled(inputs_NF, self.scale, self.widths), self.coefficients_FM)


def _inputs(stack: Stack[Any], names: Sequence[str], widths: Sequence[int]) -> Floats:
    """`(N, F)` statistics of the members (for probabilities), then features, as they are."""
    vectors_ND = feature_vectors(stack, names, widths)
    if isinstance(stack.parts[0], Values):
        return vectors_ND
    return np.concatenate([confidence_NS(stack), vectors_ND], axis=1)


def _scaled(inputs_NF: Floats, scale: Scale, widths: Sequence[int]) -> Floats:
    """Standardized, cut off, and divided by the root of the width of their block."""
    blocks = [inputs_NF.shape[1] - sum(widths), *widths]
    roots_F = np.repeat(np.sqrt(np.maximum(blocks, 1)), blocks)
    return np.clip(scale(inputs_NF), -LIMIT, LIMIT) / roots_F


def _loss(stack: Stack[Any], targets: Targets | Numbers, weights_N: Floats) -> GateLoss:
    if isinstance(targets, Targets):
        return LogLosses(np.ascontiguousarray(true_probs_MN(stack, targets).T))
    if any(part.levels for part in stack.parts):
        raise PredictionError(
            "gating is given quantiles",
            "estimates of the numbers themselves, for its squared error",
            "Leave it out, or predict means.",
        )
    truth_ND = truth_NC(stack, targets)
    errors_NMD = np.stack([array_NC - truth_ND for array_NC in filled_arrays(stack)], axis=1)
    errors_NMD[:, :, np.isnan(truth_ND).any(axis=0)] = 0  # columns that nothing judges
    size_D = np.sqrt(weights_N @ errors_NMD.mean(axis=1) ** 2 / weights_N.sum())
    return SquaredErrors(errors_NMD / np.where(size_D > 0, size_D, 1))
