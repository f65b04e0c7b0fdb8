# SPDX-License-Identifier: Apache-2.0
"""Fused boxes worked out by hand."""

import numpy as np
import pytest

from fusetune.errors import InvalidValue
from fusetune.fuse.methods.boxes.consensus import Consensus
from fusetune.fuse.methods.boxes.nms import Nms
from fusetune.fuse.methods.boxes.non_maximum_weighted import NonMaximumWeighted
from fusetune.fuse.methods.boxes.soft_nms import SoftNms
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.metrics.coco_map import CocoMap
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.stack import Stack

ONE, SHIFTED, FAR = [0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]  # the first two overlap by 0.8


def said(*lines, classes=("cat",)):
    """One row's boxes from (box, score) or (box, score, label)."""
    boxes, scores = [line[0] for line in lines], [line[1] for line in lines]
    labels = [line[2] if len(line) > 2 else 0 for line in lines]
    boxes_K4 = np.array(boxes, dtype=float).reshape(-1, 4)
    return Boxes(["row"], classes, [0, len(lines)], boxes_K4, scores, labels)


def fused(method, *members):
    stack = Stack.align({f"m{m}": one for m, one in enumerate(members)})
    found = method.fit(stack, None, CocoMap())(stack)
    return list(
        zip(found.boxes_K4.round(6).tolist(), found.scores_K.round(6).tolist(), strict=True)
    )


def test_weighted_boxes_average_by_score():
    found = fused(WeightedBoxes(), said((ONE, 0.9)), said((SHIFTED, 0.6), (FAR, 0.4)))
    assert found == [([0, 0, 10, 9.2], 0.75), (FAR, 0.2)]


def test_weights_of_members_count_in_place_and_score():
    method = WeightedBoxes(weights={"m0": 2, "m1": 1})
    found = fused(method, said((ONE, 0.9)), said((SHIFTED, 0.6), (FAR, 0.4)))
    assert found == [([0, 0, 10, 9.5], 0.8), (FAR, round(0.4 / 3, 6))]


@pytest.mark.parametrize(
    ("rule", "overflow", "score"),
    [
        ("box_and_model_avg", False, 0.4),  # 0.8, of one member of two
        ("avg", False, 0.8),  # two boxes, of two members
        ("avg", True, 0.8),
        ("max", False, 0.9),
        ("absent_model_aware_avg", False, round(1.6 / 3, 6)),
    ],
)
def test_two_boxes_of_one_member_count_as_one_member_by_default(rule, overflow, score):
    method = WeightedBoxes(confidence=rule, allows_overflow=overflow)
    found = fused(method, said((ONE, 0.9), (SHIFTED, 0.7)), said((FAR, 0.1)))
    assert found[0][1] == score


def test_scores_are_clamped():
    """Issue 40 of ensemble-boxes: a weight of 2 and two boxes of one member gave more than 1."""
    method = WeightedBoxes(weights={"m0": 2, "m1": 1}, confidence="avg")
    assert fused(method, said((ONE, 0.9), (ONE, 0.9)), said((FAR, 0.1)))[0][1] == 1.0


def test_an_overlap_equal_to_the_threshold_is_not_enough():
    half = [0, 0, 10, 5]
    at, below = WeightedBoxes(iou_threshold=0.5), WeightedBoxes(iou_threshold=0.4999)
    assert len(fused(at, said((ONE, 0.9)), said((half, 0.6)))) == 2
    assert len(fused(below, said((ONE, 0.9)), said((half, 0.6)))) == 1
    assert len(fused(Nms(iou_threshold=0.5), said((ONE, 0.9)), said((half, 0.6)))) == 2


def test_a_box_joins_the_cluster_whose_running_mean_it_overlaps_most():
    first, second, third = [0, 0, 10, 10], [0, 2, 10, 12], [0, 4, 10, 14]
    found = fused(
        WeightedBoxes(iou_threshold=0.5),
        said((first, 0.9)),
        said((second, 0.9)),  # 8/12 with the first
        said((third, 0.3)),  # 6/14 with the first, but 7/13 with the mean
    )
    assert len(found) == 1
    assert found[0][0] == [0, round(3 / 2.1, 6), 10, round(10 + 3 / 2.1, 6)]


def test_classes_are_fused_apart_and_low_scores_skipped():
    two = ("cat", "dog")
    found = fused(
        WeightedBoxes(skip_threshold=0.2),
        said((ONE, 0.9, 0), classes=two),
        said((ONE, 0.8, 1), (ONE, 0.1, 0), classes=two),
    )
    assert found == [(ONE, 0.45), (ONE, 0.4)]


def test_boxes_without_area_are_left_out_and_scores_of_zero_do_no_harm():
    found = fused(WeightedBoxes(), said(([5, 5, 5, 9], 0.9), (ONE, 0.0)), said((SHIFTED, 0.0)))
    assert len(found) == 1 and found[0][1] == 0 and np.isfinite(found[0][0]).all()


def test_suppression_keeps_the_best():
    members = said((ONE, 0.9)), said((SHIFTED, 0.6), (FAR, 0.4))
    assert fused(Nms(), *members) == [(ONE, 0.9), (FAR, 0.4)]
    weighted = fused(Nms(weights={"m0": 1, "m1": 3}), *members)
    assert weighted == [(SHIFTED, 0.45), (FAR, 0.3)]


def test_soft_suppression_lowers_by_overlap():
    members = said((ONE, 0.9)), said((SHIFTED, 0.6))
    assert fused(SoftNms(), *members)[1] == (SHIFTED, round(0.6 * np.exp(-0.64 / 0.5), 6))
    linear = SoftNms(decay="linear")
    assert fused(linear, *members)[1] == (SHIFTED, round(0.6 * 0.2, 6))
    assert len(fused(SoftNms(decay="linear", floor=0.2), *members)) == 1
    assert fused(SoftNms(rescore=False), *members) == [(ONE, 0.9), (SHIFTED, 0.6)]


def test_non_maximum_weighted_moves_the_best_by_score_and_overlap():
    found = fused(NonMaximumWeighted(), said((ONE, 0.9)), said((SHIFTED, 0.6)))
    share = 0.6 * 0.8 / (0.9 + 0.6 * 0.8)
    assert found == [([0, 0, 10, round(10 - 2 * share, 6)], 0.9)]


def test_consensus_counts_members_not_boxes():
    twice = said((ONE, 0.9), (SHIFTED, 0.8)), said((FAR, 0.5)), said((FAR, 0.4))
    assert [box for box, _ in fused(Consensus(), *twice)] == [FAR]
    assert len(fused(Consensus(votes=1), *twice)) == 2
    assert fused(Consensus(votes=3), *twice) == []
    alone = said((ONE, 0.9, 0), classes=("bird",)), said(classes=("cat",)), said(classes=("cat",))
    assert fused(Consensus(votes=3), *alone) == [(ONE, 0.9)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedBoxes(confidence="mean"), "confidence is 'mean'"),
        (lambda: SoftNms(decay="cubic"), "decay is 'cubic'"),
        (lambda: SoftNms(sigma=0), "sigma 0"),
        (lambda: Consensus(votes=-1), "votes is -1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InvalidValue, match=message):
        make()


def test_segments_and_volumes_are_fused_like_boxes():
    def of(numbers, score):
        one = np.array([numbers], dtype=float)
        return Boxes(["row"], ("cat",), [0, 1], one, [score], [0])

    none = Boxes(["row"], ("cat",), [0, 0], np.zeros((0, 6)), [], [])
    found = fused(WeightedBoxes(), of([0, 0, 0, 9, 9, 9], 0.9), of([0, 0, 0, 9, 9, 8], 0.9), none)
    assert found == [([0, 0, 0, 9, 9, 8.5], 0.6)]
    assert fused(Nms(), of([0, 10], 0.9), of([1, 10], 0.8)) == [([0, 10], 0.9)]
