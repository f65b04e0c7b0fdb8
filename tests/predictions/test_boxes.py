# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from box_pools import as_sets, box_pool, box_pools, same_bits
from fusetune.errors import PredictionError
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.stack import Stack
from pools import EXAMPLES

IDS = ["a", "b", "c"]
BOXES = [[0, 0, 4, 4], [1, 1, 3, 5], [2, 2, 6, 6]]
some = settings(max_examples=EXAMPLES, deadline=None)


def made(**changes):
    fields = {
        "ids": IDS,
        "classes": ("cat", "dog"),
        "offsets": [0, 2, 2, 3],
        "boxes_K4": np.array(BOXES, dtype=float),
        "scores_K": [0.9, 0.5, 0.1],
        "labels_K": [0, 1, 1],
    }
    return Boxes(**fields | changes)


def test_rows_are_taken_by_position_and_by_mask_and_may_be_empty():
    boxes = made()
    taken = boxes.take(np.array([2, 1, 0]))
    assert taken.offsets.tolist() == [0, 1, 1, 3]
    assert taken.scores_K.tolist() == [0.1, 0.9, 0.5]
    assert boxes.take(np.array([False, True, False])).boxes_K4.shape == (0, 4)
    assert as_sets(boxes.take(np.array([0]))) == {"a": as_sets(boxes)["a"]}


@some
@given(drawn=box_pools())
def test_pieces_cover_all_rows_and_join_to_the_whole(drawn):
    stack, _ = drawn
    for part in stack.parts:
        pieces = list(part.chunks(100))
        assert same_bits(type(part).concat(pieces), part)
        assert all(len(piece.scores_K) <= 3 or len(piece) == 1 for piece in pieces)
        back = part.over(part.classes[::-1]).over(part.classes)
        assert same_bits(back, part)


def test_members_are_lined_up_by_id_and_class_name():
    boxes = made()
    other = boxes.take(np.array([1, 2, 0])).over(("bird", "dog", "cat"))
    stack = Stack.align({"one": boxes, "two": other})
    assert stack.classes == ("cat", "dog", "bird")
    assert as_sets(stack.parts[1]) == as_sets(boxes)
    assert stack.parts[1].ids.tolist() == IDS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_K4": [[0, 0, np.nan, 4], *BOXES[1:]]}, "row 'a' holds NaN"),
        ({"boxes_K4": [*BOXES[:2], [5, 2, 3, 6]]}, "row 'c' has a negative side"),
        ({"scores_K": [0.9, 1.5, 0.1]}, "row 'a' has the score 1.5"),
        ({"scores_K": [0.9, 0.5, np.nan]}, "row 'c' has the score nan"),
        ({"boxes_K4": np.zeros((3, 5))}, "rotated: 5 numbers"),
        ({"boxes_K4": np.zeros((3, 8))}, "rotated: 8 numbers"),
        ({"boxes_K4": np.zeros((3, 3))}, "shape \\(3, 3\\)"),
        ({"boxes_K4": [*BOXES[:2], [0, 0, 1, 1e101]]}, "row 'c' lies beyond 1e\\+100"),
        ({"relative": True}, "row 'a' lies far outside of its image"),
        ({"classes": ("cat", "cat")}, "'cat' are named twice"),
        ({"ids": ["a", "a", "b"]}, "occur more than once"),
    ],
)
def test_what_is_no_detection_is_refused_by_row(changes, message):
    with pytest.raises(PredictionError, match=message):
        made(**changes)


def test_the_truth_is_sliced_with_its_flags_and_stratified_by_the_rarest_class():
    truth = Objects(
        IDS, ("cat", "dog"), [0, 2, 2, 3], BOXES, [0, 1, 0], crowd_K=[False, True, False]
    )
    assert truth.strata_N.tolist() == [1, 2, 0]
    assert truth.areas_K.tolist() == [16, 8, 16]
    turned = truth.take(np.array([2, 0]))
    assert turned.crowd_K.tolist() == turned.ignored_K.tolist() == [False, False, True]
    assert turned.labels_K.tolist() == [0, 0, 1]


def test_relative_boxes_become_pixels_by_their_rows_sizes():
    relative = made(boxes_K4=np.array(BOXES) / 8, relative=True)
    sizes_N2 = np.array([[80, 40], [1, 1], [8, 16]])
    pixels = relative.scaled(sizes_N2, relative=False)
    assert pixels.boxes_K4[0].tolist() == [0, 0, 40, 20]
    assert pixels.boxes_K4[2].tolist() == [2, 4, 6, 12]
    assert not pixels.relative


def test_the_pools_of_these_tests_look_real():
    stack, truth = box_pool()
    assert len(stack.members) == 3 and len(truth) == 40
    assert dataclasses.is_dataclass(truth)
