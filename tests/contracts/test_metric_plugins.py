# SPDX-License-Identifier: Apache-2.0
"""Laws that every metric keeps, on the day its file appears; those of boxes and masks are beside it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.fuse.forms import over_classes
from fusetune.metric import Metric, weighted_means
from fusetune.plugins import discover
from fusetune.predictions.kinds import Kind, Marginals, Probabilities, Values
from fusetune.predictions.targets import LabelSets, Numbers
from pools import EXAMPLES, pool, pools

METRICS = discover(Metric)
TABLES = {Probabilities, Marginals, Values}
CASES = {name: metric() for name, metric in METRICS.items() if metric.accepts & TABLES}
CASES["equal_mass"] = METRICS["expected_calibration_error"](mass="equal_mass")
every_metric = pytest.mark.parametrize("metric", CASES.values(), ids=list(CASES))
some = settings(max_examples=EXAMPLES, deadline=None)


def of_its_kind(metric, prediction, targets):
    """The same rows as the metric's kind, with the truth that belongs to it."""
    if Probabilities in metric.accepts:
        return prediction, targets
    ids, names, labels_N = targets.ids, targets.classes, targets.labels_N
    if Marginals in metric.accepts:
        present_NC = np.eye(len(names), dtype=bool)[labels_N]
        present_NC[labels_N == 3, 0] = True
        said = Marginals(ids, prediction.classes, prediction.probs_NC)
        return said, LabelSets(ids, names, present_NC)
    values_ND = over_classes(prediction, names).probs_NC
    if metric.name == "pinball":
        levels = tuple((column + 1) / (len(names) + 1) for column in range(len(names)))
        return Values(ids, names, values_ND, levels), Numbers(ids, ("y",), labels_N[:, None] / 4)
    return Values(ids, names, values_ND), Numbers(ids, names, np.eye(len(names))[labels_N])


def truth(targets):
    """What a member that knows all would give, as an array over the targets' columns."""
    if isinstance(targets, LabelSets):
        return targets.present_NC.astype(float)
    if isinstance(targets, Numbers):
        return np.broadcast_to(targets.values_ND, (len(targets), 4))
    return np.eye(4)[targets.labels_N]


def repeated(prediction, targets, rows):
    """The rows under new ids, as often as they are given."""
    ids = np.array([f"copy{n}" for n in range(len(rows))])
    copied = {
        field.name: getattr(targets, field.name)[rows]
        for field in dataclasses.fields(targets)
        if isinstance(getattr(targets, field.name), np.ndarray) and field.name != "ids"
    }
    said = type(prediction).trusted(prediction, ids, prediction.columns, prediction.array_NC[rows])
    return said, dataclasses.replace(targets, ids=ids, **copied)


@every_metric
@some
@given(drawn=pools(), data=st.data())
def test_resamples_are_the_values_of_repeated_rows(metric, drawn, data):
    stack, targets = drawn
    prediction, targets = of_its_kind(metric, stack.parts[0], targets)
    counts = st.lists(st.integers(0, 3), min_size=len(stack), max_size=len(stack))
    counts_RN = np.array(data.draw(st.lists(counts.filter(any), min_size=1, max_size=3)))
    statistics_NS = metric.statistics(prediction, targets)
    assert statistics_NS.shape[0] == len(stack)
    values_R = metric.values(statistics_NS, counts_RN.astype(float))
    for counts_N, value in zip(counts_RN, values_R, strict=True):
        rows = np.repeat(np.arange(len(stack)), counts_N)
        expected = metric.value(metric.statistics(*repeated(prediction, targets, rows)))
        wanted = pytest.approx(expected, abs=1e-12, nan_ok=metric.name == "roc_auc")
        assert value == wanted
        assert metric.value(statistics_NS, counts_N * 7.0) == wanted


@every_metric
@some
@given(drawn=pools(rows=(1, 12)), data=st.data())
def test_rows_may_come_in_any_order_and_in_pieces(metric, drawn, data):
    stack, targets = drawn
    prediction, targets = of_its_kind(metric, stack.parts[0], targets)
    whole = metric.statistics(prediction, targets)
    order = np.array(data.draw(st.permutations(range(len(stack)))))
    permuted = metric.statistics(prediction.take(order), targets.take(order))
    expected = pytest.approx(metric.value(whole), abs=1e-12, nan_ok=metric.name == "roc_auc")
    assert metric.value(permuted) == expected
    pieces = [metric.statistics(prediction.take([n]), targets.take([n])) for n in range(len(stack))]
    assert np.array_equal(np.concatenate(pieces), whole)


@every_metric
def test_the_truth_beats_a_member_and_a_member_beats_chance(metric):
    stack, targets = pool(rows=400, skill=3.0)
    member, targets = of_its_kind(metric, stack.parts[0], targets)
    chance_NC = np.full((400, 4), truth(targets).mean())
    if Probabilities in metric.accepts:
        chance_NC += [0.003, -0.003, 0, 0]
    if metric.name == "roc_auc":  # which reads no size, only order
        chance_NC = member.probs_NC[::-1]
    values = [
        metric.value(metric.statistics(member.with_array(member.columns, array_NC), targets))
        for array_NC in (truth(targets), member.array_NC, chance_NC)
    ]
    assert metric.gain(values[0], values[1]) > 0
    if metric.name == "pinball":  # the pool's probabilities are no quantiles of anything
        return
    if metric.name != "expected_calibration_error":  # chance that says so is calibrated
        assert metric.gain(values[1], values[2]) > 0


@every_metric
def test_columns_are_matched_by_name(metric):
    stack, targets = pool()
    part, targets = of_its_kind(metric, stack.parts[0], targets)
    expected = metric.value(metric.statistics(part, targets))
    if metric.name != "pinball":  # whose columns are named by their levels
        turned = part.with_array(part.columns[::-1], part.array_NC[:, ::-1])
        assert metric.value(metric.statistics(turned, targets)) == pytest.approx(expected)
    if Probabilities in metric.accepts:
        renamed = dataclasses.replace(
            targets, classes=targets.classes[::-1], labels_N=3 - targets.labels_N
        )
        assert metric.value(metric.statistics(part, renamed)) == pytest.approx(expected)


@every_metric
def test_no_rows_have_no_value(metric):
    stack, targets = pool()
    none = np.arange(0)
    part, targets = of_its_kind(metric, stack.parts[0], targets)
    statistics_NS = metric.statistics(part.take(none), targets.take(none))
    assert len(statistics_NS) == 0
    assert np.isnan(metric.value(statistics_NS))


@every_metric
def test_both_precisions_agree_and_inputs_stay(metric):
    stack, targets = pool(dtype=np.float32)
    part, targets = of_its_kind(metric, stack.parts[0], targets)
    double = part.with_array(part.columns, part.array_NC.astype(np.float64))
    before = part.array_NC.copy()
    part.array_NC.flags.writeable = False
    value = metric.value(metric.statistics(part, targets))
    assert value == pytest.approx(metric.value(metric.statistics(double, targets)), rel=1e-5)
    assert np.array_equal(before, part.array_NC)


@every_metric
def test_metrics_are_named_and_documented(metric):
    assert metric.title
    assert metric.accepts and all(issubclass(kind, Kind) for kind in metric.accepts)
    assert "better" in (type(metric).__doc__ or "")
    for field in dataclasses.fields(metric):
        assert f"{field.name}: " in (type(metric).__doc__ or "")


def test_metrics_that_weigh_classes_evenly_say_so():
    evenly = {name for name, metric in METRICS.items() if metric.weighs_classes_evenly}
    assert evenly == {"balanced_accuracy", "macro_f1"}


@every_metric
@some
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 9))
def test_metrics_that_say_so_go_with_the_mean_of_their_rows(metric, seed, rows):
    if not metric.mean_of_rows:
        return
    random = np.random.default_rng(seed)
    statistics_NS = random.integers(0, 4, size=(rows, 1)) / 4
    weights_RN = random.integers(1, 4, size=(12, rows)).astype(float)
    means_R, values_R = (
        weighted_means(statistics_NS, weights_RN),
        metric.values(statistics_NS, weights_RN),
    )
    order = np.argsort(means_R, kind="stable")
    assert (np.diff(values_R[order]) >= -1e-12).all()
    apart = np.diff(means_R[order]) > 1e-9
    assert (np.diff(values_R[order])[apart] > 0).all()
