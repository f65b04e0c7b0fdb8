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
from fusetune.predictions.detection.detections import boxes_of, read_found
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
