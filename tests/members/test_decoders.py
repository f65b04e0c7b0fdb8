# SPDX-License-Identifier: Apache-2.0
"""What every decoder must be, and what each reads, by hand."""

import dataclasses

import numpy as np
import pytest

from fusetune.errors import InvalidValue
from fusetune.members.decoder import Decoder, View, best_detections
from fusetune.members.decoders.detr import Detr
from fusetune.members.decoders.fastestdet import Fastestdet
from fusetune.members.decoders.yolo import Yolo
from fusetune.members.detectors import NUM_DETECTIONS
from fusetune.plugins import discover

DECODERS = discover(Decoder)
VIEW = View(64, 64)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_a_documented_frozen_dataclass_that_names_what_it_refuses(name: str) -> None:
    decoder = DECODERS[name]()
    assert decoder.name == name and len(DECODERS[name].__doc__ or "") > 50
    with pytest.raises(dataclasses.FrozenInstanceError):
        decoder.anything = 1
    strange = np.zeros((2, 9, 11), np.float32)
    with pytest.raises(InvalidValue, match=rf"gives \(2, 9, 11\), which the decoder {name} does"):
        decoder.decode([strange], VIEW, 3)


def test_a_cell_of_fastestdet_says_one_box() -> None:
    said = np.full((1, 5 + 2, 2, 4), -50.0, np.float32)
    said[:, 0] = 0
    said[:, 5:] = 0
    said[0, :, 1, 2] = [0.5, np.arctanh(0.5), 0, 0, np.log(1 / 3), 0.3, 0.7]
    boxes, scores = Fastestdet().decode([said], VIEW, 2)
    assert boxes.shape == (1, 8, 4) and scores.shape == (1, 8, 2)
    center, middle = 2.5 / 4, 1 / 2
    expected = [center - 0.25, middle - 0.125, center + 0.25, middle + 0.125]
    np.testing.assert_allclose(boxes[0, 6], expected, rtol=1e-6)
    assert scores[0, 6].tolist() == [0, pytest.approx(0.5**0.6 * 0.7**0.4)]
    assert np.delete(scores[0], 6, axis=0).max() == 0
    larger, _ = Fastestdet().decode([said], View(128, 64), 2)
    np.testing.assert_allclose(larger[0, 6, 2] - larger[0, 6, 0], 0.25, rtol=1e-6)


def test_both_forms_of_yolo_say_the_same() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([[[32, 16, 16, 8], [8, 8, 4, 4.0]]])
    scores, there = random.random((1, 2, 3)), np.array([[[0.5], [0.25]]])
    five = np.concatenate([boxes, there, scores], axis=2)
    eight = np.concatenate([boxes, there * scores], axis=2).swapaxes(1, 2)
    for said in (five, eight):
        found, found_scores = Yolo().decode([said, np.zeros((1, 3, 9, 9))], VIEW, 3)
        np.testing.assert_allclose(found[0, 0], [24 / 64, 12 / 64, 40 / 64, 20 / 64])
        np.testing.assert_allclose(found_scores, there * scores)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5])
def test_detr_reads_boxes_and_logits_with_and_without_no_object(num_classes: int) -> None:
    boxes = np.array([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.2, 0.2]]])
    logits = np.random.default_rng(0).normal(size=(1, 2, num_classes + 1))
    found, scores = Detr().decode([logits, boxes], VIEW, num_classes)
    np.testing.assert_allclose(found[0], [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.2, 0.2]], atol=1e-12)
    powers = np.exp(logits)
    np.testing.assert_allclose(scores, (powers / powers.sum(2, keepdims=True))[..., :num_classes])
    _, alone = Detr().decode([logits[..., 1:], boxes], VIEW, num_classes)
    np.testing.assert_allclose(alone, 1 / (1 + np.exp(-logits[..., 1:])))


def test_the_best_boxes_are_those_of_torchvisions_suppression() -> None:
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    random = np.random.default_rng(0)
    low = random.random((2, 200, 2))
    boxes = np.concatenate([low, low + random.uniform(0.1, 0.4, low.shape)], axis=2)
    scores = random.random((2, 200, 3)).round(2)  # with ties
    scores[scores < 0.7] = 0
    found = best_detections((boxes, scores), 0.5)
    assert found.shape == (2, NUM_DETECTIONS, 6) and found.dtype == np.float32
    for row in range(2):
        places, labels = np.nonzero(scores[row])
        values = scores[row][places, labels]
        order = np.argsort(-values, kind="stable")
        some, values, labels = boxes[row][places[order]].clip(0, 1), values[order], labels[order]
        kept = torch.zeros(0, dtype=torch.int64)
        for label in range(3):
            (own,) = np.nonzero(labels == label)
            kept_own = ops.nms(torch.tensor(some[own]), torch.tensor(values[own]), 0.5)
            kept = torch.cat([kept, torch.tensor(own)[kept_own]])
        best = np.sort(kept.numpy())[:NUM_DETECTIONS]
        num = int((found[row, :, 5] >= 0).sum())
        assert num == len(best) < len(values)
        np.testing.assert_allclose(found[row, :num, :4], some[best], rtol=1e-6)
        np.testing.assert_allclose(found[row, :num, 4], values[best], rtol=1e-6)
        assert found[row, :num, 5].tolist() == labels[best].tolist()
        assert (found[row, num:, 5] == -1).all()


def test_without_suppression_all_boxes_stay() -> None:
    boxes, scores = np.tile([0, 0, 1, 1.0], (1, 4, 1)), np.array([[[0.2], [0.9], [0], [0.4]]])
    found = best_detections((boxes, scores), None)
    np.testing.assert_allclose(found[0, :3, 4], [0.9, 0.4, 0.2], rtol=1e-6)
    assert found[0, 3, 5] == -1
