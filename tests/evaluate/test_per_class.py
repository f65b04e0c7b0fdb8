# SPDX-License-Identifier: Apache-2.0
"""Detections and masks part by part, against the metrics and plain counts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from box_pools import box_pool, box_pools
from fusetune.evaluate.compare import bootstrap_differences
from fusetune.evaluate.per_class import class_results
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.detection.matches import (
    Summary,
    best_cut,
    class_values,
    match_statistics,
    precision_curves,
)
from mask_pools import mask_pool
from pools import EXAMPLES

some = settings(max_examples=EXAMPLES, deadline=None)


def value(name, prediction, targets):
    metric = find(Metric, name)()
    return metric.value(metric.statistics(prediction, targets))


def results(stack, truth, best="member0", chosen="member1"):
    parts = dict(zip(stack.members, stack.parts, strict=True))
    return class_results(parts, truth, best, chosen, seed=0)


@some
@given(drawn=box_pools(), overlap=st.sampled_from([None, 0.5, 0.75]))
def test_the_mean_of_a_curve_is_the_average_precision(drawn, overlap):
    stack, truth = drawn
    statistics_NS = match_statistics(stack.parts[0], truth)
    summary = Summary(overlap=overlap)
    curves_CQ = precision_curves(summary, statistics_NS)
    wanted_C = class_values(summary, statistics_NS, np.ones((1, len(truth))))[0]
    np.testing.assert_allclose(curves_CQ.mean(axis=1), wanted_C, atol=1e-12)
    known_CQ = curves_CQ[~np.isnan(wanted_C)]
    assert (np.diff(known_CQ, axis=1) <= 0).all() and (known_CQ <= 1).all()


@some
@given(drawn=box_pools())
def test_the_cut_is_the_score_of_the_highest_f1(drawn):
    stack, truth = drawn
    statistics_NS = match_statistics(stack.parts[0], truth)
    entries_K5 = statistics_NS.reshape(-1, 5)
    found_K5 = entries_K5[entries_K5[:, 0] > 0]
    objects = entries_K5[entries_K5[:, 0] < 0, 1].sum()
    counts = found_K5[:, 4].astype(int) & 1 == 0
    right = (found_K5[:, 3].astype(int) & 1 == 1) & counts

    def f1(cut):
        kept = found_K5[:, 1] >= cut
        return 2 * (right & kept).sum() / max(1, (counts & kept).sum() + objects)

    cut = best_cut(statistics_NS)
    best = max(map(f1, [*found_K5[:, 1], np.inf]))
    assert f1(cut) == pytest.approx(best)
    assert np.isinf(cut) == (best == 0)


def test_parts_of_detections_are_those_of_the_metrics():
    stack, truth = box_pool(rows=60)
    found = results(stack, truth)
    first, second = stack.parts[:2]
    by_class = [one["average_precision"]["member0"] for one in found["per_class"]]
    assert np.mean(by_class) == pytest.approx(value("coco_map", first, truth), abs=1e-6)
    areas_K = (truth.boxes_K4[:, 2:] - truth.boxes_K4[:, :2]).prod(axis=1)
    sizes = {one["size"]: one for one in found["by_size"]}
    assert sizes["small"]["objects"] == (areas_K < 32**2).sum()
    assert sizes["large"]["objects"] == (areas_K > 96**2).sum()
    for size, one in sizes.items():
        wanted = value(f"coco_map_{size}", second, truth)
        assert one["average_precision"]["member1"] == pytest.approx(wanted, abs=1e-6)
        gain = wanted - value(f"coco_map_{size}", first, truth)
        assert one["gain"] == pytest.approx(gain, abs=1e-6)
        low, high = one["interval"]
        assert low <= high
    curves = found["precision_recall"]
    assert list(curves["precision"]) == ["member1", "member0", "member2"]
    for name, part in zip(stack.members, stack.parts, strict=True):
        area = curves["average_precision"][name]
        assert area == pytest.approx(value("coco_map50", part, truth), abs=1e-6)


def test_a_class_or_size_without_objects_has_no_value():
    stack, truth = box_pool(rows=20, classes=2)
    truth = dataclasses.replace(truth, classes=("class0", "class1", "never"))
    large = dataclasses.replace(truth, areas_K=np.full(len(truth.labels_K), 1e5))
    found = results(stack, large)
    assert [one["class"] for one in found["per_class"]] == ["class0", "class1"]
    small = found["by_size"][0]
    assert (small["size"], small["objects"], small["gain"], small["interval"]) == (
        *("small", 0),
        *(None, None),
    )
    assert small["average_precision"] == {"member0": None, "member1": None}


def test_shares_of_the_image_have_no_sizes():
    stack, truth = box_pool(rows=10)
    factors = np.full((10, 2), 1 / 640)
    parts = {
        name: part.scaled(factors, relative=True)
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    truth = dataclasses.replace(truth, boxes_K4=truth.boxes_K4 / 640, areas_K=None, relative=True)
    found = class_results(parts, truth, "member0", "member1", seed=0)
    assert "by_size" not in found and found["per_class"] and found["precision_recall"]


def test_gains_of_classes_of_masks_are_counted_over_all_images():
    stack, truth = mask_pool(rows=6)
    found = results(stack, truth)["per_class"]
    counts = np.zeros((2, 3, 2))  # member, class, pixels of both and of either
    for m, part in enumerate(stack.parts[:2]):
        for mask, labels in zip(part.masks, truth.maps, strict=True):
            said, true = mask.array().argmax(axis=0), labels.read()
            for c in range(3):
                counts[m, c] += [
                    ((said == c) & (true == c)).sum(),
                    ((said == c) | (true == c)).sum(),
                ]
    ratios = counts[..., 0] / counts[..., 1]
    for c, one in enumerate(found):
        assert one["gain"] == pytest.approx(ratios[1, c] - ratios[0, c], abs=1e-6)
        assert one["interval"][0] <= one["gain"] <= one["interval"][1]


def test_intervals_of_many_differences_are_paired_percentiles():
    """Of means of rows they are those of the rows' differences."""
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 50, 3))

    def means(values_NV):
        return lambda weights_RN: weights_RN @ values_NV / weights_RN.sum(axis=1, keepdims=True)

    found = bootstrap_differences(means(one), means(other), 50, resamples=2000, seed=1)
    for v, interval in enumerate(found):
        differences_N = one[:, v] - other[:, v]
        spread = differences_N.std() / np.sqrt(50)
        assert interval.value == pytest.approx(differences_N.mean())
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_resamples_without_a_value_are_left_out_of_the_interval():
    def values(weights_RN):
        return np.where(weights_RN[:, :1] > 0, weights_RN[:, :1], np.nan)

    (found,) = bootstrap_differences(values, lambda weights: 0 * values(weights), 5, seed=0)
    assert found.value == 1 and 1 <= found.low <= found.high
    (never,) = bootstrap_differences(
        lambda weights_RN: np.full((len(weights_RN), 1), np.nan), values, 5, seed=0
    )
    assert np.isnan([never.value, never.low]).all()
