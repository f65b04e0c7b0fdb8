# SPDX-License-Identifier: Apache-2.0
"""Greedy selection against a plain, slow reading of the paper."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import InvalidValue, UnknownName
from fusetune.fuse.evidence import likelihoods_ML
from fusetune.fuse.forms import linear_pool, true_probs_MN
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.brier import Brier
from fusetune.metrics.expected_calibration_error import ExpectedCalibrationError
from fusetune.metrics.hamming_accuracy import HammingAccuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.macro_f1 import MacroF1
from fusetune.metrics.mae import Mae
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers
from pools import pool, pools

METRICS = [LogLoss(), Brier(), Accuracy(), MacroF1(), ExpectedCalibrationError()]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)


def slowly(stack, targets, metric, weights_N, rounds, penalties_M=None, initial_best=0):
    """Weights of the best prefix, with every pool built and judged as a whole."""
    true_MN = true_probs_MN(stack, targets)
    chosen, best, decimals = [], None, 11
    for number in range(rounds + bool(initial_best)):
        tried = []
        members = range(len(stack.members))
        if initial_best and not number:
            alone = []
            for member, part in enumerate(stack.parts):
                value = metric.value(metric.statistics(part, targets), weights_N)
                cost = -value if metric.higher_is_better else value
                loss = -np.log(true_MN[member]) @ weights_N
                alone.append((cost, loss, member))
            chosen = [member for _, _, member in sorted(alone)][:initial_best]
            members = [chosen.pop()]
        for member in members:
            counts_M = np.bincount([*chosen, member], minlength=len(stack.members))
            used = np.flatnonzero(counts_M)
            fused = linear_pool([stack.parts[m] for m in used], counts_M[used], stack.classes)
            value = metric.value(metric.statistics(fused, targets), weights_N)
            loss = -np.log(counts_M @ true_MN / counts_M.sum()) @ weights_N / weights_N.sum()
            cost = -value if metric.higher_is_better else value
            cost += 0 if penalties_M is None else penalties_M[used].sum()
            tried.append((cost, member not in chosen, loss, member))
        if initial_best or number:
            tried = [(round(cost, decimals), new, loss, m) for cost, new, loss, m in tried]
        tried = [(round(cost, 11), new, round(loss, 11), m) for cost, new, loss, m in tried]
        cost, _, loss, member = min(tried)
        if not number:  # from now on six decimals count, if the values are not very small
            alone = [metric.value(metric.statistics(p, targets), weights_N) for p in stack.parts]
            costs = -np.array(alone) if metric.higher_is_better else np.array(alone)
            costs = costs if penalties_M is None else costs + penalties_M
            decimals = 6 if abs(costs.min()) > 1e-4 else 11
        cost, loss = round(cost, decimals), round(loss, decimals)
        chosen.append(member)
        if best is None or (cost, loss) < best[:2]:
            best = (cost, loss, list(chosen))
    counts_M = np.bincount(best[2], minlength=len(stack.members))
    return {
        name: count / len(best[2])
        for name, count in zip(stack.members, counts_M.tolist(), strict=True)
        if count
    }


@every_metric
@settings(max_examples=40, deadline=None)
@given(drawn=pools(members=(1, 4), rows=(1, 8), unknown=False), data=st.data())
def test_it_chooses_as_the_slow_one_does_on_ties_and_zeros(metric, drawn, data):
    stack, targets = drawn
    # Double precision: the fast sums and the slow averages then see the same numbers.
    parts = {
        name: Probabilities(part.ids, part.classes, part.probs_NC.astype(np.float64))
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    stack = Stack.align(parts, classes=stack.classes)
    counts = st.lists(st.integers(0, 2), min_size=len(stack), max_size=len(stack)).filter(any)
    weights_N = np.array(data.draw(st.one_of(st.just([1] * len(stack)), counts)), dtype=float)
    fusion = GreedySelection(rounds=6).fit(stack, targets, metric, sample_weights_N=weights_N)
    assert fusion.weights() == pytest.approx(slowly(stack, targets, metric, weights_N, 6))


@every_metric
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_chooses_as_the_slow_one_does_on_a_real_looking_pool(metric, dtype, weighted):
    stack, targets = pool(members=6, rows=150, classes=3, noise=2.0, dtype=dtype)
    weights_N = np.random.default_rng(0).uniform(0, 2, size=150) if weighted else np.ones(150)
    fusion = GreedySelection(rounds=12).fit(stack, targets, metric, sample_weights_N=weights_N)
    assert fusion.weights() == pytest.approx(slowly(stack, targets, metric, weights_N, 12))


@pytest.mark.parametrize("metric", METRICS[:3], ids=lambda m: m.name)
def test_members_with_other_classes_take_the_general_path(metric):
    stack, targets = pool(members=3, rows=80)
    probs_NC = stack.parts[1].probs_NC[:, :3] / stack.parts[1].probs_NC[:, :3].sum(1, keepdims=True)
    parts = {
        "member0": stack.parts[0],
        "member1": Probabilities(stack.ids, stack.classes[:3], probs_NC),
        "member2": stack.parts[2],
    }
    stack = Stack.align(parts, classes=stack.classes)
    fusion = GreedySelection(rounds=8).fit(stack, targets, metric)
    assert fusion.weights() == pytest.approx(slowly(stack, targets, metric, np.ones(80), 8))


def test_a_class_that_no_member_knows_is_wrong_whatever_is_chosen():
    stack, targets = pool(members=3, rows=80)
    wider = type(targets)(targets.ids, (*targets.classes, "emu"), targets.labels_N.copy())
    wider.labels_N[:9] = 4
    aligned = Stack.align(dict(zip(stack.members, stack.parts, strict=True)))
    for metric in (Accuracy(), Brier(), LogLoss()):
        fusion = GreedySelection(rounds=5).fit(aligned, wider, metric)
        assert fusion.weights() == pytest.approx(slowly(aligned, wider, metric, np.ones(80), 5))


def test_ties_go_to_members_chosen_already_then_to_the_lower_loss_then_to_the_earlier():
    # All are right on every row, so accuracy never decides.
    targets = pool(rows=2, classes=2)[1]
    targets = type(targets)(targets.ids, targets.classes, np.array([0, 1]))

    def sure(p):
        return Probabilities(targets.ids, targets.classes, np.array([[p, 1 - p], [1 - p, p]]))

    stack = Stack.align({"a": sure(0.75), "b": sure(0.875), "c": sure(0.875)})
    assert GreedySelection().fit(stack, targets, Accuracy()).weights() == {"b": 1.0}


def test_no_rounds_are_refused():
    with pytest.raises(InvalidValue, match="rounds is 0; expected a whole number of at least 1"):
        GreedySelection(rounds=0)


def test_members_that_miss_a_class_that_the_others_know_count_at_eps_where_none_knows_it():
    stack, targets = pool(members=2, rows=30)
    wider = type(targets)(targets.ids, ("emu", *targets.classes), (targets.labels_N + 1) % 5)
    aligned = Stack.align(dict(zip(stack.members, stack.parts, strict=True)))
    np.testing.assert_array_equal(likelihoods_ML(aligned, wider), true_probs_MN(aligned, wider))


@pytest.mark.parametrize("metric", [LogLoss(), Accuracy()], ids=lambda metric: metric.name)
def test_a_price_is_paid_once_for_every_member(metric):
    stack, targets = pool(members=6, rows=150, classes=3, noise=2.0)
    costs = {name: 1.0 + index for index, name in enumerate(stack.members)}
    penalties_M = 0.002 * np.array(list(costs.values()))
    fusion = GreedySelection(rounds=10, cost_penalty=0.002, costs=costs).fit(stack, targets, metric)
    expected = slowly(stack, targets, metric, np.ones(150), 10, penalties_M)
    assert fusion.weights() == pytest.approx(expected)
    dear = GreedySelection(cost_penalty=10.0).fit(stack, targets, metric)
    assert len(dear.members) == 1


@pytest.mark.parametrize("initial_best", [1, 3, 99])
@pytest.mark.parametrize("metric", [LogLoss(), Accuracy(), MacroF1()], ids=lambda m: m.name)
def test_a_start_from_the_best_counts_as_the_first_prefix(metric, initial_best):
    stack, targets = pool(members=6, rows=150, classes=3, noise=2.0)
    fusion = GreedySelection(rounds=5, initial_best=initial_best).fit(stack, targets, metric)
    expected = slowly(stack, targets, metric, np.ones(150), 5, initial_best=min(initial_best, 6))
    assert fusion.weights() == pytest.approx(expected)


def test_bags_average_selections_among_parts_of_the_members():
    stack, targets = pool(members=6, rows=150, noise=2.0)
    bagged = GreedySelection(bags=12, seed=3).fit(stack, targets, LogLoss())
    again = GreedySelection(bags=12, seed=3).fit(stack, targets, LogLoss())
    other = GreedySelection(bags=12, seed=4).fit(stack, targets, LogLoss())
    assert bagged.weights() == again.weights() != other.weights()
    assert sum(bagged.weights().values()) == pytest.approx(1)
    assert len(bagged.members) > len(GreedySelection().fit(stack, targets, LogLoss()).members)
    whole = GreedySelection(bags=2, bag_share=1.0).fit(stack, targets, LogLoss())
    assert whole.weights() == pytest.approx(
        GreedySelection().fit(stack, targets, LogLoss()).weights()
    )
    backwards = stack.select(stack.members[::-1])
    assert GreedySelection(bags=12, seed=3).fit(
        backwards, targets, LogLoss()
    ).weights() == pytest.approx(bagged.weights())


def by_hand(parts, loss, rounds):
    """Weights of the best prefix by a loss of the averaged arrays; ties to chosen, then earlier."""
    chosen, best = [], None
    for _ in range(rounds):
        tried = min(
            (
                round(loss(np.mean([parts[m] for m in [*chosen, member]], axis=0)), 12),
                member not in chosen,
                member,
            )
            for member in range(len(parts))
        )
        chosen.append(tried[2])
        if best is None or tried[0] < best[0]:
            best = (tried[0], list(chosen))
    counts = np.bincount(best[1], minlength=len(parts))
    return counts / counts.sum()


METRICS_OF_VALUES = {
    "rmse": (Rmse(), lambda errors: np.sqrt((errors**2).mean(axis=0)).mean()),
    "mae": (Mae(), lambda errors: np.abs(errors).mean()),
}


@pytest.mark.parametrize("name", METRICS_OF_VALUES)
@pytest.mark.parametrize("columns", [("y",), ("y", "z")])
def test_values_are_selected_by_any_metric(name, columns):
    metric, loss = METRICS_OF_VALUES[name]
    random = np.random.default_rng(0)
    shape = (80, len(columns))
    truth_ND = random.normal(size=shape)
    ids = np.arange(80)
    parts = {f"m{m}": Values(ids, columns, truth_ND + random.normal(size=shape)) for m in range(5)}
    stack = Stack.align(parts, classes=columns)
    targets = Numbers(stack.ids, columns, truth_ND)
    fusion = GreedySelection(rounds=8).fit(stack, targets, metric)
    arrays = [part.values_ND for part in stack.parts]
    expected = by_hand(arrays, lambda pool: loss(pool - truth_ND), 8)
    assert fusion.weights() == pytest.approx(
        {m: w for m, w in zip(stack.members, expected.tolist(), strict=True) if w}
    )


def test_label_sets_are_selected_by_log_loss():
    random = np.random.default_rng(0)
    present_NC = random.random((60, 3)) < 0.4
    ids, classes = np.arange(60), ("a", "b", "c")
    parts = {
        f"m{m}": Marginals.from_logits(ids, classes, 2.0 * present_NC + random.normal(size=(60, 3)))
        for m in range(5)
    }
    stack = Stack.align(parts, classes=classes)
    targets = LabelSets(stack.ids, classes, present_NC)
    fusion = GreedySelection(rounds=8).fit(stack, targets, MultilabelLogLoss())
    arrays = [part.probs_NC for part in stack.parts]

    def loss(pool):
        return -np.log(np.where(present_NC, pool, 1 - pool)).mean()

    expected = by_hand(arrays, loss, 8)
    assert fusion.weights() == pytest.approx(
        {m: w for m, w in zip(stack.members, expected.tolist(), strict=True) if w}
    )


def test_label_sets_are_selected_by_any_metric_and_ties_go_to_the_likelihood():
    present_NC = np.array([[True, False], [False, False], [True, True], [False, True]])
    ids = np.arange(4)
    sure, surer = np.where(present_NC, 0.75, 0.25), np.where(present_NC, 0.875, 0.125)
    parts = {"m0": Marginals(ids, ("a", "b"), sure), "m1": Marginals(ids, ("a", "b"), surer)}
    stack = Stack.align(parts, classes=("a", "b"))
    fusion = GreedySelection().fit(
        stack, LabelSets(stack.ids, ("a", "b"), present_NC), HammingAccuracy()
    )
    assert fusion.weights() == {"m1": 1.0}


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InvalidValue, match="bags is -1; expected a whole number of at least 0"):
        GreedySelection(bags=-1)
    with pytest.raises(InvalidValue, match=r"bag_share is 0.0; expected a share above 0"):
        GreedySelection(bag_share=0.0)
    with pytest.raises(InvalidValue, match=r"cost_penalty is nan; expected a number .* Write 0.0"):
        GreedySelection(cost_penalty=float("nan"))
    with pytest.raises(InvalidValue, match="the cost of 'vgg' is -1; expected a finite number"):
        GreedySelection(costs={"vgg": -1})
    stack, targets = pool(members=3)
    with pytest.raises(UnknownName, match=r"no cost is called 'member1'.*Did you mean 'memberl'"):
        GreedySelection(cost_penalty=0.1, costs={"member0": 1, "memberl": 1, "member2": 1}).fit(
            stack, targets, LogLoss()
        )
