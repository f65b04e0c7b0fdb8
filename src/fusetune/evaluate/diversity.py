# SPDX-License-Identifier: Apache-2.0
"""How differently members err: what fusing lives on.

All measures of pairs come from counts of rows that one matrix product gives for all pairs at once.
None says how good a fusion will be: members may differ because they are bad. What is counted are
decisions: one per row, the most probable class; with labels that exclude each other not, one per
row and label, there above a probability of 0.5. Numbers have errors, but no decisions.

Shapes: M members, N rows, K decisions, C classes, D numbers, B decisions of a block. All functions
take at least one row.
Reference: Kuncheva & Whitaker, Measures of diversity in classifier ensembles, Machine Learning 2003.
"""

from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.evaluate.score import correct
from fusetune.predictions.kinds import Floats, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets

__all__ = [
    "agreement",
    "disagreement",
    "double_fault",
    "error_correlation",
    "mean_of_pairs",
    "oracle_accuracy",
    "q_statistic",
]

Decided = TypeVar("Decided", Probabilities, Marginals)
Decisions: TypeAlias = Targets | LabelSets

BLOCK = 2**22  # numbers per block of indicators, 16 MB; counts below 2^24 are exact in float32


def agreement(stack: Stack[Decided]) -> Floats:
    """`(M, M)` shares of decisions on which two members are of one mind; symmetric, diagonal 1.

    Cost: M² N C multiplications in single precision.
    """
    said_MK = np.stack([_decisions(part, stack.classes) for part in stack.parts])
    num_members, num_decisions = said_MK.shape
    occurring_C = np.unique(said_MK)
    step = max(1, BLOCK // (num_members * len(occurring_C)))
    same_MM = np.zeros((num_members, num_members))
    for start in range(0, num_decisions, step):
        said_MBC = said_MK[:, start : start + step, None] == occurring_C
        same_MM += _counts(said_MBC.reshape(num_members, -1))
    return same_MM / num_decisions


def disagreement(stack: Stack[Decided], targets: Decisions) -> Floats:
    """`(M, M)` shares of decisions of which exactly one of two members gets right; diagonal 0."""
    right_MK = _right_MK(stack, targets)
    _, first_MM, _ = _table(right_MK)
    return (first_MM + first_MM.T) / right_MK.shape[1]


def double_fault(stack: Stack[Decided], targets: Decisions) -> Floats:
    """`(M, M)` shares of decisions that both members get wrong; the diagonal is each error rate."""
    wrong_MK = ~_right_MK(stack, targets)
    return _counts(wrong_MK) / wrong_MK.shape[1]


def q_statistic(stack: Stack[Decided], targets: Decisions) -> Floats:
    """`(M, M)` values of Yule's Q: do two members tend to be right on the same rows?

    Q = (n11 n00 - n01 n10) / (n11 n00 + n01 n10), with n11 the rows on which both are right, n00
    both wrong, n10 and n01 one of them. 1: wherever one that is better errs, so does the other;
    0: as independent members; -1: never wrong together (or never right together). The denominator
    is 0 exactly if one of the two is right on all rows or on none; that depends on nothing, so Q
    is then 0, on the diagonal too. A single cell of 0 makes Q +1 or -1 however few the rows: read
    it beside `disagreement`.

    Reference: Yule, On the association of attributes in statistics, Philosophical Transactions A
        1900.
    """
    both_MM, first_MM, none_MM = _table(_right_MK(stack, targets))
    alike_MM, apart_MM = both_MM * none_MM, first_MM * first_MM.T
    return _ratio(alike_MM - apart_MM, alike_MM + apart_MM)


def error_correlation(
    stack: Stack[Decided] | Stack[Values], targets: Decisions | Numbers
) -> Floats:
    """`(M, M)` correlations of the members' errors: 1 err on the same rows, 0 independently.

    Of decisions, the correlation of being right: phi = (n11 n00 - n01 n10) / sqrt of the product
    of the four margins, in the notation of `q_statistic`; between members of different accuracy it
    cannot reach 1, where Q can. Of numbers, Pearson's correlation of the residuals, the mean over
    the columns (quantiles too) that all members have. 0 where a member's errors never vary, on the
    diagonal too.
    """
    if isinstance(targets, Numbers):
        return _residual_correlation(stack, targets)
    both_MM, first_MM, none_MM = _table(_right_MK(stack, targets))
    right_M = both_MM.diagonal()
    spread_M = np.sqrt(right_M * none_MM.diagonal())
    return _ratio(both_MM * none_MM - first_MM * first_MM.T, np.outer(spread_M, spread_M))


def oracle_accuracy(stack: Stack[Decided], targets: Decisions) -> float:
    """Share of decisions that at least one member gets right: no choice among members does better."""
    return float(_right_MK(stack, targets).any(axis=0).mean())


def mean_of_pairs(measure_MM: Floats) -> float:
    """Mean of a symmetric measure over all pairs of different members; NaN with one member."""
    num_members = len(measure_MM)
    if num_members < 2:
        return float("nan")
    off_diagonal = measure_MM.sum() - np.trace(measure_MM)
    return float(off_diagonal / (num_members * (num_members - 1)))


def _right_MK(stack: Stack[Any], targets: Decisions) -> npt.NDArray[np.bool_]:
    if isinstance(targets, Targets):
        return np.stack([correct(part, targets) for part in stack.parts])
    said_MK = np.stack([_decisions(part, targets.classes) for part in stack.parts])
    right_MK: npt.NDArray[np.bool_] = said_MK == targets.present_NC.ravel()
    return right_MK


def _decisions(part: Decided, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """`(K,)` most probable classes, numbered in this order; or of each label whether it is there."""
    if isinstance(part, Marginals):
        padded_NC = np.pad(part.probs_NC, ((0, 0), (0, 1)))  # a label it does not know is not there
        columns = [part.classes.index(name) if name in part.classes else -1 for name in classes]
        return (padded_NC[:, columns] > 0.5).astype(np.int64).ravel()
    position = {name: index for index, name in enumerate(classes)}
    return np.array([position[name] for name in part.classes])[part.probs_NC.argmax(axis=1)]


def _residual_correlation(stack: Stack[Any], targets: Numbers) -> Floats:
    first: Values = stack.parts[0]
    names = [name for name in first.names if all(name in part.names for part in stack.parts)]
    assert names, "the members have no number in common"
    correlations = []
    for name in names:
        column = 0 if first.levels else targets.names.index(name)
        guesses = [part.values_ND[:, part.names.index(name)] for part in stack.parts]
        residuals_MN = np.stack(guesses) - targets.values_ND[:, column]
        residuals_MN -= residuals_MN.mean(axis=1, keepdims=True)
        products_MM = residuals_MN @ residuals_MN.T
        spread_M = np.sqrt(products_MM.diagonal())
        correlations.append(_ratio(products_MM, np.outer(spread_M, spread_M)))
    return np.mean(correlations, axis=0)


def _table(right_MK: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """`(M, M)` counts of rows: both right; the first only; none."""
    both_MM = _counts(right_MK)
    right_M = both_MM.diagonal()
    first_MM = right_M[:, None] - both_MM
    none_MM = right_MK.shape[1] - right_M - first_MM
    return both_MM, first_MM, none_MM


def _counts(true_MN: npt.NDArray[np.bool_]) -> Floats:
    """`(M, M)` numbers of columns in which two rows are both true, by blocks of columns."""
    num_members, num_rows = true_MN.shape
    assert num_rows > 0
    counts_MM = np.zeros((num_members, num_members))
    step = max(1, BLOCK // num_members)
    for start in range(0, num_rows, step):
        true_MB = true_MN[:, start : start + step].astype(np.float32)
        counts_MM += true_MB @ true_MB.T
    return counts_MM


def _ratio(above_MM: Floats, below_MM: Floats) -> Floats:
    """The quotient, 0 where the denominator is 0."""
    return np.divide(above_MM, below_MM, out=np.zeros_like(above_MM), where=below_MM > 0)
