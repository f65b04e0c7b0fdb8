# SPDX-License-Identifier: Apache-2.0
"""Dawid-Skene: every member's confusion matrix, learned from the members' votes alone.

Shapes: M members, N rows, C classes, V columns of votes (the sum of the members' classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.forms import WeightedAverage, fit_weights, known_classes
from fusetune.fuse.latent_classes import LatentClasses, Voters, fit_latent_classes, vote_matrix
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.threads import one_thread
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["ConfusionVote", "DawidSkene"]

IDENTIFIED = 3  # members: with fewer, different confusion matrices explain the same votes


@dataclass(frozen=True, kw_only=True)
class DawidSkene(FusionMethod[Probabilities]):
    """Confusion matrices and class shares by expectation-maximization on the votes. No targets.

    p(c) ∝ prior(c) · product over members of P(member's vote | true class c). Prior and chances are
    those that make the members' votes on the fitting rows most likely, if members err
    independently given the true class; a member that confuses two classes is still believed on
    the others, and one that always swaps them is read backwards.

    Votes are the members' most probable classes (a tie is the earlier class). EM starts from the
    shares of the votes, so it takes for granted that the majority is right more often than not. The
    model is identified only with three members that differ: with fewer, the result is the plain
    mean, and so is it where all members vote alike. One member alone passes through. Equal
    posteriors: the earlier class.

    Do not use it with few rows (it learns M C^2 numbers), nor with members that err together
    (fine-tuned from one checkpoint, or copies of each other): they confirm each other. The
    posterior takes all members for independent and is then far too sure, so do not use it where
    probabilities count: docs/results/no_targets.md. With targets, `stacking` sees more.

    Args:
        soft: Each member's vote is split by its probabilities (EM on expected votes), instead of
            given to its most probable class. Less sure of itself; False is the published method.
        smoothing: Imagined rows of each class, on which members are right half the time and guess
            else; keeps votes that were never seen possible. One row, after Laplace; 0 is the
            published maximum likelihood.
        max_rounds: Most rounds of EM; 100 as in crowd-kit.
        tolerance: Stop when a round adds less than this to a row's mean log-likelihood, in nats;
            1e-5 as in crowd-kit.

    Cost:
        Each round 2 P M C multiplications, for the P different combinations of votes that occur;
        soft: 2 N M C^2.

    Reference:
        Dawid, Skene. "Maximum likelihood estimation of observer error-rates using the EM
        algorithm". Applied Statistics, 1979. Identifiability: Allman, Matias, Rhodes.
        "Identifiability of parameters in latent structure models". Annals of Statistics, 2009.
        The split votes and the smoothing are ours.

    Example:
        >>> from fusetune.metrics.accuracy import Accuracy
        >>> def votes(labels):
        ...     probs_NC = [[0.9, 0.1] if label == "x" else [0.1, 0.9] for label in labels]
        ...     return Probabilities(np.arange(8), ("x", "y"), np.array(probs_NC))
        >>> members = {"a": "xxxxyyyy", "b": "xxxxyyyx", "swaps": "yyyyxxxx", "d": "xxxyyyyy"}
        >>> stack = Stack.align({name: votes(labels) for name, labels in members.items()})
        >>> fusion = DawidSkene().fit(stack, None, Accuracy())
        >>> "".join(fusion(stack).labels())
        'xxxxyyyy'
        >>> fusion.chances_VC[4:6].round(1).tolist()  # "swaps" says x (y) where it is x, y
        [[0.2, 0.8], [0.8, 0.2]]
    """

    soft: bool = False
    smoothing: float = 1.0
    max_rounds: int = 100
    tolerance: float = 1e-5

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities})
    needs_targets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        wrong = {
            "smoothing": (not 0 <= self.smoothing < np.inf, "a number of rows, 0 or more"),
            "max_rounds": (self.max_rounds < 1, "a whole number of at least 1"),
            "tolerance": (not 0 <= self.tolerance < np.inf, "a number of nats, 0 or more"),
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
        stack: Stack[Probabilities],
        targets: Targets | None,
        metric: Metric[Probabilities],
        *,
        sample_weights_N: Array | None = None,
    ) -> "ConfusionVote | WeightedAverage":
        """Confusion matrices and class shares; neither targets nor metric are read."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        order = np.argsort(stack.ids)  # sums then do not depend on the order of the rows
        stack, weights_N = stack.take(order), weights_N[order]
        classes = known_classes(stack.parts, stack.classes)
        known = tuple(tuple(name for name in classes if name in p.classes) for p in stack.parts)
        voters = Voters.of([[classes.index(c) for c in names] for names in known], len(classes))
        columns_NM = _voted_columns(stack, known)
        if _num_different(voters.class_V[columns_NM]) < IDENTIFIED:
            return WeightedAverage(members=stack.members, weights_M=np.ones(len(stack.members)))
        if self.soft:
            votes_NV = _split_votes(stack, known)
        else:
            columns_NM, weights_N = _combinations(columns_NM, weights_N)
            votes_NV = vote_matrix(columns_NM, len(voters.class_V))
        with one_thread():
            model = fit_latent_classes(
                votes_NV,
                weights_N,
                voters,
                smoothing=self.smoothing,
                max_rounds=self.max_rounds,
                tolerance=self.tolerance,
            )
        return ConfusionVote(
            members=stack.members,
            classes=classes,
            known=known,
            soft=self.soft,
            prior_C=model.prior_C,
            chances_VC=model.chances_VC,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionVote(Fusion[Probabilities]):
    """Fitted Dawid-Skene: posterior of the true class, given the members' votes.

    Args:
        members: M member names.
        classes: C class names, the order of the columns.
        known: For each member, the classes that it can vote for.
        soft: Whether votes are split by the members' probabilities.
        prior_C: `(C,)` shares of the true classes.
        chances_VC: `(V, C)` probability of each vote given the true class: member after member,
            one row for each class that it knows.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    soft: bool
    prior_C: Floats
    chances_VC: Floats

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """The posteriors of the rows' true classes."""
        stack = stack.select(self.members)
        if self.soft:
            votes_NV = _split_votes(stack, self.known)
        else:
            votes_NV = vote_matrix(_voted_columns(stack, self.known), len(self.chances_VC))
        model = LatentClasses(prior_C=self.prior_C, chances_VC=self.chances_VC)
        with one_thread():
            probs_NC = model.posterior_NC(votes_NV)
        dtype = np.result_type(*(part.probs_NC.dtype for part in stack.parts))
        return stack.parts[0].with_array(self.classes, probs_NC.astype(dtype))


def _split_votes(stack: Stack[Probabilities], known: Sequence[Sequence[str]]) -> Floats:
    """`(N, V)` probabilities, member after member."""
    return np.concatenate(list(_known_probs(stack, known)), axis=1, dtype=np.float64)


def _voted_columns(stack: Stack[Probabilities], known: Sequence[Sequence[str]]) -> Array:
    """`(N, M)` columns of the most probable classes."""
    starts = np.cumsum([0, *(len(names) for names in known)])[:-1]
    votes = [probs_NC.argmax(axis=1) for probs_NC in _known_probs(stack, known)]
    return np.stack(votes, axis=1) + starts


def _known_probs(stack: Stack[Probabilities], known: Sequence[Sequence[str]]) -> Any:  # noqa: ANN401
    for part, names in zip(stack.parts, known, strict=True):
        yield part.probs_NC[:, [part.classes.index(name) for name in names]]


def _combinations(columns_NM: Array, weights_N: Floats) -> tuple[Array, Floats]:
    """`(P, M)` different combinations of votes, and the `(P,)` weights of their rows."""
    columns_PM, combination_N = np.unique(columns_NM, axis=0, return_inverse=True)
    return columns_PM, np.bincount(combination_N.ravel(), weights_N).astype(np.float64)


def _num_different(votes_NM: Array) -> int:
    """How many members differ in some vote."""
    return len(np.unique(votes_NM, axis=1).T)
