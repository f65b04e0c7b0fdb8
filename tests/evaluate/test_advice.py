# SPDX-License-Identifier: Apache-2.0
"""Advice on constructed cases: each rule speaks where its figures ask for it, and only there."""

import numpy as np
import pytest

from fusetune.evaluate.advice import advice


def results_of(accuracies, *, differ=0.1, rows=1000, oracle=0.97, **other):
    """Results of members with these accuracies, all pairs of which differ equally often."""
    names = [f"m{index}" for index in range(len(accuracies))]
    matrix = np.full((len(names), len(names)), 1 - differ)
    np.fill_diagonal(matrix, 1)
    scores = {name: {"accuracy": value} for name, value in zip(names, accuracies, strict=True)}
    members = [
        {"name": name, "status": "ok", "scores": {"holdout": scores[name], "test": scores[name]}}
        for name in names
    ]
    best = names[int(np.argmax(accuracies))] if names else ""
    return {
        "metric": "accuracy",
        "rows": {"holdout": rows, "test": 2000},
        "members": members,
        "fusions": [{"name": "auto", "weights": None}],
        "chosen": "auto",
        "best_member": best,
        "agreement": {"members": names, "matrix": matrix.tolist()},
        "oracle_accuracy": oracle,
        "verdict": {"decision": "worth_it", "gain": 0.02, "interval": [0.01, 0.03]},
    } | other


def only(sentences, word):
    found = [sentence for sentence in sentences if word in sentence]
    assert len(found) == 1, sentences
    return found[0]


def test_one_member_cannot_be_fused():
    assert advice(results_of([0.9])) == [
        "There is one member: nothing can be fused; add one that errs on other rows."
    ]


def test_room_is_told_with_its_figures():
    found = only(advice(results_of([0.9, 0.88], oracle=0.956)), "at least one is right")
    assert "differ on 10.0\u202f% of the rows" in found
    assert "on 95.6\u202f% at least one" in found
    assert "m0 is on 90.0\u202f%" in found
    assert "gain 5.6 points" in found


@pytest.mark.parametrize(("differ", "oracle"), [(0.015, 0.97), (0.2, 0.905)])
def test_members_that_are_alike_or_cannot_complete_each_other_are_not_worth_fusing(differ, oracle):
    found = advice(results_of([0.9, 0.9], differ=differ, oracle=oracle))
    assert "hardly pay" in only(found, "at least one is right")


@pytest.mark.parametrize(
    ("rows", "method"), [(100, "plain mean"), (5000, "weights can be learned")]
)
def test_few_rows_call_for_the_mean(rows, method):
    """Differences of 3 points: 100 rows leave 6.3 points open, 5,000 rows 0.9."""
    assert method in only(advice(results_of([0.9, 0.87], rows=rows)), f"{rows:,} rows")


def test_the_uncertainty_is_two_standard_errors_of_a_difference():
    found = only(advice(results_of([0.9, 0.89], differ=0.09, rows=900)), "plain mean")
    assert "±2.0 points" in found
    assert "within 1.0 points" in found


def test_a_dominant_member_calls_for_a_selection():
    found = only(advice(results_of([0.95, 0.85, 0.84], differ=0.15)), "leads m1")
    assert found.startswith("m0 leads m1 by 10.0 points and differs from it on 15.0\u202f%")
    assert "at least 83.3\u202f%" in found
    assert "greedy_selection" in found
    assert not any("leads" in one for one in advice(results_of([0.95, 0.85, 0.84], differ=0.25)))


def test_an_overconfident_member_is_named():
    results = results_of([0.9, 0.89, 0.9])
    for member, loss in zip(results["members"], [0.3, 0.31, 0.6], strict=True):
        member["scores"]["holdout"]["log_loss"] = loss
    found = only(advice(results), "log-loss")
    assert found.startswith("m2 is right as often as m0 but has 2.0 times its log-loss")
    results["members"][2]["scores"]["holdout"]["accuracy"] = 0.8  # its accuracy explains it
    assert not any("log-loss" in sentence for sentence in advice(results))


def test_members_with_little_weight_are_dropped_with_what_they_cost():
    results = results_of([0.9, 0.89, 0.88])
    results["fusions"] = [{"name": "auto", "weights": {"m0": 0.6, "m1": 0.02, "m2": 0.38}}]
    found = only(advice(results), "of the weight")
    assert found.startswith("m0 and m2 hold 98.0\u202f% of the weight: the other 1")
    assert "may not be worth" in found
    for member, seconds in zip(results["members"], [1.0, 2.0, 1.0], strict=True):
        member["seconds"] = {"predict_per_row": seconds}
    assert "a row takes 50.0\u202f% less time" in only(advice(results), "of the weight")
    results["fusions"] = [{"name": "auto", "weights": {"m0": 0.5, "m1": 0.2, "m2": 0.3}}]
    assert not any("of the weight" in sentence for sentence in advice(results))


def test_rows_that_would_show_the_gain():
    """Half a point measured, standard error 0.5 points: 2.8 errors need 2.8² times the rows."""
    half = 1.96 * 0.005
    verdict = {"decision": "not_shown", "gain": 0.005, "interval": [0.005 - half, 0.005 + half]}
    found = only(advice(results_of([0.9, 0.89], verdict=verdict)), "to be shown")
    assert "+0.50 points of accuracy" in found
    assert "about 16,000 rows" in found  # 2,000 times 7.84
    assert "these were 2,000" in found
    for other in ({"decision": "worth_it"}, {"gain": -0.01}):
        sentences = advice(results_of([0.9, 0.89], verdict=verdict | other))
        assert not any("to be shown" in sentence for sentence in sentences)


@pytest.mark.parametrize(("correlation", "lower"), [(0.5, "18.4"), (0.97, "1.0"), (-0.9, "100.0")])
def test_errors_of_numbers_are_advised_on_by_their_correlation(correlation, lower):
    matrix = np.full((3, 3), correlation)
    np.fill_diagonal(matrix, 1)
    members = [{"name": f"m{i}", "scores": {"test": {"rmse": 1.0}}} for i in range(3)]
    found = advice(
        {
            "metric": "rmse",
            "rows": {"test": 100},
            "members": members,
            "error_correlation": {"members": ["m0", "m1", "m2"], "matrix": matrix.tolist()},
            "agreement": None,
            "oracle_accuracy": None,
        }
    )
    assert len(found) == 1
    assert f"{lower}\u202f% lower" in found[0]
    assert ("hardly worth" in found[0]) == (lower == "1.0")


def test_failed_members_and_absent_entries_are_passed_over():
    results = results_of([0.9, 0.88])
    results["members"].append({"name": "broken", "status": "failed", "scores": {}})
    assert advice(results) == advice(results_of([0.9, 0.88]))
    bare = {"members": [{"name": n, "scores": {"test": {"accuracy": 0.9}}} for n in "ab"]}
    assert advice(bare) == []


def test_cross_fitted_rows_choose_and_judge():
    results = results_of([0.9, 0.87], rows=0)
    for member in results["members"]:
        del member["scores"]["holdout"]
    results["rows"] = {"test": 5000}
    assert "5,000 rows to choose by" in only(advice(results), "weights can be learned")


def test_never_more_than_five_sentences():
    results = results_of([0.9, 0.89, 0.9])
    for member, loss in zip(results["members"], [0.3, 0.31, 0.6], strict=True):
        member["scores"]["holdout"]["log_loss"] = loss
    results["fusions"] = [{"name": "auto", "weights": {"m0": 0.98, "m1": 0.01, "m2": 0.01}}]
    results["verdict"] = {"decision": "not_shown", "gain": 0.005, "interval": [-0.005, 0.015]}
    assert len(advice(results)) == 5
