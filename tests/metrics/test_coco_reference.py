# SPDX-License-Identifier: Apache-2.0
"""COCO's twelve statistics against those that pycocotools published, and by hand."""

import json

import numpy as np
import pytest

from fusetune.errors import PredictionError
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.detection.annotations import read_annotations
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.detections import boxes_of
from fusetune.predictions.detection.found import read_found
from fusetune.predictions.detection.objects import Objects

ORDER = [
    *("coco_map", "coco_map50", "coco_map75"),
    *("coco_map_small", "coco_map_medium", "coco_map_large"),
    *("coco_recall1", "coco_recall10", "coco_recall100"),
    *("coco_recall_small", "coco_recall_medium", "coco_recall_large"),
]
FILES = {
    "val2014_100_fakebbox": (
        "instances_val2014_100.json",
        "instances_val2014_fakebbox100_results.json",
    ),
    "basic_bbox": ("gt_dataset.json", "dt_dataset.json"),
}


def statistics(prediction, targets):
    metrics = [find(Metric, name)() for name in ORDER]
    values = [metric.value(metric.statistics(prediction, targets)) for metric in metrics]
    return [-1 if np.isnan(one) else one for one in values]


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_the_published_values(data_folder, name):
    folder = data_folder.parent / "conformance" / "coco_eval"
    if not folder.is_dir():
        pytest.skip("the stored outputs of other tools are not here")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["expected"][name]
    truth_file, results_file = (folder / file for file in FILES[name])
    truth = read_annotations(truth_file)
    found = boxes_of(read_found(results_file), truth, strangers=True)
    np.testing.assert_allclose(statistics(found, truth.objects), expected, atol=1e-12)


def one_class(boxes, scores, rows=1, offsets=None):
    offsets = [0, len(boxes)] if offsets is None else offsets
    ids = [str(n) for n in range(rows)]
    return Boxes(ids, ("cat",), offsets, np.array(boxes, float), scores, [0] * len(boxes))


def truth_of(boxes, **flags):
    return Objects(
        ["0"], ("cat",), [0, len(boxes)], np.array(boxes, float), [0] * len(boxes), **flags
    )


BOX, FAR = [0, 0, 100, 100], [300, 300, 400, 400]


def test_a_perfect_a_missed_and_an_invented_box():
    both = truth_of([BOX, FAR])
    assert statistics(one_class([BOX, FAR], [0.9, 0.8]), both)[0] == pytest.approx(1)
    # Half is found, at precision 1: the 51 levels of recall from 0 to 0.5 have it.
    assert statistics(one_class([BOX], [0.9]), both)[0] == pytest.approx(51 / 101)
    # The invented one comes first: precision 1/2 up to recall 1.
    found = one_class([[500, 500, 600, 600], BOX], [0.9, 0.8])
    assert statistics(found, truth_of([BOX]))[0] == pytest.approx(0.5)
    assert statistics(found, truth_of([BOX]))[6:8] == [0, 1]  # the top one alone; the top ten


def test_overlaps_from_a_half_on_count():
    found = one_class([[0, 0, 100, 72]], [0.9])
    values = statistics(found, truth_of([BOX]))
    assert values[:3] == pytest.approx([0.5, 1.0, 0.0])  # 0.5 to 0.7, of ten
    assert values[8] == pytest.approx(0.5)


def test_sizes_are_judged_apart():
    small, medium = [0, 0, 20, 20], [100, 100, 150, 150]
    values = statistics(one_class([small, FAR], [0.9, 0.8]), truth_of([small, medium, FAR]))
    assert values[3:6] == pytest.approx([1, 0, 1])
    assert values[9:12] == pytest.approx([1, 0, 1])


def test_a_crowd_takes_any_number_and_counts_neither_way():
    crowd = [0, 0, 300, 300]
    inside = [[10, 10, 60, 60], [100, 100, 160, 160]]
    truth = truth_of([crowd, FAR], crowd_K=[True, False])
    values = statistics(one_class([*inside, FAR], [0.9, 0.8, 0.7]), truth)
    assert values[0] == pytest.approx(1)
    plain = statistics(one_class([*inside, FAR], [0.9, 0.8, 0.7]), truth_of([crowd, FAR]))
    assert plain[0] < 0.5


def test_an_ignored_object_need_not_be_found_and_takes_one_detection():
    truth = truth_of([BOX, FAR], ignored_K=[True, False])
    assert statistics(one_class([FAR], [0.9]), truth)[0] == pytest.approx(1)
    assert statistics(one_class([BOX, FAR], [0.9, 0.8]), truth)[0] == pytest.approx(1)
    twice = statistics(one_class([BOX, BOX, FAR], [0.9, 0.85, 0.8]), truth)
    assert twice[0] == pytest.approx(0.5)


def test_the_hundred_best_of_an_image_and_class_count():
    wrong = [[500, 500, 510, 510]] * 100
    late = statistics(one_class([*wrong, BOX], [0.9] * 100 + [0.1]), truth_of([BOX]))
    assert late[0] == 0
    just = statistics(one_class([*wrong[1:], BOX], [0.9] * 99 + [0.1]), truth_of([BOX]))
    assert just[0] == pytest.approx(1 / 100)


def test_segments_and_volumes_are_not_judged():
    volume = Boxes(["0"], ("cat",), [0, 1], np.array([[0.0, 0, 0, 1, 1, 1]]), [0.5], [0])
    with pytest.raises(PredictionError, match="the boxes have 6 numbers"):
        statistics(volume, truth_of([BOX]))


def overlap(box, other, crowd):
    sides = [min(box[a + 2], other[a + 2]) - max(box[a], other[a]) for a in (0, 1)]
    if min(sides) <= 0:
        return 0.0
    both, own = sides[0] * sides[1], (box[2] - box[0]) * (box[3] - box[1])
    area = (other[2] - other[0]) * (other[3] - other[1])
    return both / (own if crowd else own + area - both)


def matched(prediction, truth, found, objects, ignored, least):
    """Object of each detection, -1 for none, as the evaluation code of COCO takes them in turn."""
    taken, matches = set(), []
    for k in found:
        best, match = min(least, 1 - 1e-10), -1
        for place, g in enumerate(objects):
            if place in taken and not truth.crowd_K[g]:
                continue
            if match > -1 and not ignored[match] and ignored[place]:
                break
            value = overlap(prediction.boxes_K4[k], truth.boxes_K4[g], truth.crowd_K[g])
            if value >= best:
                best, match = value, place
        taken |= {match} - {-1}
        matches.append(match)
    return matches


def plainly(prediction, truth, low=0.0, high=1e10, most=100, recall=False):
    """COCO's mean average precision or recall, image by image and overlap by overlap."""
    values = []
    for label, name in enumerate(truth.classes):
        for least in np.linspace(0.5, 0.95, 10):
            lines, number = [], 0
            for row in range(len(truth)):
                own = range(truth.offsets[row], truth.offsets[row + 1])
                objects = [g for g in own if truth.labels_K[g] == label]
                skip = [truth.ignored_K[g] or not low <= truth.areas_K[g] <= high for g in objects]
                order = np.argsort(skip, kind="stable")
                objects, skip = [objects[o] for o in order], [skip[o] for o in order]
                number += skip.count(False)
                own = range(prediction.offsets[row], prediction.offsets[row + 1])
                found = [k for k in own if prediction.classes[prediction.labels_K[k]] == name]
                found = sorted(found, key=lambda k: -prediction.scores_K[k])[:most]
                for k, match in zip(
                    found, matched(prediction, truth, found, objects, skip, least), strict=True
                ):
                    left, top, right, bottom = prediction.boxes_K4[k]
                    outside = not low <= (right - left) * (bottom - top) <= high
                    aside = skip[match] if match > -1 else outside
                    lines.append((prediction.scores_K[k], match > -1, aside))
            if not number:
                continue
            lines = [right for _, right, aside in sorted(lines, key=lambda o: -o[0]) if not aside]
            hits = np.cumsum(lines)
            if recall:
                values.append(hits[-1] / number if len(hits) else 0.0)
                continue
            best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
            reached = np.searchsorted(hits / number, np.linspace(0, 1, 101))
            values.append(np.append(best, 0)[reached].mean())
    return np.mean(values) if values else -1


@pytest.mark.parametrize("seed", range(40))
def test_random_images_are_judged_as_by_plain_loops(seed):
    """With crowds, ignored objects, ties, classes in another order and one that nobody asked for."""
    random = np.random.default_rng(seed)
    ids, side = [str(row) for row in range(random.integers(1, 5))], random.choice([5.0, 16.0, 32.0])

    def boxes(most):
        counts_N = random.integers(0, most, len(ids))
        corners = random.integers(0, 8, (counts_N.sum(), 2)) * side / 2
        sides = random.integers(1, 6, corners.shape) * side
        return np.append(0, np.cumsum(counts_N)), np.concatenate([corners, corners + sides], axis=1)

    offsets, boxes_K4 = boxes(7)
    flags = {name: random.random(len(boxes_K4)) < 0.2 for name in ("crowd_K", "ignored_K")}
    labels_K = random.integers(0, 2, len(boxes_K4))
    truth = Objects(ids, ("cat", "dog"), offsets, boxes_K4, labels_K, **flags)
    offsets, boxes_K4 = boxes(9)
    scores_K = random.integers(0, 9, len(boxes_K4)) / 8
    labels_K = random.integers(0, 3, len(boxes_K4))
    found = Boxes(ids, ("dog", "cat", "ox"), offsets, boxes_K4, scores_K, labels_K)
    values = statistics(found, truth)
    sizes = [{"high": 32.0**2}, {"low": 32.0**2, "high": 96.0**2}, {"low": 96.0**2}]
    assert values[0] == pytest.approx(plainly(found, truth), abs=1e-9)
    assert values[3:6] == pytest.approx([plainly(found, truth, **one) for one in sizes], abs=1e-9)
    tops = [plainly(found, truth, most=most, recall=True) for most in (1, 10, 100)]
    assert values[6:9] == pytest.approx(tops, abs=1e-9)
    recalls = [plainly(found, truth, recall=True, **one) for one in sizes]
    assert values[9:] == pytest.approx(recalls, abs=1e-9)
