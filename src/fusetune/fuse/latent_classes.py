# SPDX-License-Identifier: Apache-2.0
"""Latent class model of votes: confusion matrices of the voters, learned without the truth by EM.

Every voter has columns of its own, one per class that it can name; a row's votes are counts in
these columns. A missing vote is a block of zeros, and a split vote (probabilities) is a block of
shares: the same two steps serve them all.

Shapes: M voters, N rows, C true classes, V columns (the sum of the voters' numbers of classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Array, Floats

__all__ = ["LatentClasses", "Voters", "fit_latent_classes", "vote_matrix"]

FLOOR = 1e-10  # of expected counts, as in crowd-kit: a vote never seen stays possible


@dataclass(frozen=True, kw_only=True, eq=False)
class Voters:
    """What the columns of the votes mean.

    Args:
        num_classes: C.
        class_V: `(V,)` class that each column names; a voter's columns stand side by side.
        starts_M: `(M,)` first column of each voter.
    """

    num_classes: int
    class_V: npt.NDArray[np.int64]
    starts_M: npt.NDArray[np.int64]

    @classmethod
    def of(cls, classes: Sequence[Sequence[int]], num_classes: int) -> Self:
        """From the classes that each of the M voters can name, in the order of its columns."""
        widths = [len(names) for names in classes]
        return cls(
            num_classes=num_classes,
            class_V=np.concatenate([np.asarray(names, dtype=np.int64) for names in classes]),
            starts_M=np.cumsum([0, *widths[:-1]]),
        )

    def doubts_VC(self) -> Floats:
        """`(V, C)` votes on one imagined row of each true class: half right, half at random."""
        widths_M = np.diff(self.starts_M, append=len(self.class_V))
        even_V = np.repeat(1 / widths_M, widths_M)
        right_VC = np.eye(self.num_classes)[self.class_V]
        knows_MC = np.add.reduceat(right_VC, self.starts_M, axis=0)
        random_VC = np.repeat(1 - knows_MC / 2, widths_M, axis=0)
        return right_VC / 2 + random_VC * even_V[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentClasses:
    """Fitted latent class model.

    Args:
        prior_C: `(C,)` shares of the true classes.
        chances_VC: `(V, C)` probability of each vote, given the true class; in every column of C
            each voter's block sums to 1.
    """

    prior_C: Floats
    chances_VC: Floats

    def log_joint_NC(self, votes_NV: Any) -> Floats:  # noqa: ANN401
        """`(N, C)` logarithms of P(class c and the row's votes)."""
        log_joint_NC: Floats = votes_NV @ np.log(self.chances_VC) + np.log(self.prior_C)
        return log_joint_NC

    def posterior_NC(self, votes_NV: Any) -> Floats:  # noqa: ANN401
        """`(N, C)` probabilities of the true classes, given the rows' votes.

        Args:
            votes_NV: `(N, V)` counts, an array or what `vote_matrix` returns. A row without any
                vote gets the prior.
        """
        return _normalized(self.log_joint_NC(votes_NV))[0]


def fit_latent_classes(
    votes_NV: Any,  # noqa: ANN401
    repeats_N: Floats,
    voters: Voters,
    *,
    smoothing: float = 0.0,
    max_rounds: int = 100,
    tolerance: float = 1e-5,
) -> LatentClasses:
    """Expectation-maximization from the shares of the votes.

    E: P(c | votes of row n) ∝ prior(c) · product over voters of chance(vote | c). M: chances and
    prior are the expected counts, smoothed, at least 1e-10, divided by their sums. The start is the
    share of its votes that each class has in a row, which settles which of the C! equal solutions
    (the names of latent classes are arbitrary) is meant. It climbs to a local maximum.

    Args:
        votes_NV: `(N, V)` counts, an array or what `vote_matrix` returns.
        repeats_N: `(N,)` how often each row counts.
        voters: What the columns mean.
        smoothing: Number of imagined rows of each class that count beside the real ones, on which
            voters are right half the time and guess else; 0: maximum likelihood.
        max_rounds: Most rounds of E and M; 100 as in crowd-kit.
        tolerance: Stop when a round adds less than this to the mean log-likelihood (penalized, if
            smoothed) of a row, in nats; 1e-5 as in crowd-kit, which takes the mean over votes.

    Cost:
        Each round two products of the votes with a `(V, C)` matrix: with hard votes 2 N M C
        multiplications, with probabilities 2 N V C.

    Reference:
        Dawid, Skene. "Maximum likelihood estimation of observer error-rates using the EM
        algorithm". Applied Statistics, 1979. The smoothing is ours.

    Example:
        >>> votes_NM = np.array([[0, 0, -1], [1, 1, 0], [1, -1, 1], [0, 0, 0]])  # -1: no vote
        >>> columns_NM = np.where(votes_NM < 0, -1, votes_NM + [0, 2, 4])
        >>> votes_NV = vote_matrix(columns_NM, 6)
        >>> voters = Voters.of([[0, 1], [0, 1], [0, 1]], num_classes=2)
        >>> model = fit_latent_classes(votes_NV, np.ones(4), voters, smoothing=1.0)
        >>> model.posterior_NC(votes_NV).argmax(axis=1).tolist()
        [0, 1, 1, 0]
    """
    doubts_VC = smoothing * voters.doubts_VC()
    posterior_NC = _vote_shares(votes_NV, voters)
    before = -np.inf
    for _ in range(max_rounds + 1):
        expected_NC = posterior_NC * repeats_N[:, None]
        counts_VC = np.maximum(votes_NV.T @ expected_NC + doubts_VC, FLOOR)
        rows_C = np.maximum(expected_NC.sum(axis=0) + smoothing, FLOOR)
        sums_MC = np.add.reduceat(counts_VC, voters.starts_M, axis=0)
        widths_M = np.diff(voters.starts_M, append=len(counts_VC))
        model = LatentClasses(
            prior_C=rows_C / rows_C.sum(),
            chances_VC=counts_VC / np.repeat(sums_MC, widths_M, axis=0),
        )
        posterior_NC, evidence_N = _normalized(model.log_joint_NC(votes_NV))
        believed = (doubts_VC * np.log(model.chances_VC)).sum()
        believed += smoothing * np.log(model.prior_C).sum()
        likelihood = float(evidence_N @ repeats_N + believed) / float(repeats_N.sum())
        if likelihood - before < tolerance:
            break
        before = likelihood
    return model


def vote_matrix(columns_NM: Array, num_columns: int) -> Any:  # noqa: ANN401
    """Hard votes as a sparse `(N, V)` matrix of ones.

    Args:
        columns_NM: `(N, M)` column of each voter's vote, -1 where it did not vote.
        num_columns: V.
    """
    from scipy.sparse import csr_array

    rows, voters = np.nonzero(columns_NM >= 0)
    ones = np.ones(len(rows))
    shape = (len(columns_NM), num_columns)
    return csr_array((ones, (rows, columns_NM[rows, voters])), shape=shape)


def _vote_shares(votes_NV: Any, voters: Voters) -> Floats:  # noqa: ANN401
    """`(N, C)` share of each class in the row's votes; even shares in a row without votes."""
    counts_NC: Floats = votes_NV @ np.eye(voters.num_classes)[voters.class_V]
    sums_N1 = counts_NC.sum(axis=1, keepdims=True)
    shares_NC: Floats = np.where(sums_N1 > 0, counts_NC, 1 / voters.num_classes)
    return shares_NC / np.where(sums_N1 > 0, sums_N1, 1)


def _normalized(log_joint_NC: Floats) -> tuple[Floats, Floats]:
    """Posterior, and the logarithm of each row's evidence."""
    top_N = log_joint_NC.max(axis=1, initial=-np.inf)
    joint_NC = np.exp(log_joint_NC - top_N[:, None])
    sums_N = joint_NC.sum(axis=1)
    return joint_NC / sums_N[:, None], top_N + np.log(sums_N)
