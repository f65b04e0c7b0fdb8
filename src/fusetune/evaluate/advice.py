# SPDX-License-Identifier: Apache-2.0
"""What to do with these members, in a few plain sentences: each follows from a figure that it names.

Shapes: M members.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fusetune.evaluate.diversity import mean_of_pairs
from fusetune.evaluate.words import describe_metric, format_score
from fusetune.predictions.kinds import Floats

__all__ = ["advice"]

ALIKE = 0.02  # members that differ on fewer rows leave a fusion hardly anything to decide
HEADROOM = 0.01  # a point of accuracy: what choosing among members must be able to gain
SURE = 2.0  # standard errors, about a 95 % interval
OVERCONFIDENT = 1.5  # times another's log-loss, where accuracy does not explain it
POWER = 1.96 + 0.84  # standard errors that a gain must measure to be shown in 80 % of test sets
MOST_WEIGHT = 0.95  # of a fusion: what the members are needed for


def advice(results: Mapping[str, Any]) -> list[str]:
    """One to five sentences: whether to fuse these members, how, and when that will not help.

    Each rule has a condition on measured figures and says these; a rule whose figures are not in the
    results is silent. In this order:

    * room: how often members differ and how often at least one is right, or how closely the
      errors of numbers are correlated. Under 2 % of rows, or 1 point, fusing hardly pays.
    * method: the mean where the holdout cannot tell members apart (their accuracies lie within two
      standard errors of a difference, sqrt(disagreement / rows)); a selection where one member wins
      three of four rows that it and the next best decide differently; else learned weights.
    * calibration: a member whose log-loss is 1.5 times that of one no more accurate.
    * weights: fewer members that hold 95 % of the chosen fusion's weight.
    * rows: how many would show the gain that was measured but not shown, with 80 % power.

    Args:
        results: The content of results.json; entries that are absent are not known.

    Reference: Krogh & Vedelsby, Neural network ensembles, cross validation, and active learning,
        NIPS 1995 (what averaging gains is what members differ); the thresholds are ours.
    """
    facts = _Facts.of(results)
    if len(facts.members) < 2:
        return ["There is one member: nothing can be fused; add one that errs on other rows."]
    rules = (_room, _room_of_numbers, _method, _calibration, _weights, _rows)
    return [sentence for rule in rules if (sentence := rule(facts))]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """Figures of results.json that rules speak of; None: not known.

    Args:
        members: Names of the members that have scores.
        best: The member that looks best on the rows that chose it.
        accuracy: Member → accuracy on the rows that chose.
        log_loss: Member → log-loss there.
        rows: How many rows chose.
        test_accuracy: Of the best member on the judged rows.
        oracle: Share of judged rows on which at least one member is right.
        agreement_MM: Shares of judged rows on which two members say the same.
        correlation_MM: Correlations of the errors of numbers.
        weights: Member → weight of the chosen fusion.
        seconds: Member → seconds per row.
        verdict: Its entry, and the number of judged rows beside it.
    """

    members: tuple[str, ...]
    best: str
    accuracy: Mapping[str, float]
    log_loss: Mapping[str, float]
    rows: int
    test_accuracy: float | None
    oracle: float | None
    agreement_MM: Floats | None
    correlation_MM: Floats | None
    weights: Mapping[str, float]
    seconds: Mapping[str, float]
    metric: str
    verdict: Mapping[str, Any]
    test_rows: int

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Self:
        entries = {m["name"]: m for m in results.get("members", []) if m.get("scores")}
        chose = "holdout" if any("holdout" in m["scores"] for m in entries.values()) else "test"
        rows = results.get("rows") or {}
        chosen = [f for f in results.get("fusions", []) if f["name"] == results.get("chosen")]
        best = results.get("best_member", "")
        return cls(
            members=tuple(entries),
            best=best,
            accuracy=_scores(entries, chose, "accuracy"),
            log_loss=_scores(entries, chose, "log_loss"),
            rows=rows.get(chose, 0),
            test_accuracy=_scores(entries, "test", "accuracy").get(best),
            oracle=results.get("oracle_accuracy"),
            agreement_MM=_matrix(results.get("agreement"), tuple(entries)),
            correlation_MM=_matrix(results.get("error_correlation"), tuple(entries)),
            weights=(chosen[0].get("weights") if chosen else None) or {},
            seconds=_seconds(entries),
            metric=results.get("metric", ""),
            verdict=results.get("verdict") or {},
            test_rows=rows.get("test", 0),
        )

    def differ(self, one: str, other: str) -> float | None:
        """Share of rows on which two members say different classes."""
        if self.agreement_MM is None:
            return None
        places = [self.members.index(name) for name in (one, other)]
        return 1 - float(self.agreement_MM[places[0], places[1]])


def _room(facts: _Facts) -> str | None:
    """Whether there is anything to gain by choosing among the members."""
    if facts.agreement_MM is None or facts.oracle is None or facts.test_accuracy is None:
        return None
    differ = 1 - mean_of_pairs(facts.agreement_MM)
    room = max(0.0, facts.oracle - facts.test_accuracy)
    found = (
        f"Two members differ on {_percent(differ)} of the rows on average, and on "
        f"{_percent(facts.oracle)} at least one is right where {facts.best} is on "
        f"{_percent(facts.test_accuracy)}"
    )
    if differ < ALIKE or room < HEADROOM:
        return (
            f"{found}: choosing among them can gain {_points(room)} at the very most, so fusing "
            "these members will hardly pay; add one that errs on other rows."
        )
    return f"{found}: choosing among them could gain {_points(room)}; fusions reach a part of that."


def _room_of_numbers(facts: _Facts) -> str | None:
    """How far averaging members of like quality can lower the error of numbers."""
    if facts.correlation_MM is None or facts.agreement_MM is not None:
        return None
    num_members, mean = len(facts.members), mean_of_pairs(facts.correlation_MM)
    left = math.sqrt(max(0.0, (1 + (num_members - 1) * mean) / num_members))
    found = (
        f"The members' errors have a correlation of {mean:.2f} on average: the mean of "
        f"{num_members} of like quality has an error {_percent(1 - left)} lower than one alone"
    )
    return f"{found}, which is hardly worth running them." if 1 - left < ALIKE else f"{found}."


def _method(facts: _Facts) -> str | None:
    """The mean, a selection, or learned weights: by what the holdout can tell apart."""
    ranked = sorted(facts.accuracy, key=lambda name: -facts.accuracy[name])
    if len(ranked) < 2 or facts.agreement_MM is None or not facts.rows:
        return None
    first, second, last = ranked[0], ranked[1], ranked[-1]
    spread = facts.accuracy[first] - facts.accuracy[last]
    differ = 1 - mean_of_pairs(facts.agreement_MM)
    unsure = SURE * math.sqrt(differ / facts.rows)
    rows = f"{facts.rows:,} rows to choose by leave ±{_points(unsure)} open"
    if spread <= unsure:
        return (
            f"The members' accuracies lie within {_points(spread)}, and {rows}: weights fitted there "
            "would follow chance; the plain mean is safer."
        )
    lead, between = facts.accuracy[first] - facts.accuracy[second], facts.differ(first, second) or 0
    if between and lead >= between / 2 and lead > SURE * math.sqrt(between / facts.rows):
        return (
            f"{first} leads {second} by {_points(lead)} and differs from it on {_percent(between)} of "
            f"the rows, so of those that one of the two gets right it gets at least "
            f"{_percent((1 + lead / between) / 2)}: use a method that can leave the others out "
            "(greedy_selection, weighted_mean), not the mean or a vote."
        )
    return (
        f"The members' accuracies spread over {_points(spread)}, and {rows}: weights can be learned "
        "(weighted_mean, log_pool, or auto, which blends them)."
    )


def _calibration(facts: _Facts) -> str | None:
    """A member that is surer of itself than it is right."""
    known = [name for name in facts.log_loss if name in facts.accuracy]
    for name in known:
        for other in known:
            loss, less = facts.log_loss[name], facts.log_loss[other]
            if facts.accuracy[name] >= facts.accuracy[other] and loss > OVERCONFIDENT * less > 0:
                return (
                    f"{name} is right as often as {other} but has {loss / less:.1f} times its "
                    "log-loss, so its probabilities are off: calibrate it (temperature), or use "
                    "log_pool, which does so on the way."
                )
    return None


def _weights(facts: _Facts) -> str | None:
    """How few members would do."""
    by_weight = sorted(facts.weights, key=lambda name: -facts.weights[name])
    shares = np.cumsum([facts.weights[name] for name in by_weight])
    needed = int(np.searchsorted(shares, MOST_WEIGHT)) + 1
    if needed >= len(by_weight):
        return None
    kept = by_weight[:needed]
    found = (
        f"{_listed(kept)} {'holds' if needed == 1 else 'hold'} {_percent(shares[needed - 1])} of the "
        "weight"
    )
    if not all(facts.seconds.get(name) for name in by_weight):
        return f"{found}: the other {len(by_weight) - needed} may not be worth their cost."
    saved = 1 - sum(facts.seconds[n] for n in kept) / sum(facts.seconds[n] for n in by_weight)
    return f"{found}: without the other {len(by_weight) - needed}, a row takes {_percent(saved)} less time."


def _rows(facts: _Facts) -> str | None:
    """How many rows would show what was not shown."""
    gain = facts.verdict.get("gain", 0.0)
    if facts.verdict.get("decision") != "not_shown" or gain <= 0 or not facts.test_rows:
        return None
    low, high = facts.verdict["interval"]
    error = (high - low) / (2 * 1.96)
    needed = facts.test_rows * (POWER * error / gain) ** 2
    if needed <= facts.test_rows:
        return None
    title, percent = describe_metric(facts.metric)
    written = format_score(gain, percent, sign="+") + " points" * percent
    return (
        f"A true gain of {written} of {title}, as measured here, takes about {_rounded(needed)} rows "
        f"to be shown in four of five cases; these were {facts.test_rows:,}."
    )


def _scores(entries: Mapping[str, Any], role: str, metric: str) -> dict[str, float]:
    known = {name: entry["scores"].get(role, {}).get(metric) for name, entry in entries.items()}
    return {name: score for name, score in known.items() if score is not None}


def _seconds(entries: Mapping[str, Any]) -> dict[str, float]:
    known = {name: (e.get("seconds") or {}).get("predict_per_row") for name, e in entries.items()}
    return {name: seconds for name, seconds in known.items() if seconds}


def _matrix(entry: Mapping[str, Any] | None, members: tuple[str, ...]) -> Floats | None:
    """The matrix in the members' order, if it holds them all."""
    if not entry or entry["matrix"] is None or not set(members) <= set(entry["members"]):
        return None
    places = [entry["members"].index(name) for name in members]
    return np.asarray(entry["matrix"], dtype=np.float64)[np.ix_(places, places)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _rounded(number: float) -> str:
    """Two figures, for nobody knows more."""
    digits = 1 - math.floor(math.log10(number))
    return f"{round(number, digits):,.0f}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
