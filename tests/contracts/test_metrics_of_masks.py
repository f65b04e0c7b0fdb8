# SPDX-License-Identifier: Apache-2.0
"""Laws of the metrics that judge masks: those of `test_metric_plugins.py`, again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from fusetune.evaluate.compare import bootstrap_gain
from fusetune.evaluate.significance import permutation_p
from fusetune.fuse.forms import linear_pool
from fusetune.fuse.segmentation.selection_tallies import PixelTallies
from fusetune.metric import Metric
from fusetune.metrics.boundary_f1 import BoundaryF1
from fusetune.plugins import discover
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from mask_pools import mask_pool, mask_pools, whole
from pools import EXAMPLES

METRICS = {name: metric() for name, metric in discover(Metric).items() if Masks in metric.accepts}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
some = settings(max_examples=EXAMPLES, deadline=None)


def value(metric, prediction, targets):
    return metric.value(metric.statistics(prediction, targets))


def one_hot(targets):
    arrays = [np.moveaxis(np.eye(len(targets.classes))[one.read()], -1, 0) for one in targets.maps]
    return Masks.from_arrays(targets.ids, targets.classes, arrays)


def repeated(rows, prediction, targets):
    ids = np.array([f"copy{n}" for n in range(len(rows))])
    arrays, maps = whole(prediction), [one.read() for one in targets.maps]
    said = Masks.from_arrays(ids, prediction.classes, [arrays[n] for n in rows])
    return said, LabelMaps.from_arrays(ids, targets.classes, [maps[n] for n in rows])


def test_the_metrics_of_the_issue_are_covered():
    assert {"mean_iou", "pixel_accuracy", "mean_dice", "boundary_f1"} <= set(METRICS)


@every_metric
@some
@given(drawn=mask_pools(), data=st.data())
def test_resamples_are_the_values_of_repeated_rows(metric, drawn, data):
    stack, targets = drawn
    prediction = stack.parts[0]
    counts = st.lists(st.integers(0, 3), min_size=len(stack), max_size=len(stack))
    counts_N = np.array(data.draw(counts.filter(any)))
    statistics_NS = metric.statistics(prediction, targets)
    assert statistics_NS.shape[0] == len(stack)
    rows = np.repeat(np.arange(len(stack)), counts_N)
    expected = value(metric, *repeated(rows, prediction, targets))
    wanted = pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert metric.values(statistics_NS, counts_N[None].astype(float))[0] == wanted
    assert metric.value(statistics_NS, counts_N * 7.0) == wanted


@every_metric
@some
@given(drawn=mask_pools(), data=st.data())
def test_rows_may_come_in_any_order_and_in_pieces(metric, drawn, data):
    stack, targets = drawn
    prediction = stack.parts[0]
    statistics_NS = metric.statistics(prediction, targets)
    order = np.array(data.draw(st.permutations(range(len(stack)))))
    permuted = metric.statistics(prediction.take(order), targets.take(order))
    assert np.array_equal(permuted, statistics_NS[order])
    pieces = [metric.statistics(prediction.take([n]), targets.take([n])) for n in range(len(stack))]
    assert np.array_equal(np.concatenate(pieces), statistics_NS)


@every_metric
def test_the_truth_beats_a_member_and_a_member_beats_chance(metric):
    stack, targets = mask_pool(rows=12)
    member = stack.parts[0]
    shuffled = [array[:, :, np.random.default_rng(0).permutation(16)] for array in whole(member)]
    chance = Masks.from_arrays(targets.ids, member.classes, shuffled)
    values = [value(metric, one, targets) for one in (one_hot(targets), member, chance)]
    assert values[0] == 1 > values[1] > values[2] >= 0


@every_metric
def test_classes_are_matched_by_name(metric):
    stack, targets = mask_pool()
    part = stack.parts[0]
    expected = value(metric, part, targets)
    turned = part.over(("unheard_of", *part.classes[::-1]))
    assert value(metric, turned, targets) == pytest.approx(expected)
    maps = [2 - one.read() for one in targets.maps]
    other = LabelMaps.from_arrays(targets.ids, targets.classes[::-1], maps)
    assert value(metric, part, other) == pytest.approx(expected)


@every_metric
def test_a_class_that_the_truth_lacks_counts_against_the_member(metric):
    _, targets = mask_pool()
    names = ("boat", *targets.classes[1:])  # what is called road in truth is called a boat
    said = Masks.from_arrays(targets.ids, names, whole(one_hot(targets)))
    assert 0 <= value(metric, said, targets) < 1


@every_metric
def test_ignored_pixels_count_nowhere(metric):
    stack, targets = mask_pool()
    part, kept = stack.parts[0], [one.read().copy() for one in targets.maps]
    for labels in kept:
        labels[:, 8:] = -1
    ignoring = LabelMaps.from_arrays(targets.ids, targets.classes, kept)
    left = LabelMaps.from_arrays(targets.ids, targets.classes, [one[:, :8] for one in kept])
    halves = Masks.from_arrays(
        targets.ids, part.classes, [array[:, :, :8] for array in whole(part)]
    )
    if metric.name != "boundary_f1":  # its tolerance hangs on the image's size
        assert value(metric, part, ignoring) == pytest.approx(value(metric, halves, left))
    other = [array.copy() for array in whole(part)]
    for array in other:
        array[:, :, 8:] = np.roll(array[:, :, 8:], 1, axis=0)
    changed = Masks.from_arrays(targets.ids, part.classes, other)
    same = value(metric, changed, ignoring) == value(metric, part, ignoring)
    assert same and value(metric, changed, targets) != value(metric, part, targets)


@every_metric
def test_no_rows_have_no_value(metric):
    stack, targets = mask_pool()
    none = np.arange(0)
    statistics_NS = metric.statistics(stack.parts[0].take(none), targets.take(none))
    assert len(statistics_NS) == 0
    assert np.isnan(metric.value(statistics_NS))


@every_metric
def test_a_row_can_be_swapped_and_drawn(metric):
    stack, targets = mask_pool()
    one, other = (metric.statistics(part, targets) for part in stack.parts[:2])
    gain = bootstrap_gain(metric, one, other, resamples=200, seed=0)
    assert gain.low <= gain.value <= gain.high
    assert gain.value == pytest.approx(metric.value(one) - metric.value(other))
    assert 0 < permutation_p(metric, one, other, permutations=99, seed=0) <= 1


@every_metric
def test_metrics_are_named_and_documented(metric):
    assert metric.title and "better" in (type(metric).__doc__ or "")


def test_intersection_over_union_is_what_scikit_learn_calls_jaccard():
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score

    stack, targets = mask_pool(noise=2.0)
    part = stack.parts[0]
    truth = np.concatenate([one.read().ravel() for one in targets.maps])
    said = np.concatenate([array.argmax(axis=0).ravel() for array in whole(part)])
    wanted = jaccard_score(truth, said, average="macro")
    assert value(METRICS["mean_iou"], part, targets) == pytest.approx(wanted)
    wanted = f1_score(truth, said, average="macro")
    assert value(METRICS["mean_dice"], part, targets) == pytest.approx(wanted)
    wanted = accuracy_score(truth, said)
    assert value(METRICS["pixel_accuracy"], part, targets) == pytest.approx(wanted)


def test_boundary_f1_by_hand():
    """A square of one class, called so two pixels further right: half of its outline is near."""
    truth = np.zeros((100, 100), dtype=int)
    truth[20:60, 20:60] = 1
    for shift, near in ((0, True), (1, True), (5, False)):
        said = np.moveaxis(np.eye(2)[np.roll(truth, shift, axis=1)], -1, 0)
        masks = Masks.from_arrays(["a"], ("ground", "square"), [said])
        targets = LabelMaps.from_arrays(["a"], ("ground", "square"), [truth])
        found = value(METRICS["boundary_f1"], masks, targets)
        assert (found == 1) is near
        if (
            shift == 5
        ):  # the sides that lie beside each other, less 5 + 1 near pixels at two corners
            assert 0.4 < found < 0.6


@every_metric
@some
@given(drawn=mask_pools(), data=st.data())
def test_pools_of_pixels_are_valued_at_once_as_row_by_row(metric, drawn, data):
    """What greedy selection asks of metrics of tallies; also where members lack classes."""
    if not metric.of_tallies:
        pytest.skip("asks for more than tallies")
    stack, targets = drawn
    members = np.arange(len(stack.members))
    counts = st.lists(st.integers(0, 3), min_size=len(members), max_size=len(members))
    counts_M = np.array(data.draw(counts))
    weights_N = np.array([data.draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in stack.ids])
    values = PixelTallies(stack, targets, metric, weights_N).with_each(counts_M, members)
    for member, found in zip(members, values, strict=True):
        more_M = counts_M + (members == member)
        used = np.flatnonzero(more_M)
        pool = linear_pool(
            [stack.parts[m] for m in used], more_M[used].astype(float), stack.classes
        )
        wanted = metric.value(metric.statistics(pool, targets), weights_N)
        assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@some
@given(data=st.data())
def test_boundary_f1_is_what_distances_of_whole_images_say(data):
    """To the bit, with every class by itself, as the paper has it."""
    height, width, classes = (data.draw(st.integers(1, most)) for most in (24, 24, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    blocks = random.integers(-1, classes, (height // 3 + 1, width // 3 + 1))
    truth = blocks.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    noise = random.integers(0, classes + 1, (height, width))
    said = np.where(random.random((height, width)) < 0.2, noise, np.roll(truth, 1, axis=1).clip(0))
    metric = BoundaryF1(tolerance=data.draw(st.sampled_from([0.0075, 0.05, 0.2, 0.9])))
    names = tuple(f"class{c}" for c in range(classes))
    arrays = [np.moveaxis(np.eye(classes + 1)[said], -1, 0)]
    masks = Masks.from_arrays(["a"], (*names, "unknown"), arrays)
    found = value(metric, masks, LabelMaps.from_arrays(["a"], names, [truth]))
    assert found == by_distances(said, truth, max(1.0, metric.tolerance * np.hypot(height, width)))


def by_distances(said, truth, near):
    judged, values = truth >= 0, []
    for label in np.union1d(said[judged], truth[judged]):
        called, true = (outline(one == label, judged) for one in (said, truth))
        if not called.any() and not true.any():
            values.append(float((said[judged] == label).any() and (truth == label).any()))
            continue
        shares = [
            (distance_transform_edt(~others)[points] <= near).mean()
            if points.any() and others.any()
            else 0.0
            for points, others in ((called, true), (true, called))
        ]
        values.append(2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0)
    return np.mean(values) if values else 1.0


def outline(own, judged):
    other, beside = np.pad(~own & judged, 1), np.zeros_like(own)
    for line, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside |= other[line : line + own.shape[0], column : column + own.shape[1]]
    return own & judged & beside
