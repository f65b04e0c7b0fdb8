# SPDX-License-Identifier: Apache-2.0
"""ONNX networks as members: what their files must be, which classes they keep, what they see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from fusetune.data.datasets.boxes import Boxes
from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.placing import predicted_pieces
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.onnx import Onnx
from fusetune.metrics.coco_map50 import CocoMap50
from fusetune.predictions.detection.objects import Objects
from onnx_nets import color_classifier, saved, says_always, shuffling

COLORS = ("red", "green", "blue")
AS_IS = PreprocessOverride(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SQUARE = PreprocessOverride(size=32)
CENTER = [[[0.5, 0.5, 0.5, 0.5]]]


def classifier(path: Path, **fields: Any) -> Onnx:
    return Onnx(**{"model": "m", "weights": path, "classes": COLORS, "preprocess": AS_IS, **fields})


def detector(path: Path, **fields: Any) -> Onnx:
    return Onnx(**{"model": "m", "weights": path, "classes": COLORS, "decoder": "detr", **fields})


def test_of_its_classes_the_tasks_are_kept_by_name(tmp_path: Path) -> None:
    source = classifier(color_classifier(tmp_path / "net.onnx"))
    member = source.load(("blue", "violet", "red"))
    assert member.classes == ("blue", "red") and member.head_kept and member.gives == "logits"
    assert member.engine == "onnx" and member.preprocess.size == 8
    assert member.notes == (
        "does not know 'violet'",
        "1 class of its own left out: not the task's",
    )
    images = np.zeros((1, 8, 8, 3), np.float32) + np.float32([0.1, 0.2, 0.3])
    np.testing.assert_allclose(member.model(images), [[3, 1]], rtol=1e-5)
    with pytest.raises(InvalidValue, match=r"knows none of the task's classes: 'a', 'b'"):
        source.load(("a", "b"))


def test_channels_are_turned_round_and_put_where_the_network_wants_them(tmp_path: Path) -> None:
    images = np.zeros((1, 8, 8, 3), np.float32) + np.float32([0.1, 0.2, 0.3])
    file = color_classifier(tmp_path / "net.onnx")
    said = classifier(file, channels="bgr").load(COLORS).model(images)
    np.testing.assert_allclose(said, [[3, 2, 1]], rtol=1e-5)
    nodes = [helper.make_node("ReduceMean", ["images"], ["out"], axes=[1, 2], keepdims=0)]
    last = saved(tmp_path / "last.onnx", nodes, {}, shape=("n", "h", "w", 3))
    np.testing.assert_allclose(
        classifier(last).load(COLORS).model(images), [[0.1, 0.2, 0.3]], rtol=1e-5
    )
    half = saved(
        tmp_path / "half.onnx",
        [helper.make_node("ReduceMean", ["images"], ["out"], axes=[2, 3], keepdims=0)],
        {},
        dtype=TensorProto.FLOAT16,
    )
    said = classifier(half).load(COLORS).model(images)
    assert said.dtype == np.float32
    np.testing.assert_allclose(said, [[0.1, 0.2, 0.3]], rtol=1e-2)


def test_probabilities_and_marginals_become_logits(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
    logits = classifier(color_classifier(tmp_path / "net.onnx")).load(COLORS).model(images)
    soft = color_classifier(tmp_path / "soft.onnx", end="Softmax")
    member = classifier(soft, outputs="probabilities").load(("blue", "red"))
    powers = np.exp(logits)
    expected = np.log(powers / powers.sum(axis=1, keepdims=True))[:, [2, 0]]
    np.testing.assert_allclose(member.model(images), expected, rtol=1e-4)
    each = color_classifier(tmp_path / "each.onnx", end="Sigmoid")
    member = classifier(each, outputs="marginals").load(COLORS)
    np.testing.assert_allclose(member.model(images), logits, rtol=1e-3)
    for file in (each, tmp_path / "net.onnx"):
        with pytest.raises(InvalidValue, match=r"and outputs is probabilities; expected numbers"):
            classifier(file, outputs="probabilities").load(COLORS)


def test_a_batch_that_the_file_fixes_is_filled_up(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 8, 8, 3)).astype(np.float32)
    file = color_classifier(tmp_path / "net.onnx")
    four = color_classifier(tmp_path / "four.onnx", shape=(4, 3, 8, 8))
    member = classifier(four, preprocess=PreprocessOverride(mean=(0,) * 3, std=(1,) * 3)).load(
        COLORS
    )
    assert member.model.batch == 4 and member.preprocess.size == 8
    expected = classifier(file).load(COLORS).model(images)
    np.testing.assert_allclose(member.model(images), expected, rtol=1e-6)


def test_a_detector_gives_boxes_of_the_classes_that_are_kept(tmp_path: Path) -> None:
    boxes = [[[0.5, 0.5, 0.2, 0.4], [0.2, 0.2, 0.2, 0.2]]]
    logits = [[[-9, 2, -9], [-9, 9, 1.0]]]
    source = detector(says_always(tmp_path / "net.onnx", logits, boxes))
    member = source.load(("blue", "green", "ultramarine"))
    assert member.gives == "detections" and member.classes == ("blue", "green")
    assert member.preprocess.squash and member.preprocess.size == 32
    assert member.preprocess.mean == (0.485, 0.456, 0.406)
    found = member.model(np.zeros((1, 32, 32, 3), np.float32))
    expected = [
        [0.1, 0.1, 0.3, 0.3, 1 / (1 + np.exp(-9)), 1],
        [0.4, 0.3, 0.6, 0.7, 1 / (1 + np.exp(-2)), 1],
        [0.1, 0.1, 0.3, 0.3, 1 / (1 + np.exp(-1)), 0],
    ]
    np.testing.assert_allclose(found[0, :3], expected, rtol=1e-5)
    assert (found[0, 3:, 5] == -1).all()


def test_fewer_threads_and_no_weights_until_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen = []
    given = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, **k: seen.append(a[1]) or given(*a, **k)
    )
    source = classifier(color_classifier(tmp_path / "net.onnx"))
    for number in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", number)
        source.load(COLORS)
    assert [one.intra_op_num_threads for one in seen] == [1, 3]
    member = source.load(COLORS, pretrained=False)
    assert len(seen) == 2 and member.model.content is None and member.preprocess.size == 8


def test_another_size_than_the_files_is_tried(tmp_path: Path) -> None:
    file = shuffling(tmp_path / "net.onnx", 32)
    source = Onnx(model="m", weights=file, decoder="fastestdet", classes=("a",))
    with pytest.raises(InvalidValue, match=r"decoder fastestdet does not know.*5 \+ 1 numbers"):
        source.load(("a",))
    fixed = detector(
        says_always(tmp_path / "fixed.onnx", [[[1, 1, 1.0]]], CENTER),
        preprocess=PreprocessOverride(size=64),
    )
    member = fixed.load(COLORS)
    assert member.preprocess.size == 64
    assert member.notes == ("exported for images of 32 pixels, changed to take 64",)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"classes": None}, InvalidValue, "'onnx-m' has no classes; expected the class names"),
        ({"classes": ("a", "a")}, InvalidValue, "names 'a' more than once"),
        ({"head": "replace"}, InvalidValue, "has head: replace; expected a network that is used"),
        ({"preprocess": None}, InvalidValue, "does not say how its images are normalized"),
        ({"weights": Path("none.onnx")}, WeightsError, "'none.onnx' is not there; expected an"),
        ({"weights": Path()}, WeightsError, "is a folder; expected an ONNX file"),
        ({"decoder": "yolov"}, UnknownName, "no decoder is called 'yolov'.*'yolo'"),
        (
            {"decoder": "yolo", "outputs": "probabilities"},
            InvalidValue,
            "has outputs: probabilities and a decoder",
        ),
        (
            {"decoder": "yolo", "preprocess": PreprocessOverride(test_flip=True)},
            InvalidValue,
            "has preprocess.test_flip",
        ),
    ],
)
def test_what_cannot_be_is_said_without_reading_the_file(fields, error, message) -> None:
    given = {"model": "m", "weights": "none", "classes": COLORS, "preprocess": AS_IS}
    Onnx(**given).check()
    with pytest.raises(error, match=message):
        Onnx(**{**given, **fields}).check()


def test_files_that_are_no_networks_of_images_are_refused(tmp_path: Path) -> None:
    whole = color_classifier(tmp_path / "net.onnx").read_bytes()
    cut, text, empty = (tmp_path / name for name in ("cut", "text", "empty"))
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("version https://git-lfs")
    empty.write_bytes(b"")
    for path in (cut, text):
        with pytest.raises(WeightsError, match=r"cannot be read as ONNX .*expected a whole ONNX"):
            classifier(path).load(COLORS)
    with pytest.raises(WeightsError, match="is empty; expected an ONNX file"):
        classifier(empty).load(COLORS)
    strange = [helper.make_node("Frobnicate", ["images"], ["out"], domain="own")]
    with pytest.raises(WeightsError, match=r"onnxruntime cannot run the network of 'onnx-m' \("):
        classifier(saved(tmp_path / "strange.onnx", strange, {})).load(COLORS)
    with pytest.raises(InvalidValue, match=r"'onnx-m' has weights: none; expected an ONNX file"):
        classifier(tmp_path, weights="none").load(COLORS)
    for shape in (("n", 1, 8, 8), ("n", 3, 8, 16), ("n", 3)):
        wide = color_classifier(tmp_path / "wide.onnx", shape=shape)
        with pytest.raises((InvalidValue, WeightsError), match=r"takes 'images'|cannot run"):
            classifier(wide).load(COLORS)


def test_outputs_that_are_not_what_the_recipe_says_are_refused(tmp_path: Path) -> None:
    file = color_classifier(tmp_path / "net.onnx")
    with pytest.raises(InvalidValue, match=r"gives \(2, 3\); expected one number for each of 2"):
        classifier(file, classes=("red", "green")).load(("red", "green"))
    with pytest.raises(InvalidValue, match=r"takes images of any size; expected the one that it"):
        classifier(file, preprocess=PreprocessOverride(mean=(0,) * 3, std=(1,) * 3)).load(COLORS)
    loud = says_always(tmp_path / "loud.onnx", np.full((1, 5 + 3, 4, 4), 7.0))
    with pytest.raises(InvalidValue, match=r"fastestdet reads scores from 0 to 7; expected scores"):
        detector(loud, decoder="fastestdet").load(COLORS)
    nan = says_always(tmp_path / "nan.onnx", [[[np.nan, 0, 0]]], CENTER)
    with pytest.raises(WeightsError, match="'onnx-m' gives NaN or infinity; expected finite"):
        detector(nan).load(COLORS)
    narrow = [
        helper.make_node("Conv", ["images", "kernel"], ["wide"], kernel_shape=[9, 9]),
        helper.make_node("GlobalAveragePool", ["wide"], ["out"]),
    ]
    kernel = {"kernel": np.zeros((3, 3, 9, 9), np.float32)}
    with pytest.raises(WeightsError, match=r"failed on 2 images of 8 pixels \(.*preprocess: {size"):
        classifier(saved(tmp_path / "narrow.onnx", narrow, kernel)).load(COLORS)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("size", "least"), [(352, 0.27), (512, 0.27), (256, 0.22)])
def test_a_published_detector_finds_what_is_on_photos(
    data_folder: Path, size: int, least: float
) -> None:
    names = tuple((data_folder / "coco128" / "coco.names").read_text().split("\n"))[:80]
    rows = Boxes(images=data_folder / "coco128", names=names).read_as(Objects)
    source = Onnx(
        model="fastestdet",
        weights=data_folder / "weights" / "fastestdet_coco_352.onnx",
        classes=names,
        decoder="fastestdet",
        preprocess=PreprocessOverride(size=size),
    )
    member = source.load(rows.classes)
    (boxes,) = predicted_pieces(
        member, rows.ids, (rows.images, rows.images), Detection(), lambda event: None
    )
    value = CocoMap50().value(CocoMap50().statistics(boxes, rows.truth))
    assert least < value < 0.35
