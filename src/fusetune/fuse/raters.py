# SPDX-License-Identifier: Apache-2.0
"""Raters of one image: what each says of every pixel, as few distinct combinations, and how good it is.

A picture of two million pixels holds some thousand combinations of what its raters say. They are
found rater by rater, so that memory hangs on the pixels, not on the raters.

Shapes: M raters, C classes, U combinations, H W pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats

__all__ = ["Combinations", "Raters", "combinations", "posterior_of", "rate", "vote_counts"]

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Combinations:
    """What raters say of an image.

    Args:
        labels_UM: `(U, M)` each rater's class, -1 where it says nothing.
        counts_U: `(U,)` pixels of each combination.
        which_HW: `(H, W)` each pixel's combination.
    """

    labels_UM: Integers
    counts_U: Integers
    which_HW: Integers


@dataclass(frozen=True, eq=False)
class Raters:
    """How good raters are.

    Args:
        prior_C: `(C,)` shares of the classes among all that raters said; all alike if they said nothing.
        chances_MCC: `(M, C, C)` probability that a rater says the second class where the first is
            true. 0 in rows of classes that are never true.
        posterior_UC: `(U, C)` probabilities of the true class, by these chances.
    """

    prior_C: Floats
    chances_MCC: Floats
    posterior_UC: Floats


def combinations(labels: Iterable[npt.NDArray[np.int16]]) -> Combinations:
    """The distinct combinations of several label maps, which come one by one.

    Example:
        >>> found = combinations(np.array([[[0, 1, 1]], [[0, 1, 0]]], dtype=np.int16))
        >>> found.labels_UM.tolist(), found.which_HW.tolist()
        ([[0, 0], [1, 0], [1, 1]], [[0, 2, 1]])
    """
    which, rows, shape = np.zeros(0, dtype=np.int64), np.zeros((1, 0), dtype=np.int64), (0, 0)
    for number, label_HW in enumerate(labels):
        shape = label_HW.shape
        said = label_HW.reshape(-1).astype(np.int64) + 1
        width = int(said.max(initial=0)) + 1
        code = said if number == 0 else which * width + said
        size = len(rows) * width
        if size <= max(4 * len(code), 2**16):
            present = np.flatnonzero(np.bincount(code, minlength=size))
            table = np.zeros(size, dtype=np.int64)
            table[present] = np.arange(len(present))
            which = table[code]
        else:
            present, which = np.unique(code, return_inverse=True)
        rows = np.concatenate([rows[present // width], (present % width - 1)[:, None]], axis=1)
    counts_U = np.bincount(which, minlength=len(rows))
    return Combinations(rows, counts_U, which.reshape(shape))


def vote_counts(labels_UM: Integers, num_classes: int) -> Floats:
    """`(U, C)` how many raters say each class."""
    votes_UC = np.zeros((len(labels_UM), num_classes))
    for said_U in labels_UM.T:
        rows = np.flatnonzero(said_U >= 0)
        votes_UC[rows, said_U[rows]] += 1
    return votes_UC


def rate(found: Combinations, num_classes: int, *, max_rounds: int, tolerance: float) -> Raters:
    """Each rater's confusion matrix, by expectation-maximization from the shares of the votes.

    M: chances are the expected counts, divided by their sums. E: P(c) ∝ prior(c) · product over
    raters of chance(said | c). The prior stays what it is: the raters' own shares of the classes.

    Args:
        found: What they say.
        num_classes: C.
        max_rounds: Most rounds.
        tolerance: Stop when no chance moves by more.

    Returns:
        The raters after the last round. Where no class is possible, the posterior is the prior.
    """
    labels_UM, counts_U = found.labels_UM, found.counts_U.astype(np.float64)
    votes_UC = vote_counts(labels_UM, num_classes)
    prior_C = counts_U @ votes_UC
    said = prior_C.sum()
    prior_C = prior_C / said if said > 0 else np.full(num_classes, 1 / num_classes)
    voters_U1 = votes_UC.sum(axis=1, keepdims=True)
    posterior_UC = np.where(voters_U1 > 0, votes_UC / np.maximum(voters_U1, 1), prior_C)
    chances_MCC: Floats = np.zeros((labels_UM.shape[1], num_classes, num_classes))
    for _ in range(max_rounds):
        before_MCC = chances_MCC
        chances_MCC = _chances(labels_UM, posterior_UC * counts_U[:, None], num_classes)
        posterior_UC = posterior_of(labels_UM, chances_MCC, prior_C)
        if np.abs(chances_MCC - before_MCC).max(initial=0) <= tolerance:
            break
    return Raters(prior_C, chances_MCC, posterior_UC)


def _chances(labels_UM: Integers, expected_UC: Floats, num_classes: int) -> Floats:
    chances = []
    for said_U in labels_UM.T:
        spoke = said_U >= 0
        counts_CC = np.zeros((num_classes, num_classes))
        for index in range(num_classes):
            weights_U = expected_UC[spoke, index]
            counts_CC[index] = np.bincount(said_U[spoke], weights_U, minlength=num_classes)
        sums_C1 = counts_CC.sum(axis=1, keepdims=True)
        chances.append(counts_CC / np.where(sums_C1 > 0, sums_C1, 1))
    return np.array(chances)


def posterior_of(labels_UM: Integers, chances_MCC: Floats, prior_C: Floats) -> Floats:
    """`(U, C)` probabilities of the true class; the prior, where no class could be said so.

    By logarithms: the product of some hundred chances is too small a number.
    """
    with np.errstate(divide="ignore"):
        logs_MCC, prior_logs_C = np.log(chances_MCC), np.log(prior_C)
    joint_UC = np.repeat(prior_logs_C[None], len(labels_UM), axis=0)
    for said_U, logs_CC in zip(labels_UM.T, logs_MCC, strict=True):
        rows = np.flatnonzero(said_U >= 0)
        joint_UC[rows] += logs_CC.T[said_U[rows]]
    most_U1 = joint_UC.max(axis=1, keepdims=True)
    possible_U1 = np.isfinite(most_U1)
    shares_UC = np.exp(joint_UC - np.where(possible_U1, most_U1, 0))
    return np.where(
        possible_U1, shares_UC / np.maximum(shares_UC.sum(axis=1, keepdims=True), 1), prior_C
    )
