# SPDX-License-Identifier: Apache-2.0
"""Why the scores are what they are: entries of results.json on diversity, contributions, tests, calibration.

Shapes: M members, N rows, C classes or other columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fusetune.choose.candidates import BEST_MEMBER
from fusetune.evaluate import diversity
from fusetune.evaluate.compare import mcnemar_p
from fusetune.evaluate.contribution import EXACT_MEMBERS, contributions
from fusetune.evaluate.reliability import reliability
from fusetune.evaluate.score import scores
from fusetune.evaluate.significance import enough_permutations, holm, permutation_ps
from fusetune.metric import Metric
from fusetune.metrics.expected_calibration_error import ExpectedCalibrationError
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Kind, Probabilities
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.pixels import pixel_rows
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import GroundTruth, Numbers, Targets

__all__ = [
    "calibration_results",
    "contribution_results",
    "diversity_results",
    "pair_results",
    "significance_results",
]

WORK = 50_000_000  # numbers that coalitions may take: about half a second on one core
COALITION = 6_000  # numbers that one costs beside its own
FEWEST_ROWS = 500  # below it, a standard error of a point of accuracy is as large as what is asked
PAIRS = 16  # of orders of more than 12 members; the standard error says what that leaves open
MOST_DISTINCT = 20_000  # rows over all tests by permutation: ROC AUC of 10 classes takes 5 s
MOST_MEMBERS = 12  # whose matrices are kept, beside that of their agreement
MEASURES: Mapping[str, Callable[[Stack[Any], Any], Floats]] = {
    measure.__name__: measure
    for measure in (
        diversity.disagreement,
        diversity.double_fault,
        diversity.q_statistic,
        diversity.error_correlation,
    )
}
EQUAL_MASS = "expected_calibration_error_equal_mass"


def diversity_results(stack: Stack[Any], targets: GroundTruth) -> dict[str, Any]:
    """How differently the members err.

    Returns:
        `agreement`, `disagreement`, `double_fault`, `q_statistic` and `error_correlation`, each
        `{members, mean, matrix}` with the mean over pairs (None with one member) and, for up to
        12 members, the matrix; that of `agreement`, and of numbers' `error_correlation`, always.
        `oracle_accuracy`. What the kind does not have is None: numbers have errors, but make no
        decisions that could be right; boxes have neither.
        Of masks, some pixels of every row are the rows.

    Cost: That of `diversity.agreement`, about twice.
    """
    if isinstance(targets, Objects):
        return dict.fromkeys(("agreement", *MEASURES, "oracle_accuracy"))
    if isinstance(targets, LabelMaps):
        stack, targets, _, _ = pixel_rows(stack, targets, np.ones(len(stack)))
    if isinstance(targets, Numbers):
        shared = set.intersection(*(set(part.columns) for part in stack.parts))
        matrix_MM = diversity.error_correlation(stack, targets) if shared else None
        return dict.fromkeys(("agreement", *MEASURES, "oracle_accuracy")) | {
            "error_correlation": pair_results(stack.members, matrix_MM, always=True)
        }
    decisions: Any = targets
    measures = {
        name: pair_results(stack.members, of(stack, decisions)) for name, of in MEASURES.items()
    }
    return {
        "agreement": pair_results(stack.members, diversity.agreement(stack), always=True),
        **measures,
        "oracle_accuracy": diversity.oracle_accuracy(stack, decisions),
    }


def contribution_results(
    stack: Stack[Any],
    targets: GroundTruth,
    metric: Metric[Any],
    *,
    weights: Mapping[str, float],
    seed: int,
) -> dict[str, Any] | None:
    """What each member contributes to the weighted average of them; see `contributions`.

    Half a second is the limit: more rows than that allows are represented by some of them, drawn
    by the seed. None where that leaves fewer than 500 of them (24 members with 1,000 classes),
    where fewer than two members have weight, for boxes, which have no average, for masks, or where the metric has no value without a member.

    Args:
        stack: Predictions of the judged rows.
        targets: Their truth.
        metric: What the score is.
        weights: Member → weight.
        seed: Of the rows and orders that are drawn.

    Returns:
        As `Contributions.as_results`, with `rows`, how many were judged.
    """
    if isinstance(targets, Objects | LabelMaps):
        return None
    taking_part = sum(weight > 0 for weight in weights.values())
    exact = taking_part <= EXACT_MEMBERS
    coalitions = 2**taking_part if exact else 2 * PAIRS * taking_part
    allowed = int(WORK / coalitions - COALITION) // max(1, len(stack.classes))
    if taking_part < 2 or allowed < min(FEWEST_ROWS, len(stack)):
        return None
    if allowed < len(stack):
        by_id = np.argsort(stack.ids)
        drawn = np.random.default_rng(seed).choice(len(stack), allowed, replace=False)
        rows = np.sort(by_id[drawn])
        stack, targets = stack.take(rows), targets.take(rows)
    found = contributions(stack, targets, metric, weights=weights, pairs=PAIRS, seed=seed)
    shown = (found.leave_one_out_M, found.shapley_M, found.standard_error_M)
    if not all(np.isfinite(column_M).all() for column_M in shown):
        return None
    return found.as_results() | {"rows": len(stack)}


def significance_results(
    metric: Metric[Any],
    fusions: Sequence[str],
    chosen: str,
    statistics_of: Callable[[str], Floats],
    best_NS: Floats,
    *,
    seed: int,
) -> dict[str, dict[str, float | None]]:
    """Fusion → `p_value` of its difference from the best member, and `p_holm`, corrected for all.

    Mid-p McNemar where the metric is accuracy, else by permutation, as many as are cheap. None for
    the candidate that is the best member itself, unless it was chosen; and for all but the chosen
    one, whose p then has no correction, where each permutation is dear: on many rows that differ
    from each other, with a metric that is no mean over them (ROC AUC on 10,000 rows).

    Args:
        metric: What decides.
        fusions: Their names.
        chosen: One of them.
        statistics_of: Name of a fusion → its `(N, S)` statistics.
        best_NS: `(N, S)` statistics of the best member.
        seed: Of the permutations.
    """
    names = [name for name in fusions if name != BEST_MEMBER or name == chosen]
    if metric.name == "accuracy":
        found = [mcnemar_p(statistics_of(n)[:, 0] > 0, best_NS[:, 0] > 0) for n in names]
    else:
        dear = _is_dear(metric, best_NS, len(names))
        names = [chosen] if dear else names
        permutations = enough_permutations(metric, len(best_NS), len(fusions))
        each = [statistics_of(name) for name in names]
        found = permutation_ps(metric, each, best_NS, permutations=permutations, seed=seed)
    corrected = holm(found).tolist() if len(names) >= len(fusions) - 1 else [None]
    pairs = dict(zip(names, zip(found, corrected, strict=True), strict=True))
    return {
        name: dict(zip(("p_value", "p_holm"), pairs.get(name, (None, None)), strict=True))
        for name in fusions
    }


def _is_dear(metric: Metric[Any], statistics_NS: Floats, num_tests: int) -> bool:
    """Whether a permutation has to weigh so many distinct rows that all tests would take seconds."""
    if metric.mean_of_rows or len(statistics_NS) * num_tests <= MOST_DISTINCT:
        return False
    return len(np.unique(statistics_NS, axis=0)) * num_tests > MOST_DISTINCT


def calibration_results(
    method: str,
    before: Kind,
    after: Kind,
    targets: GroundTruth,
    metrics: Sequence[Metric[Any]],
) -> dict[str, Any]:
    """What calibrating changed: all metrics, and for classes the bins of a reliability diagram.

    Args:
        method: Name of the calibrator.
        before: Predictions that were not calibrated.
        after: The same rows, calibrated by what did not see them.
        targets: Their truth.
        metrics: What is shown.

    Returns:
        `method`; `before` and `after` by metric, for classes with the calibration error of bins of
        equal mass too; `reliability` with `before` and `after`: `rows`, `confidence` and
        `accuracy` of each bin, None where a bin is empty. None for other kinds.
    """
    shown = {"before": before, "after": after}
    found: dict[str, Any] = {"method": method}
    found |= {when: scores(part, targets, metrics) for when, part in shown.items()}
    if not isinstance(targets, Targets):
        return found | {"reliability": None}
    equal_mass = ExpectedCalibrationError(mass="equal_mass")
    bins = {}
    for when, part in shown.items():
        assert isinstance(part, Probabilities)
        found[when][EQUAL_MASS] = equal_mass.value(equal_mass.statistics(part, targets))
        bins[when] = _bins(part, targets)
    return found | {"reliability": bins}


def _bins(prediction: Probabilities, targets: Targets) -> dict[str, list[Any]]:
    found = reliability(prediction, targets)
    return {
        "rows": found.counts_B.tolist(),
        "confidence": _finite(found.confidence_B),
        "accuracy": _finite(found.accuracy_B),
    }


def pair_results(
    members: tuple[str, ...], matrix_MM: Floats | None, *, always: bool = False
) -> dict[str, Any] | None:
    """A measure of pairs as results.json shows it; the matrix `always`, or of at most 12 members."""
    if matrix_MM is None:
        return None
    mean = diversity.mean_of_pairs(matrix_MM)
    kept = always or len(members) <= MOST_MEMBERS
    return {
        "members": list(members),
        "mean": None if math.isnan(mean) else round(mean, 6),
        "matrix": matrix_MM.round(6).tolist() if kept else None,
    }


def _finite(values: Floats) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
