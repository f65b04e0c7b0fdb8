# SPDX-License-Identifier: Apache-2.0
"""Letterboxed images: what is seen is where the objects say, and boxes come back exactly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusetune.data.inputs import FileImages, PixelImages
from fusetune.finetune.batches import PixelStore, fitted, is_fitted
from fusetune.finetune.engines.onnx import Onnx as Engine
from fusetune.finetune.letterbox import GRAY, boxes_of_images, objects_in_squares, places
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.placing import in_pixels
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.sources.mini_detection import MiniDetection
from fusetune.members.sources.onnx import Onnx
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from onnx_nets import says_always

SEEN = Preprocess(size=64, mean=(0,) * 3, std=(1,) * 3, letterbox=True, interpolation="nearest")


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(8, 700), st.integers(0, 2**32 - 1))
def test_boxes_come_back_from_the_square(width: int, height: int, side: int, seed: int) -> None:
    low = np.random.default_rng(seed).random((4, 2)) * [width, height]
    boxes = np.concatenate([low, low + 0.3 * ([width, height] - low)], axis=1)
    sizes = np.array([[width, height]], dtype=float)
    objects = Objects(["a"], ("x",), [0, 4], boxes, [0] * 4, sizes_N2=sizes)
    there = objects_in_squares(objects, side)
    starts, made = places(sizes, side)
    assert made.max() == side and (starts >= 0).all() and (starts + made <= side).all()
    assert (there.boxes_K4 >= np.tile(starts, 2) - 1e-6).all()
    assert (there.boxes_K4 <= np.tile(starts + made, 2) + 1e-6).all()
    np.testing.assert_allclose(there.sizes_N2, side)
    shares = there.boxes_K4 / side
    said = Boxes(["a"], ("x",), [0, 4], shares, [0.5] * 4, [0] * 4, relative=True)
    back = boxes_of_images(said, sizes, side)
    np.testing.assert_allclose(back.boxes_K4, boxes, atol=1e-6 * max(width, height))
    assert not back.relative


def test_boxes_beside_the_image_are_cut_at_its_edge() -> None:
    said = Boxes(["a"], ("x",), [0, 1], [[0.0, 0.0, 0.5, 1.0]], [0.5], [0], relative=True)
    back = boxes_of_images(said, np.array([[200.0, 100.0]]), 64)
    assert back.boxes_K4.tolist() == [[0, 0, 100, 100]]


@pytest.mark.parametrize("shape", [(32, 64), (100, 50), (48, 48), (31, 77)])
def test_what_is_seen_is_where_the_objects_are(shape: tuple[int, int]) -> None:
    height, width = shape
    pixels = np.full((height, width, 3), 10, np.uint8)
    top, left, bottom, right = height // 4, width // 4, height // 2, 3 * width // 4
    pixels[top:bottom, left:right] = 250
    square = fitted(pixels, SEEN)
    assert square.shape == (64, 64, 3)
    sizes = np.array([[width, height]], dtype=float)
    objects = Objects(["a"], ("x",), [0, 1], [[left, top, right, bottom]], [0], sizes_N2=sizes)
    ((x0, y0, x1, y1),) = objects_in_squares(objects, 64).boxes_K4
    ys, xs = np.nonzero(square[..., 0] == 250)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(seen, [x0, y0, x1, y1], atol=1)
    ((start_x, start_y),), ((wide, high),) = places(sizes, 64)
    inside = np.zeros((64, 64), bool)
    inside[start_y : start_y + high, start_x : start_x + wide] = True
    assert (square[~inside] == GRAY).all() and not (square[inside] == GRAY).any()


def test_a_store_letterboxes_small_pixels_too_and_squares_stay() -> None:
    images = PixelImages(np.random.default_rng(0).integers(0, 256, (3, 20, 40, 3), dtype=np.uint8))
    assert not is_fitted(images, SEEN)
    stored = PixelStore(images, SEEN).batch(np.arange(3))
    assert stored.shape == (3, 64, 64, 3) and (stored[:, :16] == GRAY).all()
    again = PixelImages(stored)
    assert is_fitted(again, SEEN)
    np.testing.assert_array_equal(PixelStore(again, SEEN).batch(np.arange(3)), stored)


def test_a_detector_of_letterboxed_images_gives_boxes_in_their_pixels(tmp_path: Path) -> None:
    said = np.zeros((1, 4 + 1, 2), np.float32)
    said[0, :, 0] = [16, 16, 16, 8, 0.9]  # of 32 by 32 pixels
    file = says_always(tmp_path / "net.onnx", said)
    source = Onnx(model="m", weights=file, classes=("x",), decoder="yolo")
    member = source.load(("x",))
    assert member.preprocess.letterbox
    shapes = [(100, 200), (64, 32)]
    files = tuple(tmp_path / f"{number}.png" for number in range(2))
    for file, shape in zip(files, shapes, strict=True):
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(file)
    images = FileImages(files)
    outputs = Engine().outputs(member, images, lambda event: None)
    made = Detection().to_prediction(np.array(["a", "b"]), ("x",), outputs)
    boxes = in_pixels(made, images, member.preprocess)
    expected = [[50, 25, 150, 75], [0, 24, 32, 40]]
    np.testing.assert_allclose(boxes.boxes_K4, expected, rtol=1e-6)
    squashed = Onnx(**{**vars(source), "preprocess": PreprocessOverride(letterbox=False)})
    member = squashed.load(("x",))
    boxes = in_pixels(made, images, member.preprocess)
    np.testing.assert_allclose(boxes.boxes_K4[0], [50, 37.5, 150, 62.5], rtol=1e-6)


def test_detectors_that_learn_may_be_shown_letterboxed_images() -> None:
    MiniDetection(
        model="vgg", preprocess=PreprocessOverride(letterbox=True, squash=False, resize=80)
    ).check()
