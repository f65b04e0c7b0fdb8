# SPDX-License-Identifier: Apache-2.0
"""Fused boxes against the stored outputs of ensemble-boxes 1.0.9.

Where that is wrong, by its own issues, our rule is tested instead: scores are clamped to 1.
"""

import json

import numpy as np
import pytest

from fusetune.fuse.detection.fusion import clusters_of, confidences
from fusetune.fuse.detection.pool import pooled
from fusetune.fuse.methods.boxes.nms import Nms
from fusetune.fuse.methods.boxes.non_maximum_weighted import NonMaximumWeighted
from fusetune.fuse.methods.boxes.soft_nms import SoftNms
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.metrics.coco_map import CocoMap
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.stack import Stack

PLANE = ("weighted_boxes_fusion", "nms", "soft_nms", "non_maximum_weighted")
CASES = {"weighted_boxes_fusion": 615, "nms": 123, "soft_nms": 246, "non_maximum_weighted": 123}


def method_of(case, weights):
    given = dict(case["kwargs"])
    thresholds = {"iou_threshold": given.pop("iou_thr"), "weights": weights}
    if "skip_box_thr" in given:
        thresholds["skip_threshold"] = given.pop("skip_box_thr")
    if case["method"] == "nms":
        return Nms(**thresholds, **given)
    if case["method"] == "non_maximum_weighted":
        return NonMaximumWeighted(**thresholds, **given)
    if case["method"] == "soft_nms":
        decay = {1: "linear", 2: "gaussian"}[given.pop("method")]
        floor = given.pop("thresh")
        return SoftNms(**thresholds, decay=decay, floor=floor, rescore=False, **given)
    return WeightedBoxes(**thresholds, confidence=given.pop("conf_type"), **given)


def stack_of(boxes, scores, labels, width=4):
    """One row; every member knows every class."""
    names = sorted({str(int(label)) for own in labels for label in own}) or ["0"]
    parts = {}
    for m, (own_boxes, own_scores, own_labels) in enumerate(
        zip(boxes, scores, labels, strict=True)
    ):
        parts[f"m{m}"] = Boxes(
            ["row"],
            names,
            [0, len(own_boxes)],
            np.array(own_boxes, dtype=np.float64).reshape(-1, width),
            own_scores,
            [names.index(str(int(label))) for label in own_labels],
            relative=True,
        )
    return Stack.align(parts)


def lines(boxes, scores, labels):
    """Boxes by score, class and place: equal ones in any order."""
    found = [
        (round(min(score, 1.0), 5), int(label), *np.round(box, 5).tolist(), score, *box)
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    found = sorted(found)
    start = 2 + (len(found[0]) - 3) // 2 if found else 0
    return np.array([line[start:] for line in found]), [line[1] for line in found]


def fused(method, stack):
    boxes = method.fit(stack, None, CocoMap())(stack)
    return lines(boxes.boxes_K4, boxes.scores_K, [boxes.classes[i] for i in boxes.labels_K])


@pytest.mark.data
@pytest.mark.parametrize("name", PLANE)
def test_the_stored_outputs_of_ensemble_boxes(data_folder, name):
    path = data_folder.parent / "conformance" / "ensemble_boxes" / "vectors.json"
    if not path.is_file():
        pytest.skip("the stored outputs of other tools are not here")
    stored = json.loads(path.read_text(encoding="utf-8"))
    cases = [case for case in stored["cases"] if case["method"] == name]
    assert len(cases) == CASES[name]
    for number, case in enumerate(cases):
        given = stored["inputs"][case["input"]]
        weights = given["weights"] and {f"m{m}": w for m, w in enumerate(given["weights"])}
        stack = stack_of(given["boxes"], given["scores"], given["labels"])
        found, found_labels = fused(method_of(case, weights), stack)
        expected, labels = lines(case["boxes"], np.minimum(case["scores"], 1), case["labels"])
        context = f"case {number}: {case['input']} {case['kwargs']}"
        assert found_labels == labels, context
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=context)


def volume_scores(found, weights_M, rule):
    """The older rule that ensemble-boxes has for volumes: not clamped as that for boxes is."""
    sums, _, boxes, best, *_ = found.sums_L6.T
    score = best if rule == "max" else sums / boxes
    return score * np.minimum(weights_M.sum(), boxes) / weights_M.sum()


@pytest.mark.data
@pytest.mark.parametrize(("axes", "count"), [(1, 6), (3, 12)])
def test_segments_and_volumes_are_clustered_like_boxes(data_folder, axes, count):
    path = data_folder.parent / "conformance" / "ensemble_boxes" / "vectors.json"
    if not path.is_file():
        pytest.skip("the stored outputs of other tools are not here")
    stored = json.loads(path.read_text(encoding="utf-8"))
    name = f"weighted_boxes_fusion_{axes}d"
    cases = [case for case in stored["cases"] if case["method"] == name]
    assert len(cases) == count
    for case in cases:
        given, kwargs = stored["inputs"][case["input"]], case["kwargs"]
        stack = stack_of(given["boxes"], given["scores"], given["labels"], width=2 * axes)
        weights_M = np.array(given["weights"] or [1.0] * len(stack.members))
        weights_MC = np.outer(weights_M, np.ones(len(stack.classes)))
        pool = pooled(stack, weights_MC, kwargs["skip_box_thr"])
        found = clusters_of(pool, kwargs["iou_thr"])
        scores_L = confidences("avg", found, pool, weights_MC)
        if axes == 3:
            scores_L = volume_scores(found, weights_M, kwargs["conf_type"])
        names = [stack.classes[label] for label in pool.labels_G[found.groups_L]]
        mine, labels = lines(found.boxes_L4, scores_L, names)
        expected, expected_labels = lines(case["boxes"], case["scores"], case["labels"])
        assert labels == expected_labels
        np.testing.assert_allclose(mine, expected, atol=1e-6)
