# SPDX-License-Identifier: Apache-2.0
"""What the learned fusions of boxes learn, against references and on pools with a known answer."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from box_pools import as_sets, box_pool
from fusetune.errors import InvalidValue
from fusetune.fuse.detection.scores import (
    class_curves,
    fit_logistic,
    logits_of,
    quality_of,
    squashed,
)
from fusetune.fuse.methods.boxes.stacked_boxes import StackedBoxes
from fusetune.fuse.methods.boxes.tuned_boxes import TunedBoxes
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.metrics.coco_map import CocoMap
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.stack import Stack


def score(prediction, targets):
    metric = CocoMap()
    return metric.value(metric.statistics(prediction, targets))


def halves(rows):
    return np.arange(0, rows, 2), np.arange(1, rows, 2)


def test_the_logistic_regression_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    design_KF = np.concatenate([random.normal(size=(300, 3)), np.ones((300, 1))], axis=1)
    right_K = (random.random(300) < squashed(design_KF @ [1.0, -2.0, 0.5, 0.3])).astype(float)
    weights_K = random.uniform(0.5, 2, 300)
    penalty_F = np.array([2.0, 2.0, 2.0, 0.0])
    mine_F = fit_logistic(design_KF, right_K, weights_K, penalty_F, np.zeros(4))
    theirs = LogisticRegression(C=1 / 2, tol=1e-10).fit(design_KF[:, :3], right_K, weights_K)
    np.testing.assert_allclose(mine_F, [*theirs.coef_[0], *theirs.intercept_], atol=1e-5)


def test_scores_are_calibrated_by_class_as_far_as_its_boxes_go():
    random = np.random.default_rng(1)
    labels_K = np.repeat([0, 1, 2], [4000, 4000, 4])
    scores_K = random.uniform(0.05, 0.95, len(labels_K))
    true_K = np.where(labels_K == 1, scores_K / 2, scores_K)
    right_K = (random.random(len(labels_K)) < true_K).astype(float)
    curves = class_curves(scores_K, right_K, np.ones(len(labels_K)), labels_K, (3, 20.0))
    half_C = squashed(curves[:, 0] * logits_of(np.array([0.5])) + curves[:, 1])
    assert half_C[:2] == pytest.approx([0.5, 0.25], abs=0.04)
    assert half_C[2] == pytest.approx(half_C[3], abs=0.05)  # four boxes say little


def test_quality_is_the_share_of_overlaps():
    truth = Objects(["a"], ("x",), [0, 1], [[0.0, 0, 10, 10]], [0])
    said = Boxes(
        ["a"], ("x", "y"), [0, 3], [[0.0, 0, 10, 7.2], [50, 50, 60, 60], [0, 0, 9, 9]],
        [0.9, 0.8, 0.7], [0, 0, 1],
    )  # fmt: skip
    right_K, known_K = quality_of(said, truth)
    assert right_K.tolist() == [0.5, 0, 0]
    assert known_K.tolist() == [True, True, False]


def exact_and_loose():
    """Two members of like scores, of which one places boxes well."""
    random = np.random.default_rng(6)
    _, targets = box_pool(rows=120, seed=7)
    size = len(targets.labels_K)
    parts = {}
    for name, spread in (("exact", 1.0), ("loose", 8.0)):
        boxes_K4 = targets.boxes_K4 + spread * random.normal(size=(size, 4))
        boxes_K4[:, 2:] = np.maximum(boxes_K4[:, 2:], boxes_K4[:, :2] + 1)
        scores_K = random.uniform(0.4, 0.9, size)
        parts[name] = Boxes(
            targets.ids, targets.classes, targets.offsets, boxes_K4, scores_K, targets.labels_K
        )
    return Stack.align(parts, classes=targets.classes), targets


def test_scores_of_members_are_made_comparable():
    stack, targets = box_pool(members=3, rows=160, seed=2)
    random = np.random.default_rng(3)
    noise = stack.parts[2]
    wrong = dataclasses.replace(
        noise,
        boxes_K4=noise.boxes_K4[random.permutation(len(noise.boxes_K4))],
        scores_K=random.uniform(0.5, 1, len(noise.scores_K)),
    )
    shy = dataclasses.replace(stack.parts[1], scores_K=stack.parts[1].scores_K ** 4 / 10)
    stack = dataclasses.replace(stack, parts=(stack.parts[0], shy, wrong))
    fit, judge = halves(160)
    fusion = TunedBoxes().fit(stack.take(fit), targets.take(fit), CocoMap())
    sure_2 = squashed(fusion.curves[-1] @ [logits_of(np.array([0.9]))[0], 1.0])
    assert sure_2[-1] < 0.1  # what the member that invents its boxes calls sure
    plain = WeightedBoxes().fit(stack, None, CocoMap())
    held, truth = stack.take(judge), targets.take(judge)
    assert score(fusion(held), truth) > score(plain(held), truth) + 0.02


def test_a_member_that_places_boxes_well_has_more_weight():
    stack, targets = exact_and_loose()
    fit, judge = halves(120)
    fusion = TunedBoxes().fit(stack.take(fit), targets.take(fit), CocoMap())
    weights = fusion.weights()
    assert weights["exact"] > 1.5 * weights.get("loose", 0)
    held, truth = stack.take(judge), targets.take(judge)
    plain = WeightedBoxes().fit(stack, None, CocoMap())(held)
    assert score(fusion(held), truth) > score(plain, truth) + 0.03


def test_classes_may_have_settings_of_their_own():
    """Of the class whose objects truly overlap, boxes are joined at higher overlaps only."""
    stack, targets = box_pool(members=2, rows=120, classes=2, noise=1.0, seed=4)
    twice = [
        np.repeat(np.arange(len(part.labels_K)), 1 + (part.labels_K == 1)) for part in stack.parts
    ]

    def doubled(boxes_K4, labels_K, entries):
        second = np.append(False, entries[1:] == entries[:-1])
        sides_K2 = boxes_K4[entries, 2:] - boxes_K4[entries, :2]
        return boxes_K4[entries] + second[:, None] * np.tile(sides_K2 * [0.2, 0.0], 2), labels_K[
            entries
        ]

    parts = []
    for part, entries in zip(stack.parts, twice, strict=True):
        boxes_K4, labels_K = doubled(part.boxes_K4, part.labels_K, entries)
        parts.append(
            Boxes.from_entries(
                part.ids,
                part.classes,
                part.rows_K[entries],
                (boxes_K4, part.scores_K[entries], labels_K),
            )
        )
    entries = np.repeat(np.arange(len(targets.labels_K)), 1 + (targets.labels_K == 1))
    boxes_K4, labels_K = doubled(targets.boxes_K4, targets.labels_K, entries)
    counts_N = np.bincount(targets.rows_K[entries], minlength=120)
    truth = Objects(
        targets.ids, targets.classes, np.append(0, np.cumsum(counts_N)), boxes_K4, labels_K
    )
    stack = Stack.align({f"m{m}": part for m, part in enumerate(parts)}, classes=targets.classes)
    method = TunedBoxes(iou_thresholds=(0.55, 0.75))
    fusion = method.fit(stack, truth, CocoMap())
    assert fusion.thresholds_2C[0, 1] == 0.75
    rigid = TunedBoxes(iou_thresholds=(0.55,)).fit(stack, truth, CocoMap())
    assert score(fusion(stack), truth) > score(rigid(stack), truth)


def test_stacking_learns_who_places_boxes_well():
    stack, targets = exact_and_loose()
    fit, judge = halves(120)
    fusion = StackedBoxes().fit(stack.take(fit), targets.take(fit), CocoMap())
    assert fusion.members == ("exact", "loose")
    assert fusion.pulls_M[0] > fusion.pulls_M[1] + 0.3
    held, truth = stack.take(judge), targets.take(judge)
    plain = WeightedBoxes().fit(stack, None, CocoMap())(held)
    assert score(fusion(held), truth) > score(plain, truth) + 0.05


def test_stacking_scores_by_agreement_and_says_how_likely_a_box_is_right():
    stack, targets = box_pool(members=3, rows=200, seed=8)
    fit, judge = halves(200)
    fusion = StackedBoxes().fit(stack.take(fit), targets.take(fit), CocoMap())
    fused, truth = fusion(stack.take(judge)), targets.take(judge)
    right_K, known_K = quality_of(fused, truth)
    assert fused.scores_K[known_K].mean() == pytest.approx(right_K[known_K].mean(), abs=0.02)
    plain = WeightedBoxes().fit(stack, None, CocoMap())(stack.take(judge))
    assert score(fused, truth) > score(plain, truth)


def test_only_so_many_rows_are_searched_on_whatever_their_order():
    stack, targets = box_pool(rows=60)
    few = TunedBoxes(max_rows=20)
    fused = few.fit(stack, targets, CocoMap())(stack)
    order = np.random.default_rng(0).permutation(60)
    again = few.fit(stack.take(order), targets.take(order), CocoMap())(stack)
    assert as_sets(fused) == as_sets(again)


def test_classes_that_were_not_fitted_are_fused_like_all_together():
    stack, targets = box_pool(classes=3)
    known = dataclasses.replace(stack, parts=tuple(stack.parts))
    for method in (TunedBoxes(), StackedBoxes()):
        fusion = method.fit(known, targets, CocoMap())
        renamed = [
            dataclasses.replace(part, classes=("new0", "new1", "new2")) for part in stack.parts
        ]
        strange = Stack.align(dict(zip(stack.members, renamed, strict=True)))
        fused = fusion(strange)
        assert fused.classes == ("new0", "new1", "new2")
        assert len(fused.scores_K) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TunedBoxes(iou_thresholds=()), "the thresholds are"),
        (lambda: TunedBoxes(skip_thresholds=(0.0, 2.0)), "the thresholds are"),
        (lambda: TunedBoxes(rounds=-1), "rounds"),
        (lambda: TunedBoxes(max_rows=0), "max_rows"),
        (lambda: StackedBoxes(penalty=0), "penalty is 0"),
        (lambda: StackedBoxes(prior_boxes=-1), "prior_boxes -1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InvalidValue, match=message):
        make()
