# SPDX-License-Identifier: Apache-2.0
"""Laws of the metrics that judge boxes: those of `test_metric_plugins.py`, again."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from box_pools import box_arrays, box_pool, box_pools
from fusetune.evaluate.compare import bootstrap_gain
from fusetune.evaluate.significance import permutation_p
from fusetune.metric import Metric, same_width
from fusetune.plugins import discover
from fusetune.predictions.detection.boxes import Boxes
from pools import EXAMPLES

METRICS = {name: metric() for name, metric in discover(Metric).items() if Boxes in metric.accepts}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
some = settings(max_examples=EXAMPLES, deadline=None)


def value(metric, prediction, targets):
    return metric.value(metric.statistics(prediction, targets))


def without_ties(prediction, seed):
    """The same boxes with scores that all differ: equal ones are ranked by their rows' order."""
    scores_K = np.random.default_rng(seed).permutation(len(prediction.scores_K)) / 1e4
    return dataclasses.replace(prediction, scores_K=scores_K)


def renamed(rows, of):
    return dataclasses.replace(of.take(rows), ids=np.array([f"copy{n}" for n in range(len(rows))]))


@every_metric
@some
@given(drawn=box_pools(), data=st.data())
def test_resamples_are_the_values_of_repeated_rows(metric, drawn, data):
    stack, targets = drawn
    prediction = without_ties(stack.parts[0], 0)
    counts = st.lists(st.integers(0, 3), min_size=len(stack), max_size=len(stack))
    counts_N = np.array(data.draw(counts.filter(any)))
    statistics_NS = metric.statistics(prediction, targets)
    assert statistics_NS.shape[0] == len(stack)
    rows = np.repeat(np.arange(len(stack)), counts_N)
    expected = value(metric, renamed(rows, prediction), renamed(rows, targets))
    wanted = pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert metric.values(statistics_NS, counts_N[None].astype(float))[0] == wanted
    assert metric.value(statistics_NS, counts_N * 7.0) == wanted


@every_metric
@some
@given(drawn=box_pools(), data=st.data())
def test_rows_may_come_in_any_order_and_in_pieces(metric, drawn, data):
    stack, targets = drawn
    prediction = without_ties(stack.parts[0], 1)
    whole = metric.statistics(prediction, targets)
    order = np.array(data.draw(st.permutations(range(len(stack)))))
    permuted = value(metric, prediction.take(order), targets.take(order))
    assert permuted == pytest.approx(metric.value(whole), abs=1e-12, nan_ok=True)
    pieces = [metric.statistics(prediction.take([n]), targets.take([n])) for n in range(len(stack))]
    assert np.array_equal(np.concatenate(same_width([*pieces, whole[:0]])), whole)


@every_metric
def test_the_truth_beats_a_member_and_a_member_beats_chance(metric):
    stack, targets = box_pool(rows=80, objects=6)
    member = stack.parts[0]
    sure_K = np.ones(len(targets.labels_K))
    truth = Boxes(
        targets.ids, targets.classes, targets.offsets, targets.boxes_K4, sure_K, targets.labels_K
    )
    chance = dataclasses.replace(member, boxes_K4=member.boxes_K4[::-1])
    values = [value(metric, one, targets) for one in (truth, member, chance)]
    assert values[0] > values[1] > values[2] >= 0
    if metric.name not in ("coco_recall1", "coco_map_small", "coco_recall_small"):
        assert values[0] == pytest.approx(1)


@every_metric
def test_classes_are_matched_by_name_and_strange_ones_left_out(metric):
    stack, targets = box_pool()
    part = stack.parts[0]
    expected = value(metric, part, targets)
    turned = part.over(("unheard_of", *part.classes[::-1]))
    assert value(metric, turned, targets) == pytest.approx(expected, nan_ok=True)
    turned = dataclasses.replace(
        targets, classes=targets.classes[::-1], labels_K=2 - targets.labels_K
    )
    assert value(metric, part, turned) == pytest.approx(expected, nan_ok=True)


@every_metric
def test_no_rows_and_no_objects_have_no_value_and_no_boxes_have_0(metric):
    stack, targets = box_pool()
    part, none = stack.parts[0], np.arange(0)
    statistics_NS = metric.statistics(part.take(none), targets.take(none))
    assert len(statistics_NS) == 0
    assert np.isnan(metric.value(statistics_NS))
    empty = Boxes(part.ids, part.classes, np.zeros(41), np.zeros((0, 4)), [], [])
    assert value(metric, empty, targets) == 0
    ignored = dataclasses.replace(targets, ignored_K=np.ones(len(targets.labels_K), dtype=bool))
    assert np.isnan(value(metric, part, ignored))


@every_metric
def test_inputs_stay_and_a_row_can_be_swapped_and_drawn(metric):
    """What the verdict does with statistics of rows of different widths."""
    stack, targets = box_pool()
    before = box_arrays(stack)
    one, other = (metric.statistics(part, targets) for part in stack.parts[:2])
    gain = bootstrap_gain(metric, one, other, resamples=200, seed=0)
    assert gain.low <= gain.value <= gain.high
    assert gain.value == pytest.approx(metric.value(one) - metric.value(other))
    assert 0 < permutation_p(metric, one, other, permutations=99, seed=0) <= 1
    assert permutation_p(metric, one, one, permutations=99, seed=0) == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, box_arrays(stack), strict=True))


@every_metric
def test_metrics_are_named_and_documented(metric):
    assert metric.title and "better" in (type(metric).__doc__ or "")
