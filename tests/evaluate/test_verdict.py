# SPDX-License-Identifier: Apache-2.0
"""The verdict's rule, case by case, and what its sentence says."""

import json

import pytest

from fusetune.errors import InvalidValue
from fusetune.evaluate.compare import Interval
from fusetune.evaluate.verdict import Comparison, Verdict, VerdictRule, decide

NAMES = Comparison(metric="accuracy", chosen="stacking", best_member="vgg")


def verdict(
    value: float,
    low: float,
    high: float,
    *,
    cost_ratio: float | None = 3.14159,
    compared: Comparison = NAMES,
    **rule: float,
) -> Verdict:
    gain = Interval(value, low, high)
    rules = VerdictRule(**rule)
    return decide(gain, p_value=0.02, cost_ratio=cost_ratio, compared=compared, rule=rules)


@pytest.mark.parametrize(
    ("ends", "rule", "decision"),
    [
        ((0.004, 0.021), {}, "worth_it"),
        ((0.0, 0.021), {}, "not_shown"),  # the lower end must be above, not at, the minimum
        ((-0.01, 0.021), {}, "not_shown"),
        ((-0.02, 0.0), {}, "not_worth_it"),
        ((-0.02, -0.01), {}, "not_worth_it"),
        ((0.004, 0.021), {"min_gain": 0.004}, "not_shown"),
        ((0.004, 0.021), {"min_gain": 0.003}, "worth_it"),
        ((0.004, 0.021), {"min_gain": 0.021}, "not_worth_it"),
        ((0.004, 0.021), {"max_cost_ratio": 3.0}, "not_worth_it"),
        ((-0.01, 0.021), {"max_cost_ratio": 3.0}, "not_worth_it"),
        ((0.004, 0.021), {"max_cost_ratio": 3.14159}, "worth_it"),
    ],
)
def test_the_rule(ends: tuple[float, float], rule: dict[str, float], decision: str) -> None:
    assert verdict(0.01, *ends, **rule).decision == decision


def test_a_cost_that_is_not_known_breaks_no_limit_and_the_sentence_says_so() -> None:
    found = verdict(0.01, 0.004, 0.021, cost_ratio=None, max_cost_ratio=2.0)
    assert found.decision == "worth_it"
    assert "cost per row that is not known, so the limit was not applied" in found.sentence()


def test_the_sentence_says_gain_interval_and_cost() -> None:
    assert verdict(0.0125, 0.004, 0.021).sentence() == (
        "Worth it: stacking beats vgg, the member that looked best on the holdout, by 1.25 points "
        "of accuracy (95\u202f% interval +0.40 to +2.10), at 3.1 times the cost per row."
    )
    assert verdict(-0.0125, -0.03, 0.021).sentence() == (
        "Not shown to be worth it: stacking falls short of vgg, the member that looked best on the "
        "holdout, by 1.25 points of accuracy (95\u202f% interval −3.00 to +2.10), at 3.1 times the "
        "cost per row."
    )
    assert "stacking and vgg, the member that" in verdict(0.00001, -0.03, 0.021).sentence()
    assert "tie in accuracy" in verdict(0.00001, -0.03, 0.021).sentence()


def test_the_sentence_names_the_rule_that_the_user_set() -> None:
    found = verdict(0.0125, 0.004, 0.021, min_gain=0.01, max_cost_ratio=3.0).sentence()
    assert "; asked for: above +1.00)" in found
    assert "(above the limit of 3)" in found
    assert "(within the limit of 4)" in verdict(0.01, 0.004, 0.02, max_cost_ratio=4.0).sentence()


def test_a_loss_is_said_in_its_own_units() -> None:
    compared = Comparison(metric="log_loss", chosen="mean", best_member="vgg")
    found = verdict(0.0312, 0.01, 0.0525, compared=compared).sentence()
    assert "by 0.0312 of log" in found
    assert "+0.0100 to +0.0525" in found
    assert "points" not in found


def test_a_metric_of_somebody_else_is_said_by_its_name() -> None:
    compared = Comparison(metric="regret", chosen="mean", best_member="vgg")
    assert "by 0.0312 of regret" in verdict(0.0312, 0.01, 0.05, compared=compared).sentence()


def test_choosing_the_best_member_itself_gains_nothing() -> None:
    compared = Comparison(metric="accuracy", chosen="vgg", best_member="vgg")
    found = verdict(0.3, 0.1, 0.5, cost_ratio=1.0, compared=compared)
    assert (found.gain, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert found.decision == "not_worth_it"
    assert found.sentence() == (
        "Not worth it: the choice fell on vgg itself, the member that looked best on the holdout, "
        "so fusing adds neither score nor cost."
    )


def test_results_can_be_read_back() -> None:
    found = verdict(0.01, 0.004, 0.021, min_gain=0.001)
    results = {"metric": "accuracy", "chosen": "stacking", "best_member": "vgg"}
    results["verdict"] = found.as_results()
    assert Verdict.from_results(json.loads(json.dumps(results))) == found
    assert {"decision", "gain", "interval", "level", "p_value", "cost_ratio"} <= set(
        results["verdict"]
    )
    del results["verdict"]["rule"]
    assert Verdict.from_results(results).rule == VerdictRule()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"min_gain": -0.1},
            "min_gain is -0.1; expected a number of at least 0, in the metric's units (0.01 is one "
            "point of accuracy). Leave it out if any gain counts.",
        ),
        (
            {"max_cost_ratio": 0.0},
            "max_cost_ratio is 0.0; expected a number above 0: how many times the best member's "
            "seconds per row. Leave it out for no limit.",
        ),
    ],
)
def test_an_impossible_rule_is_refused(rule: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        VerdictRule(**rule)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_rule_must_be_finite(value: float) -> None:
    with pytest.raises(InvalidValue, match="min_gain is"):
        VerdictRule(min_gain=value)
    with pytest.raises(InvalidValue, match="max_cost_ratio is"):
        VerdictRule(max_cost_ratio=value)
