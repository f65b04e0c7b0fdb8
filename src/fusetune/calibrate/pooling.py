# SPDX-License-Identifier: Apache-2.0
"""Isotonic regression by pooling adjacent violators.

Shapes: N rows, K knots.
"""

import numpy as np

from fusetune.predictions.kinds import Array, Floats

__all__ = ["isotonic_knots"]


def isotonic_knots(
    x_N: Floats, y_N: Floats, weights_N: Floats, *, prior: tuple[float, float] = (0.0, 0.0)
) -> tuple[Floats, Floats]:
    """The rising function of x nearest to y in weighted squares, as corners of straight lines.

    Equal x share one value, their weighted mean. `numpy.interp` through the knots is constant
    beyond the first and last x and straight between two levels, as scikit-learn's
    `IsotonicRegression(out_of_bounds="clip")`.

    Args:
        x_N: `(N,)` positions, N at least 1, in any order.
        y_N: `(N,)` values.
        weights_N: `(N,)` numbers above 0.
        prior: A value and its weight, added to every level; levels that then fall are pooled again.

    Returns:
        `(K,)` rising positions and `(K,)` values that do not fall: both ends of every level.

    Cost:
        One sort; then a pass over what is left for each round of pooling, a few dozen on data and
        at most N.

    Reference:
        Ayer, Brunk, Ewing, Reid, Silverman. "An empirical distribution function for sampling with
        incomplete information". Annals of Mathematical Statistics, 1955.

    Example:
        >>> isotonic_knots(np.array([1., 2., 3.]), np.array([0., 2., 1.]), np.ones(3))
        (array([1., 2., 3.]), array([0. , 1.5, 1.5]))
    """
    order = np.argsort(x_N, kind="stable")
    x_N, weights = x_N[order], weights_N[order]
    firsts = np.flatnonzero(np.concatenate([[True], x_N[1:] > x_N[:-1]]))
    x_U, weights_U = x_N[firsts], np.add.reduceat(weights, firsts)
    start, levels, weights = _pool(np.add.reduceat(weights * y_N[order], firsts), weights_U)
    value, weight = prior
    if weight:
        sums = levels * weights + value * weight
        levels = sums / (weights + weight)
        kept, levels, _ = _pool(levels * weights, weights)
        start = start[kept]
    ends = np.append(start[1:], len(x_U)) - 1
    both = np.stack([start, ends], axis=1)
    distinct = np.stack([np.ones(len(start), dtype=bool), ends > start], axis=1)
    return x_U[both[distinct]], np.repeat(levels, 2).reshape(-1, 2)[distinct]


def _pool(sums: Floats, weights: Floats) -> tuple[Array, Floats, Floats]:
    """First positions, means and weights of the levels: levels rise strictly."""
    start = np.arange(len(sums))
    while True:
        levels = sums / weights
        rises = np.concatenate([[True], levels[1:] > levels[:-1]])
        if rises.all():
            return start, levels, weights
        firsts = np.flatnonzero(rises)  # a run that does not rise becomes one level
        sums, weights = np.add.reduceat(sums, firsts), np.add.reduceat(weights, firsts)
        start = start[firsts]
