# SPDX-License-Identifier: Apache-2.0
"""Entries of results.json that explain scores: against the functions they come from, and JSON."""

import json

import numpy as np
import pytest

from fusetune.evaluate import diagnosis
from fusetune.evaluate.compare import mcnemar_p
from fusetune.evaluate.contribution import contributions
from fusetune.evaluate.diagnosis import (
    calibration_results,
    contribution_results,
    diversity_results,
    significance_results,
)
from fusetune.evaluate.diversity import agreement, error_correlation, q_statistic
from fusetune.evaluate.significance import holm, permutation_p
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.rmse import Rmse
from fusetune.metrics.roc_auc import RocAuc
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from pools import pool

MATRICES = ("agreement", "disagreement", "double_fault", "q_statistic", "error_correlation")


def numbers(members=3, rows=50, names=("y",)):
    random = np.random.default_rng(0)
    ids = np.array([f"r{n}" for n in range(rows)])
    truth_ND = random.normal(size=(rows, len(names)))
    parts = {
        f"m{m}": Values(ids, names, truth_ND + random.normal(size=truth_ND.shape))
        for m in range(members)
    }
    return Stack.align(parts), Numbers(ids, names, truth_ND)


def test_diversity_of_classes_is_that_of_its_functions():
    stack, targets = pool(members=3, rows=80)
    found = diversity_results(stack, targets)
    json.dumps(found, allow_nan=False)
    assert found["agreement"]["members"] == list(stack.members)
    assert np.allclose(found["agreement"]["matrix"], agreement(stack), atol=1e-6)
    assert np.allclose(found["q_statistic"]["matrix"], q_statistic(stack, targets), atol=1e-6)
    pairs = [found["disagreement"]["matrix"][i][j] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["disagreement"]["mean"] == pytest.approx(np.mean(pairs), abs=1e-5)
    right = [part.labels() == targets.names() for part in stack.parts]
    assert found["oracle_accuracy"] == np.any(right, axis=0).mean()


def test_diversity_of_label_sets_counts_labels():
    stack, targets = pool(members=2, rows=40)
    present_NC = np.eye(len(targets.classes), dtype=bool)[targets.labels_N]
    parts = {
        name: Marginals(part.ids, part.classes, part.probs_NC)
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    labels = LabelSets(targets.ids, targets.classes, present_NC)
    found = diversity_results(Stack.align(parts, classes=targets.classes), labels)
    assert 0 < found["oracle_accuracy"] <= 1
    assert found["agreement"]["mean"] is not None


def test_numbers_have_correlated_errors_and_no_decisions():
    stack, targets = numbers()
    found = diversity_results(stack, targets)
    assert np.allclose(
        found["error_correlation"]["matrix"], error_correlation(stack, targets), atol=1e-6
    )
    assert [found[name] for name in (*MATRICES[:4], "oracle_accuracy")] == [None] * 5


def test_one_member_has_no_pairs():
    stack, targets = pool(members=1, rows=10)
    found = diversity_results(stack, targets)
    json.dumps(found, allow_nan=False)
    assert [found[name]["mean"] for name in MATRICES] == [None] * 5


def test_many_members_keep_the_matrix_of_their_agreement_only():
    stack, targets = pool(members=3, rows=10)
    part = stack.parts[0]
    many = Stack.align({f"m{n}": part for n in range(13)}, classes=targets.classes)
    found = diversity_results(many, targets)
    assert len(found["agreement"]["matrix"]) == 13
    assert found["disagreement"]["matrix"] is None
    assert found["disagreement"]["mean"] == 0


def test_contributions_are_those_of_all_rows_where_they_are_few():
    stack, targets = pool(members=3, rows=60)
    weights = dict(zip(stack.members, (0.5, 0.5, 0.0), strict=True))
    found = contribution_results(stack, targets, Accuracy(), weights=weights, seed=0)
    wanted = contributions(stack, targets, Accuracy(), weights=weights, seed=0)
    assert found == wanted.as_results() | {"rows": 60}
    json.dumps(found, allow_nan=False)


def test_one_member_contributes_everything_and_is_left_out():
    stack, targets = pool(members=2, rows=30)
    assert (
        contribution_results(stack, targets, Accuracy(), weights={"member0": 1.0}, seed=0) is None
    )


def test_many_rows_are_represented_by_some_whatever_their_order(monkeypatch):
    stack, targets = pool(members=3, rows=400)
    weights = dict.fromkeys(stack.members, 1.0)
    rows_work = 100 * len(stack.classes)
    monkeypatch.setattr(diagnosis, "WORK", 2**3 * (diagnosis.COALITION + rows_work))
    monkeypatch.setattr(diagnosis, "FEWEST_ROWS", 50)
    found = contribution_results(stack, targets, LogLoss(), weights=weights, seed=0)
    assert found["rows"] == 100
    order = np.random.default_rng(1).permutation(400)
    again = contribution_results(
        stack.take(order), targets.take(order), LogLoss(), weights=weights, seed=0
    )
    for name, one in found["members"].items():
        assert again["members"][name] == pytest.approx(one)
    monkeypatch.setattr(diagnosis, "FEWEST_ROWS", 101)
    assert contribution_results(stack, targets, LogLoss(), weights=weights, seed=0) is None


def test_members_contribute_to_numbers_too():
    stack, targets = numbers()
    weights = dict.fromkeys(stack.members, 1.0)
    found = contribution_results(stack, targets, Rmse(), weights=weights, seed=0)
    gain = found["score_none"] - found["score_all"]
    assert sum(one["shapley"] for one in found["members"].values()) == pytest.approx(gain)


def statistics(metric, stack, targets):
    return {
        name: metric.statistics(part, targets)
        for name, part in zip(stack.members, stack.parts, strict=True)
    }


def test_accuracy_is_tested_by_mcnemar_and_corrected():
    stack, targets = pool(members=4, rows=300)
    of = statistics(Accuracy(), stack, targets)
    best_NS = of.pop("member0")
    found = significance_results(Accuracy(), list(of), "member1", of.get, best_NS, seed=0)
    alone = [mcnemar_p(of[name][:, 0] > 0, best_NS[:, 0] > 0) for name in of]
    assert [one["p_value"] for one in found.values()] == alone
    assert [one["p_holm"] for one in found.values()] == holm(alone).tolist()


def test_other_metrics_are_tested_by_permutation():
    stack, targets = pool(members=3, rows=300)
    of = statistics(LogLoss(), stack, targets)
    best_NS = of.pop("member0")
    found = significance_results(LogLoss(), list(of), "member1", of.get, best_NS, seed=3)
    for name, one in found.items():
        wanted = permutation_p(LogLoss(), of[name], best_NS, permutations=999, seed=3)
        assert one["p_value"] == wanted


@pytest.mark.parametrize("chosen", ["mean", "best_member"])
def test_the_best_member_is_tested_only_where_it_was_chosen(chosen):
    stack, targets = pool(members=3, rows=100)
    of = dict(
        zip(("best_member", "mean"), statistics(Accuracy(), stack, targets).values(), strict=False)
    )
    found = significance_results(Accuracy(), list(of), chosen, of.get, of["best_member"], seed=0)
    assert found["mean"]["p_holm"] is not None
    assert (found["best_member"]["p_value"] is None) == (chosen == "mean")


def test_where_permutations_are_dear_only_the_chosen_one_is_tested(monkeypatch):
    stack, targets = pool(members=4, rows=100, classes=2)
    of = statistics(RocAuc(), stack, targets)
    best_NS = of.pop("member0")
    every = significance_results(RocAuc(), list(of), "member1", of.get, best_NS, seed=0)
    monkeypatch.setattr(diagnosis, "MOST_DISTINCT", 250)
    found = significance_results(RocAuc(), list(of), "member1", of.get, best_NS, seed=0)
    assert found["member1"] == {"p_value": every["member1"]["p_value"], "p_holm": None}
    assert found["member2"] == {"p_value": None, "p_holm": None}
    assert every["member2"]["p_holm"] is not None
    few = significance_results(Accuracy(), list(of), "member1", of.get, np.ones((100, 1)), seed=0)
    assert few["member2"]["p_holm"] is not None


def test_calibration_shows_both_errors_and_the_bins():
    stack, targets = pool(members=1, rows=200)
    before = stack.parts[0]
    flat_NC = before.probs_NC**0.5
    after = Probabilities(before.ids, before.classes, flat_NC / flat_NC.sum(axis=1, keepdims=True))
    found = calibration_results("temperature", before, after, targets, [LogLoss()])
    json.dumps(found, allow_nan=False)
    assert set(found["before"]) == {"log_loss", "expected_calibration_error_equal_mass"}
    assert sum(found["reliability"]["before"]["rows"]) == 200
    assert found["reliability"]["before"] != found["reliability"]["after"]
    empty = [rows == 0 for rows in found["reliability"]["after"]["rows"]]
    assert [share is None for share in found["reliability"]["after"]["accuracy"]] == empty


def test_calibrated_numbers_have_scores_and_no_bins():
    stack, targets = numbers(members=2)
    found = calibration_results("affine", *stack.parts, targets, [Rmse()])
    assert found["reliability"] is None
    assert found["before"]["rmse"] != found["after"]["rmse"]


def test_the_bins_leave_out_no_row():
    part = Probabilities(["a", "b"], ("x", "y"), np.array([[1.0, 0.0], [0.5, 0.5]]))
    targets = Targets.from_names(part.ids, ["x", "y"])
    found = calibration_results("temperature", part, part, targets, [])
    assert found["reliability"]["before"]["rows"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert found["reliability"]["before"]["accuracy"][9] == 1.0
