# SPDX-License-Identifier: Apache-2.0
"""Every fault of annotations and detections: refused by name, or repaired where that was asked for."""

import json

import numpy as np
import pytest
from PIL import Image

from fusetune.errors import PredictionError
from fusetune.predictions.detection.annotations import read_annotations
from fusetune.predictions.pool import Reading, read_members, read_pool

DOG = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 3, 20, 12]}
NAN, INF = float("nan"), float("inf")


def coco(**changes):
    content = {
        "images": [
            {"id": 7, "file_name": "one.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "two.png", "width": 20, "height": 50},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            DOG,
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 10, 10, 25]},
        ],
    }
    return content | changes


def with_dog(**changes):
    return coco(annotations=[DOG | changes, coco()["annotations"][1]])


def with_image(**changes):
    return coco(images=[coco()["images"][0] | changes, coco()["images"][1]])


def refused(path, message, **options):
    with pytest.raises(PredictionError, match=message) as caught:
        read_annotations(path, **options)
    assert all((caught.value.given, caught.value.expected, caught.value.remedy))
    return caught.value


REPAIRED = {
    "NaN": ({"bbox": [NAN, 3, 2, 2]}, r"holds NaN or infinity: \(nan, 3, nan, 5\)", 1),
    "infinity": ({"bbox": [1, 3, INF, 2]}, r"holds NaN or infinity: \(1, 3, inf, 5\)", 1),
    "overflow": ({"bbox": [1e308, 3, 1e308, 2]}, "holds NaN or infinity", 1),
    "negative": ({"bbox": [9, 3, -2, 5]}, "has no positive size: -2 by 5", 1),
    "empty": ({"bbox": [9, 3, 0, 5]}, "has no positive size: 0 by 5", 1),
    "outside": (
        {"bbox": [50, 3, 5, 5]},
        r"sticks out of its image: \(50, 3, 55, 8\) in 40 by 30",
        1,
    ),
    "partly": ({"bbox": [30, 3, 20, 5]}, "sticks out of its image", 2),
    "class": ({"category_id": 99}, "is of an unknown class", 1),
    "no class": ({"category_id": None}, "is of an unknown class", 1),
    "image": ({"image_id": 8}, "is of an unknown image", 1),
    "area": ({"area": NAN}, "has an impossible area: nan", 2),
    "negative area": ({"area": -5}, "has an impossible area: -5", 2),
    "area in words": ({"area": "big"}, "has an impossible area: 'big'", 2),
    "flag": ({"iscrowd": "no"}, "has an unclear flag: iscrowd: 'no'", 1),
}


@pytest.mark.parametrize("fault", REPAIRED)
def test_an_annotation_is_refused_by_its_number_or_repaired(tmp_path, fault):
    changes, message, kept = REPAIRED[fault]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(with_dog(**changes)))
    error = refused(
        path, rf"annotations.json', annotation 1 of image '{changes.get('image_id', 7)}'"
    )
    assert "--repair" in error.remedy
    refused(path, message)
    found = read_annotations(path, repair=True)
    assert len(found.objects.labels_K) == kept
    assert found.notes[0].startswith("Repaired annotations: 1 object that ")
    assert np.isfinite(found.objects.boxes_K4).all() and (found.objects.areas_K >= 0).all()


NEVER = {
    "bbox in words": (
        with_dog(bbox=["a", 3, 2, 2]),
        r"annotation 1 of image '7' has the bbox \['a'",
    ),
    "bbox with a hole": (with_dog(bbox=[None, 3, 2, 2]), "annotation 1 of image '7' has the bbox"),
    "no bbox": (with_dog(bbox=None), "annotation 1 of image '7' has the bbox None"),
    "rotated": (with_dog(bbox=[1, 2, 3, 4, 45]), "may be rotated"),
    "image twice": (coco(images=coco()["images"] * 2), "2 ids occur more than once: '7', '9'"),
    "image without id": (coco(images=[{"file_name": "x"}]), "entry 0 of 'images' is .*file_name"),
    "image in words": (coco(images=["one.png"]), "entry 0 of 'images' is \"one.png\""),
    "category without name": (coco(categories=[{"id": 1}]), "entry 0 of 'categories' is"),
    "category twice": (
        coco(categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "ox"}]),
        "the category 1 is called 'cat' and 'ox'",
    ),
    "annotation is a list": (coco(annotations=[[1, 2]]), r"entry 0 of 'annotations' is \[1, 2\]"),
    "negative width": (with_image(width=-40), "image '7' is -40 by 30 pixels"),
    "width in words": (with_image(width="wide"), "image '7' is wide by 30 pixels"),
    "cut short": (json.dumps(coco())[:200], "no complete JSON .*at line 1"),
    "empty": ("", "no complete JSON"),
}


@pytest.mark.parametrize("fault", NEVER)
@pytest.mark.parametrize("repair", [False, True])
def test_what_cannot_be_repaired_is_refused_either_way(tmp_path, fault, repair):
    content, message = NEVER[fault]
    path = tmp_path / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    refused(path, message, repair=repair)


def test_numbers_that_were_written_as_fractions_are_ids(tmp_path):
    """As pandas writes a column of whole numbers with a gap."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(with_dog(image_id=7.0, category_id=5.0)))
    results = tmp_path / "one.json"
    results.write_text(json.dumps([DOG | {"image_id": 7.0, "category_id": 5.0, "score": 0.5}]))
    pool = read_pool([results], path, Reading())
    assert pool.truth.targets.ids.tolist() == ["7", "9"]
    assert np.diff(pool.stack.parts[0].offsets).tolist() == [1, 0]


YOLO = {
    "NaN": ("0 nan 0.5 0.1 0.1", "line 1 of 'img1.txt' holds NaN or infinity", True),
    "negative": ("0 0.5 0.5 -0.1 0.1", "line 1 of 'img1.txt' has no positive size", True),
    "outside": ("0 1.5 0.5 0.1 0.1", "line 1 of 'img1.txt' sticks out of its image", True),
    "pixels": ("0 100 100 50 50", "line 1 of 'img1.txt' sticks out of its image", True),
    "class": ("7 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt' is of an unknown class", True),
    "negative class": ("-1 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt' is of an unknown class", True),
    "fraction of a class": ("0.5 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt' is '0.5 ", False),
    "endless class": ("inf 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt' is 'inf ", False),
    "NaN as class": ("nan 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt' is 'nan ", False),
    "cut short": ("0 0.5 0.5", "line 1 of 'img1.txt' is '0 0.5 0.5'", False),
}


@pytest.mark.parametrize("fault", YOLO)
def test_a_line_of_yolo_is_refused_by_its_number_or_left_out(tmp_path, fault):
    text, message, repaired = YOLO[fault]
    (tmp_path / "img1.txt").write_text(f"{text}\n1 0.5 0.5 0.2 0.2\n")
    refused(tmp_path, message, classes=("a", "b"))
    if not repaired:
        refused(tmp_path, message, classes=("a", "b"), repair=True)
        return
    found = read_annotations(tmp_path, repair=True, classes=("a", "b"))
    assert found.objects.labels_K.tolist() == [1]
    assert len(found.notes) == 1 and "1 object that" in found.notes[0]


def voc(box, size=(40, 30), name="cat"):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size><object>"
        f"<name>{name}</name><bndbox>{corners}</bndbox></object></annotation>"
    )


VOC = {
    "NaN": (voc(("nan", 1, 5, 5)), "object 1 of 'img1.xml' holds NaN or infinity", 0),
    "negative": (voc((9, 1, 5, 5)), "object 1 of 'img1.xml' has no positive size", 0),
    "partly": (voc((1, 1, 50, 5)), "object 1 of 'img1.xml' sticks out of its image", 1),
    "no name": (voc((1, 1, 5, 5), name=""), "object 1 of 'img1.xml' is of an unknown class", 0),
    "no image": (voc((1, 1, 5, 5), size=(0, 0)), "'img1.xml' is 0.0 by 0.0 pixels", None),
    "cut short": (voc((1, 1, 5, 5))[:80], "'img1.xml' is no complete Pascal VOC", None),
}


@pytest.mark.parametrize("fault", VOC)
def test_an_object_of_voc_is_refused_by_its_number_or_repaired(tmp_path, fault):
    text, message, kept = VOC[fault]
    (tmp_path / "img1.xml").write_text(text)
    refused(tmp_path, message)
    if kept is None:
        refused(tmp_path, message, repair=True)
    else:
        assert len(read_annotations(tmp_path, repair=True).objects.labels_K) == kept


def result(**changes):
    return json.dumps(
        [{"image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5} | changes]
    )


HEAD = "id,label,x1,y1,x2,y2,score\n"
DETECTIONS = {
    "score in words.json": (result(score="high"), "detection 0 of image '7' has the score 'high'"),
    "score missing.json": (result(score=None), "row '7' has the score nan"),
    "score too high.json": (result(score=1.5), "row '7' has the score 1.5"),
    "bbox in words.json": (result(bbox=["x", 1, 2, 3]), "detection 0 of image '7' has the bbox"),
    "bbox empty.json": (result(bbox=[]), r"detection 0 of image '7' has the bbox \[\]"),
    "bbox missing.json": (result(bbox=None), "detection 0 of image '7' has the bbox None"),
    "ragged.json": (
        json.dumps([*json.loads(result()), *json.loads(result(bbox=[1, 2, 3]))]),
        r"detection 1 of image '7' has the bbox \[1, 2, 3\]",
    ),
    "words.csv": (HEAD + "7,dog,a,1,2,3,0.5\n7,dog,1,1,2,3,0.5\n", "column 'x1' holds text: 'a'"),
    "NaN.csv": (HEAD + "7,dog,nan,1,2,3,0.5\n", "row '7' holds NaN or infinity"),
    "hole.csv": (HEAD + "7,dog,,1,2,3,0.5\n", "row '7' holds NaN or infinity"),
    "no score.csv": (HEAD + "7,dog,1,1,2,3,\n", "row '7' has the score nan"),
    "negative.csv": (HEAD + "7,dog,5,1,2,3,0.5\n", "row '7' has a negative side"),
    "no label.csv": (
        HEAD + "7,dog,1,1,2,3,0.5\n9,,1,1,2,3,0.5\n",
        r"line 2 has a box of row '9' and no label \(1 such line\)",
    ),
    "fraction of a label.csv": (HEAD + "7,1.5,1,1,2,3,0.5\n", "the labels hold '1.5'"),
}


@pytest.mark.parametrize("fault", DETECTIONS)
@pytest.mark.parametrize("repair", [False, True])
def test_detections_are_refused_by_name_and_never_repaired(tmp_path, fault, repair):
    text, message = DETECTIONS[fault]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(coco()))
    path = tmp_path / fault
    path.write_text(text)
    with pytest.raises(PredictionError, match=message) as caught:
        read_pool([path], truth, Reading(repair=repair))
    assert fault in caught.value.given


def test_a_line_without_label_and_box_is_an_image_without_boxes(tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(coco()))
    path = tmp_path / "one.csv"
    path.write_text(HEAD + '7,dog,"1",1,2,3,0.5\n9,,,,,,\n')
    part = read_pool([path], truth, Reading()).stack.parts[0]
    assert np.diff(part.offsets).tolist() == [1, 0]


def test_a_member_that_found_nothing_fits_any_unit(tmp_path):
    """Whether no boxes are pixels or shares cannot be told, and does not matter."""
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "img1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "table.csv").write_text(HEAD)
    (tmp_path / "coco.json").write_text("[]")
    (tmp_path / "shares.csv").write_text(HEAD + "img1,a,0.4,0.4,0.6,0.6,0.9\n")
    files = [tmp_path / name for name in ("table.csv", "coco.json", "shares.csv")]
    pool = read_pool(files, labels, Reading(classes=["a", "b"]))
    assert [len(part.scores_K) for part in pool.stack.parts] == [0, 0, 1]
    assert all(part.relative for part in pool.stack.parts)
    names = ["table", "coco", "shares"]
    read, _ = read_members(files, pool.forms, pool.truth.kind, pool.stack.classes)
    assert list(read) == names and all(read[name].relative for name in names)


def test_a_label_map_of_fractions_is_refused(tmp_path):
    for name in ("truth", "member"):
        (tmp_path / name).mkdir()
    labels = np.array([[0, 1, 1], [0, 1, 0]])
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "truth" / "one.png")
    Image.fromarray((labels + 0.5).astype(np.float32)).save(tmp_path / "member" / "one.tif")
    with pytest.raises(PredictionError, match=r"one.tif' is an image of fractions"):
        read_pool([tmp_path / "member"], tmp_path / "truth", Reading(classes=["a", "b"]))
