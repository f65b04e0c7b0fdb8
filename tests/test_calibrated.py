# SPDX-License-Identifier: Apache-2.0
"""Calibration before fusing and after: cross-fitted, saved, and of use."""

import numpy as np
import pytest

from fusetune.calibrate.calibrators.confusion import Confusion
from fusetune.calibrate.calibrators.temperature import Temperature
from fusetune.calibrated import CalibratedFusion, CalibratedMembers, with_calibrated_members
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.vote import Vote
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.stack import Stack
from pools import pool

METRIC = LogLoss()


def loss(prediction, targets):
    return METRIC.value(METRIC.statistics(prediction, targets))


def with_labels(stack, name):
    """The stack with one member reduced to the labels it names."""
    part = stack[name]
    hot_NC = np.eye(len(part.classes))[part.probs_NC.argmax(axis=1)]
    parts = [
        p if m != name else p.with_array(p.classes, hot_NC)
        for m, p in zip(stack.members, stack.parts, strict=True)
    ]
    return Stack(stack.members, tuple(parts), stack.classes)


def test_the_method_sees_no_row_calibrated_by_its_own_target():
    stack, targets = pool(rows=60)
    seen = []

    class Spy(Mean):
        def fit(self, stack, targets, metric, **options):
            seen.append(stack)
            return super().fit(stack, targets, metric, **options)

    calibrators = (("member1", Temperature()),)
    CalibratedMembers(method=Spy(), calibrators=calibrators).fit(stack, targets, METRIC)
    folds_N = stratified_folds(targets, 5, 0)
    for fold in range(5):
        others, own = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        fitted = Temperature().fit(stack["member1"].take(others), targets.take(others))
        expected = fitted(stack["member1"].take(own)).probs_NC
        np.testing.assert_array_equal(seen[0]["member1"].probs_NC[own], expected)
    np.testing.assert_array_equal(seen[0]["member0"].probs_NC, stack["member0"].probs_NC)


def test_labels_are_smoothed_for_averaging_and_stay_labels_for_voting():
    whole, truths = pool(rows=800, members=3, skill=1.5)
    for member in whole.members:
        whole = with_labels(whole, member)
    stack, targets = whole.take(np.arange(400)), truths.take(np.arange(400))
    fresh, truth = whole.take(np.arange(400, 800)), truths.take(np.arange(400, 800))
    methods = {"vote": Vote(), "weighted_mean": WeightedMean()}
    made = with_calibrated_members(methods, dict.fromkeys(whole.members, Confusion()))
    assert made["vote"] is methods["vote"]
    assert made["weighted_mean"].name == "weighted_mean"
    smoothed = made["weighted_mean"].fit(stack, targets, METRIC)(fresh)
    raw = methods["weighted_mean"].fit(stack, targets, METRIC)(fresh)
    assert loss(smoothed, truth) < loss(raw, truth)
    assert with_calibrated_members(methods, {}) == methods


def test_a_calibrated_fusion_is_saved_with_all_its_parts(tmp_path):
    stack, targets = pool(rows=80)
    method = CalibratedMembers(
        method=WeightedMean(), calibrators=tuple((m, Temperature()) for m in stack.members)
    )
    inner = method.fit(stack, targets, METRIC)
    fusion = CalibratedFusion(fusion=inner, output=Temperature().fit(inner(stack), targets))
    save_fusion(fusion, tmp_path)
    assert load_fusion(tmp_path)(stack).probs_NC.tobytes() == fusion(stack).probs_NC.tobytes()
    assert fusion.weights() == pytest.approx(inner.fusion.weights())


def test_one_row_is_enough():
    stack, targets = pool(rows=1)
    method = CalibratedMembers(method=Mean(), calibrators=(("member0", Temperature()),))
    assert len(method.fit(stack, targets, METRIC)(stack)) == 1
