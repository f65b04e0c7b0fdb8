# SPDX-License-Identifier: Apache-2.0
"""Weights on the simplex: at least 0, summing to 1, and the best by some objective.

Log-loss and squared error are convex: their solvers return a duality gap, which bounds how far the
weights' objective lies above the smallest possible. Anything else is searched.

Shapes: M members, N rows, S members in the working set, D numbers predicted per row.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats

__all__ = [
    "log_loss_weights",
    "nonnegative_minimizer",
    "residual_gram",
    "searched_weights",
    "squared_error_weights",
]

Integers = npt.NDArray[np.int64]

SUBSAMPLE = 1_000  # rows that find most of the support, at a small part of the cost
EM_ROUNDS = 10  # plain EM needs thousands to converge, but ten point the right way
NEWTON_ROUNDS = 60  # three to eight are usual
ROUGH = 1e-4  # largest duality gap, in nats, on the subsample
NEAR = 0.25  # gap of equal weights, in nats, from which Newton steps are few
PROGRESS = 4.0  # a step that divides the gap by less calls for a new curvature
BLOCK = 2_000  # rows of some members that stay in a core's cache
PATIENCE = 3  # block exchanges without fewer wrong signs, as in the paper
FLOOR = 1e-13  # rounding of the gap; no progress is possible below
STEPS = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)  # shares of all weight that a search moves
SWEEPS = 4  # passes over the members per step; most searches stop after two


def log_loss_weights(
    true_probs_MN: Floats,
    sample_weights_N: Floats,
    tolerance: float = 1e-9,
    start_M: Floats | None = None,
) -> tuple[Floats, float]:
    """Weights that minimize the log-loss of the weighted average, and a certificate.

    min over w >= 0, sum w = 1 of -sum_n s_n log(sum_m w_m p_mn) / sum_n s_n.

    Args:
        true_probs_MN: `(M, N)` probabilities of the true classes, above 0.
        sample_weights_N: `(N,)` non-negative, not all 0.
        tolerance: Largest duality gap, in nats.
        start_M: `(M,)` weights on the simplex to start from; None: found on a subsample of the rows.

    Returns:
        `(M,)` weights that sum to 1, exactly 0 for members left out, and the duality gap, in nats.

    Cost:
        Some ten passes over M N, and S^2 N for one to three curvatures.

    Reference:
        Kim, Carbonetto, Stephens, Anitescu. "A fast algorithm for maximum likelihood estimation of
        mixture proportions using sequential quadratic programming". JCGS, 2020. We warm-start with
        EM on a subsample of the rows, and stop on a duality gap.

    Example:
        >>> weights_M, gap = log_loss_weights(np.array([[0.8, 0.1], [0.1, 0.8]]), np.ones(2))
        >>> weights_M.round(6).tolist(), gap <= 1e-9
        ([0.5, 0.5], True)
    """
    shares_N = sample_weights_N / sample_weights_N.sum()
    used_N = shares_N > 0
    if not used_N.all():
        true_probs_MN, shares_N = true_probs_MN[:, used_N], shares_N[used_N]
    weights_M = np.full(len(true_probs_MN), 1 / len(true_probs_MN))
    if len(true_probs_MN) == 1:
        return weights_M, 0.0
    probs_MN = np.ascontiguousarray(true_probs_MN)
    if start_M is None:
        start_M = _start(probs_MN, shares_N, weights_M)
    return _newton(probs_MN, shares_N, start_M, tolerance)


def residual_gram(errors_MND: Floats) -> Floats:
    """`(M, M)` inner products of the members' errors: all that squared error needs to know.

    The squared error of weights w that sum to 1 is w'Ew, whatever w: after one pass over the rows
    no cost depends on them any more. Sum E over blocks of rows.

    Args:
        errors_MND: `(M, N, D)` predictions minus truth, times the root of the row's weight.
    """
    flat_MD = errors_MND.reshape(len(errors_MND), -1)
    gram_MM: Floats = flat_MD @ flat_MD.T
    return gram_MM


def squared_error_weights(gram_MM: Floats) -> tuple[Floats, float]:
    """Weights that minimize w'Ew on the simplex, exactly: the squared error of an average.

    The point of smallest norm in the hull of the members' errors, by active sets: members enter
    one by one where the objective falls steepest, and leave where their weight would turn
    negative. Identical members never enter together, so a singular E is harmless; of equals the
    earlier member enters.

    Args:
        gram_MM: `(M, M)` positive semidefinite E, as `residual_gram` gives it.

    Returns:
        `(M,)` weights that sum to 1, exactly 0 for members left out, and the duality gap in the
        units of E: 2 (w'Ew - min_m (Ew)_m), zero up to rounding.

    Cost:
        S^3 for each member that enters.

    Reference:
        Wolfe, P. "Finding the nearest point in a polytope". Mathematical Programming, 1976.

    Example:
        >>> weights_M, gap = squared_error_weights(np.array([[1.0, 0.0], [0.0, 3.0]]))
        >>> weights_M.round(6).tolist(), gap < 1e-12
        ([0.75, 0.25], True)
    """
    weights_M: Floats = np.zeros(len(gram_MM))
    support = [int(gram_MM.diagonal().argmin())]
    weights_M[support] = 1.0
    scale = float(gram_MM.diagonal().mean())
    best_M, best_gap = weights_M, np.inf
    for _ in range(10 * len(gram_MM)):
        pull_M = gram_MM @ weights_M
        entering = int(pull_M.argmin())
        gap = 2 * float(weights_M @ pull_M - pull_M[entering])
        if gap < best_gap:
            best_M, best_gap = weights_M, max(gap, 0.0)
        if gap <= 1e-14 * scale or entering in support:
            break
        support.append(entering)
        weights_M = _settled(gram_MM, weights_M, support, scale)
        support = np.flatnonzero(weights_M).tolist()
    return best_M, best_gap


def searched_weights(
    value: Callable[[Floats], float], starts: Iterable[Floats]
) -> tuple[Floats, float]:
    """Weights on the simplex with a high value, by moving weight: no derivative is needed.

    From the best start, each member in turn is given a share of all weight, or has it taken away;
    what raises the value is kept, and the share is halved when nothing does. Deterministic, and
    never worse than a start. Finds a local optimum only: a metric of decisions, such as accuracy,
    has many.

    Args:
        value: Of `(M,)` weights that sum to 1; higher is better, NaN is worst.
        starts: `(M,)` weights that sum to 1; ties go to the earlier.

    Returns:
        `(M,)` weights that sum to 1, and their value.

    Cost:
        Up to 48 M values, 15 M as a rule.

    Reference:
        Hooke, Jeeves. "Direct search solution of numerical and statistical problems". Journal of
        the ACM, 1961. We move along the simplex, towards and away from its corners.

    Example:
        >>> weights_M, value = searched_weights(lambda w: -abs(w[0] - 0.25), [np.array([1.0, 0.0])])
        >>> weights_M.round(6).tolist()
        [0.25, 0.75]
    """
    best_M, best = max(
        ((start_M, np.nan_to_num(value(start_M), nan=-np.inf)) for start_M in starts),
        key=lambda pair: pair[1],
    )
    for step in STEPS:
        for _ in range(SWEEPS):
            before = best
            for member in range(len(best_M)):
                for moved_M in _moves(best_M, member, step):
                    tried = value(moved_M)
                    if tried > best + 1e-12:
                        best_M, best = moved_M, tried
                        break
            if best <= before:
                break
    return best_M, best


def _moves(weights_M: Floats, member: int, step: float) -> Iterable[Floats]:
    """Weights with a share moved to the member, and with a share (or all it has) taken away."""
    corner_M = np.zeros_like(weights_M)
    corner_M[member] = 1.0
    if weights_M[member] < 1:
        yield (1 - step) * weights_M + step * corner_M
    others_M = weights_M * (1 - corner_M)
    if weights_M[member] > 0 and others_M.any():  # a corner may have become 1 - 1e-16 by rounding
        left = max(weights_M[member] - step, 0.0)
        yield others_M * ((1 - left) / others_M.sum()) + left * corner_M


def _settled(gram_MM: Floats, weights_M: Floats, support: list[int], scale: float) -> Floats:
    """Move to the smallest value on the support's affine hull, dropping members at 0 on the way."""
    before_M = weights_M
    while True:
        gram_SS = gram_MM[np.ix_(support, support)] + scale  # on the simplex, adds a constant
        try:
            solved_S = np.linalg.solve(gram_SS, np.full(len(support), scale))
        except np.linalg.LinAlgError:
            return before_M
        target_M = np.zeros_like(weights_M)
        target_M[support] = solved_S / solved_S.sum()
        leaving = [m for m in support if target_M[m] <= 0]
        if not leaving:
            falls = target_M @ gram_MM @ target_M < before_M @ gram_MM @ before_M
            return target_M if falls else before_M
        reach = {m: weights_M[m] / max(weights_M[m] - target_M[m], 1e-300) for m in leaving}
        share = min(reach.values())
        weights_M = weights_M + share * (target_M - weights_M)
        support = [m for m in support if reach.get(m, np.inf) > share]
        weights_M[[m for m in range(len(weights_M)) if m not in support]] = 0


def _start(probs_MN: Floats, shares_N: Floats, equal_M: Floats) -> Floats:
    """Equal weights where they are nearly optimal; else what a subsample of the rows says."""
    if float((probs_MN @ (shares_N / (equal_M @ probs_MN))).max()) < 1 + NEAR:
        return equal_M
    step = len(shares_N) // SUBSAMPLE
    if step <= 1:
        return _expectation_maximization(probs_MN, shares_N, equal_M)
    some_MN, some_N = np.ascontiguousarray(probs_MN[:, ::step]), shares_N[::step]
    if not some_N.any():
        return equal_M
    some_N = some_N / some_N.sum()
    return _newton(some_MN, some_N, _expectation_maximization(some_MN, some_N, equal_M), ROUGH)[0]


def _expectation_maximization(probs_MN: Floats, shares_N: Floats, weights_M: Floats) -> Floats:
    for _ in range(EM_ROUNDS):
        weights_M = weights_M * (probs_MN @ (shares_N / (weights_M @ probs_MN)))
    return weights_M


def _newton(
    probs_MN: Floats, shares_N: Floats, weights_M: Floats, tolerance: float
) -> tuple[Floats, float]:
    """Minimize -sum s log(w'p) + sum w over w >= 0, whose minimizer sums to 1 by itself.

    The curvature, the costly part, is kept for as long as steps with it go on well.
    """
    best_M, best_gap = weights_M, np.inf
    pool_N = weights_M @ probs_MN
    base = np.empty(0, dtype=np.int64)
    for _ in range(NEWTON_ROUNDS):
        weights_M, pool_N = weights_M / weights_M.sum(), pool_N / weights_M.sum()
        pull_M = probs_MN @ (shares_N / pool_N)  # 1 where a member has weight at the optimum
        gap, before = float(pull_M.max() - 1), best_gap
        if gap < best_gap:
            best_M, best_gap = weights_M, max(gap, 0.0)
        if gap <= max(tolerance / 10, FLOOR):
            break
        working = np.flatnonzero((weights_M > 0) | (pull_M > 1))
        if gap > before / PROGRESS or not np.isin(working, base).all():
            base = working if 2 * len(working) < len(probs_MN) else np.arange(len(probs_MN))
            curvature_SS = _curvature(probs_MN, np.sqrt(shares_N) / pool_N, base)
        inside = np.searchsorted(base, working)
        some_SS = curvature_SS[np.ix_(inside, inside)]
        linear_S = some_SS @ weights_M[working] + pull_M[working] - 1
        toward_M = np.zeros_like(weights_M)
        toward_M[working] = nonnegative_minimizer(some_SS, linear_S, weights_M[working])
        toward_N = toward_M @ probs_MN
        share = _line_search(pool_N, toward_N, shares_N, float((toward_M - weights_M).sum()))
        if share == 0:
            break
        weights_M = weights_M + share * (toward_M - weights_M)
        pool_N = pool_N + share * (toward_N - pool_N)
    return best_M, best_gap


def _curvature(probs_MN: Floats, scale_N: Floats, members: Integers) -> Floats:
    """`(S, S)` inner products of some members' scaled probabilities, block by block of rows."""
    if len(members) < len(probs_MN):
        probs_MN = probs_MN[members]
    curvature_SS = np.zeros((len(members), len(members)))
    scaled_SB = np.empty((len(members), min(BLOCK, len(scale_N))))
    for start in range(0, len(scale_N), BLOCK):
        rows = slice(start, start + BLOCK)
        scale_B = scale_N[rows]
        curved_SB = np.multiply(probs_MN[:, rows], scale_B, out=scaled_SB[:, : len(scale_B)])
        curvature_SS += curved_SB @ curved_SB.T
    curvature_SS[np.diag_indices(len(members))] *= 1 + 1e-10  # identical members
    return curvature_SS


def _line_search(pool_N: Floats, toward_N: Floats, shares_N: Floats, growth: float) -> float:
    """Largest share 1, 1/2, 1/4, ... of the step that lowers the objective enough; 0 if none."""
    ratio_N = toward_N / pool_N - 1
    slope = growth - float(shares_N @ ratio_N)
    share = 1.0
    while share > 1e-9:
        change = share * growth - float(shares_N @ np.log1p(share * ratio_N))
        if change <= 1e-4 * share * slope + 1e-16:
            return share
        share /= 2
    return 0.0


def nonnegative_minimizer(curvature_SS: Floats, linear_S: Floats, start_S: Floats) -> Floats:
    """`(S,)` minimizer of v'Hv/2 - b'v over v >= 0, by exchanging whole blocks of free numbers.

    Args:
        curvature_SS: `(S, S)` positive definite H.
        linear_S: `(S,)` b.
        start_S: `(S,)` non-negative; its positive entries are the first guess of the free ones.

    Reference:
        Kim, Park. "Fast nonnegative matrix factorization: an active-set-like method and
        comparisons". SIAM J. Scientific Computing, 2011, after Júdice, Pires, 1994: all wrong
        signs are exchanged, and one at a time where that does not make them fewer.
    """
    free_S = start_S > 0
    point_S = np.zeros_like(start_S)
    fewest, patience = len(linear_S) + 1, PATIENCE
    for _ in range(10 * len(linear_S)):
        free = np.flatnonzero(free_S)
        point_S = np.zeros_like(start_S)
        point_S[free] = np.linalg.solve(curvature_SS[np.ix_(free, free)], linear_S[free])
        pull_S = linear_S - curvature_SS @ point_S
        wrong = np.flatnonzero(np.where(free_S, point_S < 0, pull_S > 1e-12))
        if not len(wrong):
            break
        if len(wrong) < fewest:
            fewest, patience = len(wrong), PATIENCE
        elif patience:
            patience -= 1
        else:
            wrong = wrong[-1:]
        free_S[wrong] = ~free_S[wrong]
    return np.maximum(point_S, 0)
