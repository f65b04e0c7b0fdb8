# SPDX-License-Identifier: Apache-2.0
"""Bayesian model averaging: members count by how likely they make the holdout.

Shapes: M members, N rows, L likelihoods, B draws.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.evidence import densities_MN, likelihoods_ML
from fusetune.fuse.forms import WeightedAverage, fit_weights
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.threads import one_thread
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["BayesianModelAveraging"]

BLOCK = 2**17  # numbers drawn at once: 1 MB, which stays in the cache


@dataclass(frozen=True, kw_only=True)
class BayesianModelAveraging(FusionMethod[Any]):
    """Weights proportional to the probability of each member, given the holdout.

    `posterior`: w_m = exp(-N loss_m), divided by the sum, with the mean log-loss over N rows: the
    posterior probability that member m is *the* true model, all being equally probable before. It
    goes to 1 for the best member as rows are added, however good the others are.

    `pseudo` (pseudo-BMA+): the same, averaged over Bayesian bootstraps of the rows, so that weights
    say how sure the order of the members is.

    For values, losses are those of normal densities around the predictions, each with the variance
    of the member's errors. Weights of the rows count relative to their mean.

    Do not use it to gain from members' different errors: it asks which single member is true.
    `weighted_mean` is stacking of predictive distributions, which asks for the best mixture, and
    did better in the reference.

    Args:
        variant: `pseudo` or `posterior`.
        draws: Bootstraps of `pseudo`; 1,000 as in the authors' R package `loo`.
        seed: Draws the bootstraps.

    Cost:
        `pseudo`: draws x N random numbers, and as many times M multiplications.

    Reference:
        Hoeting, Madigan, Raftery, Volinsky. "Bayesian model averaging: a tutorial". Statistical
        Science, 1999. Yao, Vehtari, Simpson, Gelman. "Using stacking to average Bayesian predictive
        distributions". Bayesian Analysis, 2018: section 3.4, with holdout losses in the place of
        leave-one-out ones.
    """

    variant: Literal["pseudo", "posterior"] = "pseudo"
    draws: int = 1_000
    seed: int = 0

    quantiles: ClassVar[bool] = False
    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})

    def __post_init__(self) -> None:
        if self.variant not in ("pseudo", "posterior"):
            raise InvalidValue(
                f"variant is '{self.variant}'", "pseudo or posterior", "Write pseudo."
            )
        if self.draws < 1:
            raise InvalidValue(
                f"draws is {self.draws}",
                "a whole number of at least 1",
                "Write 1000, the default.",
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> WeightedAverage:
        """Weights by likelihood; the metric is not read.

        Raises:
            InvalidValue: The members predict quantiles, which say no density.
        """
        weights_N = fit_weights(stack, targets, sample_weights_N)
        order = np.argsort(stack.ids)  # draws belong to rows, whatever their order
        stack, targets, weights_N = stack.take(order), targets.take(order), weights_N[order]
        with one_thread():
            logs_MN = _logs(stack, targets, weights_N)
            if self.variant == "posterior":
                weights_M = _softmax(logs_MN @ weights_N)
            else:
                weights_M = self._bootstrapped(logs_MN, weights_N)
        kept_M = np.where(weights_M < np.finfo(np.float64).tiny, 0, weights_M)
        return WeightedAverage.of(dict(zip(stack.members, kept_M.tolist(), strict=True)))

    def _bootstrapped(self, logs_MN: Floats, weights_N: Floats) -> Floats:
        """`(M,)` mean posterior over bootstraps of the rows."""
        random, num_rows = np.random.default_rng(self.seed), len(weights_N)
        total_M, step = np.zeros(len(logs_MN)), max(1, BLOCK // num_rows)
        for start in range(0, self.draws, step):
            shape = (min(step, self.draws - start), num_rows)
            shares_BN = random.standard_gamma(weights_N, shape)
            shares_BN /= np.maximum(shares_BN.sum(axis=1, keepdims=True), 1e-300)
            total_M += _softmax(num_rows * (shares_BN @ logs_MN.T)).sum(axis=0)
        return total_M / self.draws


def _logs(stack: Stack[Any], targets: AnyTargets, weights_N: Floats) -> Floats:
    """`(M, N)` logarithms of the likelihood of each row; that of labels summed over classes."""
    first = stack.parts[0]
    if isinstance(first, Values):
        if first.levels:
            raise InvalidValue(
                "the members predict quantiles",
                "values, or probabilities",
                "Use weighted_mean, mean or median.",
            )
        return densities_MN(stack, targets, weights_N / weights_N.sum())
    logs_ML = np.log(likelihoods_ML(stack, targets))
    logs_MN: Floats = logs_ML.reshape(len(logs_ML), len(stack), -1).sum(axis=2)
    return logs_MN


def _softmax(logs: Floats) -> Floats:
    exp = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)
