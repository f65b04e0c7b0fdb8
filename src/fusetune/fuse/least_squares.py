# SPDX-License-Identifier: Apache-2.0
"""Linear regression: shrunk, or with coefficients that are not negative.

Shapes: N rows, C columns, F inputs, for `ridge` the last of them a constant 1.
"""

from collections.abc import Sequence

import numpy as np

from fusetune.fuse.simplex import nonnegative_minimizer
from fusetune.fuse.valley import valley
from fusetune.predictions.kinds import Array, Floats

__all__ = ["nonnegative_least_squares", "ridge"]

TINY = 1e-12  # deviation of an input that only rounding moves


def ridge(
    inputs_NF: Floats,
    targets_NC: Floats,
    weights_N: Floats,
    penalties: Sequence[float],
    folds_N: Array,
) -> tuple[Floats, float]:
    """Coefficients with the least squared error, shrunk towards 0 as cross-validation says.

    min over W of sum_n w_n |t_n - x_n W|^2 + penalty |W|^2, inputs less their means and divided by
    their deviations (all but the constant), targets divided by their root mean squares: a penalty
    weighs like so many rows, whatever the units.

    Args:
        inputs_NF: `(N, F)`.
        targets_NC: `(N, C)`.
        weights_N: `(N,)` not negative, not all 0.
        penalties: To choose from.
        folds_N: `(N,)` folds to choose by.

    Returns:
        `(F, C)` coefficients, in the units of the arguments, and the penalty.
    """
    shares_N = weights_N / weights_N.sum()
    means_F = np.append(shares_N @ inputs_NF[:, :-1], 0.0)
    inputs_NF = inputs_NF - means_F
    in_F, out_C = (np.sqrt(shares_N @ array**2) for array in (inputs_NF, targets_NC))
    in_F, out_C = (np.where(scale > TINY, scale, 1.0) for scale in (in_F, out_C))
    inputs_NF, targets_NC = inputs_NF / in_F, targets_NC / out_C
    strongest_first = sorted(penalties, reverse=True)
    folds = [folds_N == fold for fold in np.unique(folds_N)]

    def solved(rows_N: Array, penalty: float) -> Floats:
        scaled_NF = inputs_NF[rows_N] * weights_N[rows_N, None]
        curvature_FF = scaled_NF.T @ inputs_NF[rows_N]
        curvature_FF[np.diag_indices(len(curvature_FF))] += penalty
        return np.linalg.solve(curvature_FF, scaled_NF.T @ targets_NC[rows_N])

    def loss(index: int) -> float:
        total = 0.0
        for judge_N in folds:
            found_FC = solved(~judge_N, strongest_first[index])
            off_NC = targets_NC[judge_N] - inputs_NF[judge_N] @ found_FC
            total += float(weights_N[judge_N] @ (off_NC**2).sum(axis=1))
        return total

    best = valley(loss, len(strongest_first), 1e-9) if len(folds) > 1 else 0
    everything_N = np.ones(len(weights_N), dtype=bool)
    found_FC = solved(everything_N, strongest_first[best]) / in_F[:, None] * out_C
    found_FC[-1] -= means_F @ found_FC
    return found_FC, strongest_first[best]


def nonnegative_least_squares(inputs_NF: Floats, targets_N: Floats, weights_N: Floats) -> Floats:
    """`(F,)` coefficients of at least 0 with the least squared error; identical inputs share.

    Reference:
        Lawson, Hanson. "Solving least squares problems". 1974, chapter 23.
    """
    scale = np.sqrt((weights_N @ inputs_NF**2).max() or 1.0)
    scaled_NF = inputs_NF / scale * np.sqrt(weights_N)[:, None]
    curvature_FF = scaled_NF.T @ scaled_NF
    curvature_FF[np.diag_indices(len(curvature_FF))] += 1e-10
    linear_F = scaled_NF.T @ (targets_N * np.sqrt(weights_N))
    start_F = np.full(len(linear_F), 1 / len(linear_F))
    return nonnegative_minimizer(curvature_FF, linear_F, start_F) / scale
