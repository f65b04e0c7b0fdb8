# SPDX-License-Identifier: Apache-2.0
"""Images with annotated boxes in the three formats, and every fault that can be in them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusetune.data.checks import check_copies
from fusetune.data.datasets.boxes import Boxes
from fusetune.data.datasets.scenes import Scenes
from fusetune.data.prepare import load_prepared, prepare
from fusetune.data.roles import Roles
from fusetune.errors import DataError, InvalidValue
from fusetune.predictions.detection import boxes as kinds
from fusetune.predictions.detection.objects import Objects

SIZES = {"one": (40, 30), "two": (20, 50)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        Image.new("RGB", size, (number * 90, 50, 20)).save(folder / f"{name}.png")
    return folder


def coco(**changes: Any) -> dict[str, Any]:
    content = {
        "images": [
            {"id": 7, "file_name": "one.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "two.png", "width": 20, "height": 50},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "ox"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 3, 20, 12]},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 10, 10, 25], "iscrowd": 1},
        ],
    }
    return {**content, **changes}


def write_coco(folder: Path, content: Any) -> Path:
    path = folder.parent / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def objects_of(images: Path, annotations: Path | None, **options: Any) -> Objects:
    truth = Boxes(images=images, annotations=annotations, **options).read_as(Objects).truth
    assert isinstance(truth, Objects) and not truth.relative
    assert truth.sizes_N2.tolist() == [[40, 30], [20, 50]]
    return truth


def test_coco_json(images: Path) -> None:
    rows = Boxes(images=images, annotations=write_coco(images, coco())).read_as(Objects)
    assert rows.ids.tolist() == ["7", "9"] and rows.classes == ("cat", "dog")
    assert rows.notes == ("1 class without an object left out: 'ox'",)
    truth = objects_of(images, images.parent / "annotations.json")
    assert truth.boxes_K4.tolist() == [[4, 3, 24, 15], [0, 10, 10, 35]]
    assert truth.labels_K.tolist() == [1, 0] and truth.crowd_K.tolist() == [False, True]
    assert rows.images.pixels(1).shape == (50, 20, 3)


def test_yolo_files_beside_the_images_or_elsewhere(images: Path) -> None:
    (images / "classes.txt").write_text("cat\ndog\n")
    (images / "two.txt").write_text("1 0.5 0.5 0.5 0.2\n")
    (images / "one.txt").write_text("0 0.5 0.5 0.5 0.2\n")
    truth = objects_of(images, None)
    assert truth.ids.tolist() == ["one", "two"] and truth.classes == ("cat", "dog")
    np.testing.assert_allclose(truth.boxes_K4, [[10, 12, 30, 18], [5, 20, 15, 30]])


def test_an_image_without_a_yolo_file_shows_no_object(images: Path) -> None:
    labels = images.parent / "labels"
    labels.mkdir()
    (labels / "one.txt").write_text("1 0.5 0.5 0.5 0.2\n0 0.25 0.5 0.5 1\n")
    truth = objects_of(images, labels, names=("cat", "dog"))
    assert truth.ids.tolist() == ["one", "two"] and np.diff(truth.offsets).tolist() == [2, 0]
    np.testing.assert_allclose(truth.boxes_K4, [[10, 12, 30, 18], [0, 0, 20, 30]])
    np.testing.assert_allclose(truth.areas_K, [120, 600])
    assert truth.strata_N.tolist() == [0, 2]
    chosen = Boxes(images=images, annotations=labels, names=("cat", "dog"), classes=("dog",))
    rows = chosen.read_as(Objects)
    assert rows.classes == ("dog",) and len(rows.truth.labels_K) == 1
    assert rows.notes == ("1 object of other classes left out",)


def test_pascal_voc_xml(images: Path) -> None:
    labels = images.parent / "labels"
    labels.mkdir()
    for name, (width, height) in SIZES.items():
        (labels / f"{name}.xml").write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size><object>"
            "<name>cat</name><difficult>1</difficult><bndbox><xmin>3</xmin><ymin>5</ymin>"
            "<xmax>12</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    truth = objects_of(images, labels)
    assert truth.boxes_K4.tolist() == [[2, 4, 12, 20]] * 2
    assert truth.ignored_K.tolist() == [True, True] and truth.classes == ("cat",)


def bad(**changes: Any) -> dict[str, Any]:
    one = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 3, 20, 12], **changes}
    return coco(annotations=[one, coco()["annotations"][1]])


@pytest.mark.parametrize(
    ("content", "message", "repaired"),
    [
        (bad(bbox=[4, 3, -2, 5]), r"annotation 1 of image '7' has no positive size: -2 by 5", 1),
        (bad(bbox=[30, 3, 20, 12]), r"sticks out of its image: \(30, 3, 50, 15\) in 40 by 30", 2),
        (bad(category_id=99), r"annotation 1 of image '7' is of an unknown class", 1),
        (bad(image_id=8), r"annotation 1 of image '8' is of an unknown image", 1),
        (bad(bbox=[1, 2, 3]), r"annotation 1 of image '7' has the bbox \[1, 2, 3\]", None),
        (json.dumps(coco())[:150], r"annotations.json.*no complete JSON", None),
        ({"images": []}, r"the content is no COCO annotation file", None),
        (
            coco(images=[coco()["images"][0]]),
            r"of an unknown image",
            None,
        ),
    ],
)
def test_bad_annotations_are_refused_by_name_or_repaired(
    images: Path, content: Any, message: str, repaired: int | None
) -> None:
    path = write_coco(images, content)
    with pytest.raises(DataError, match=message) as caught:
        Boxes(images=images, annotations=path).read_as(Objects)
    if repaired is None:
        return
    assert "write repair: true" in caught.value.remedy
    rows = Boxes(images=images, annotations=path, repair=True).read_as(Objects)
    assert len(rows.truth.labels_K) == repaired
    assert any("Repaired annotations: 1 object" in note for note in rows.notes)


def test_a_missing_image_is_named(images: Path) -> None:
    path = write_coco(images, coco())
    (images / "two.png").unlink()
    with pytest.raises(DataError, match=r"1 image of the annotations is not in '.*': 'two'"):
        Boxes(images=images, annotations=path).read_as(Objects)


def test_an_image_of_another_size_than_annotated_is_named(images: Path) -> None:
    path = write_coco(images, coco())
    Image.new("RGB", (50, 20)).save(images / "two.png")
    with pytest.raises(DataError, match=r"'9' is 20 by 50 pixels by its annotation and 50 by 20"):
        Boxes(images=images, annotations=path).read_as(Objects)


def test_boxes_outside_are_found_without_stated_sizes(images: Path) -> None:
    content = bad(bbox=[30, 3, 20, 12])
    content["images"] = [{k: one[k] for k in ("id", "file_name")} for one in content["images"]]
    with pytest.raises(DataError, match=r"a box of '7' sticks out of its image: \(30, 3, 50, 15\)"):
        Boxes(images=images, annotations=write_coco(images, content)).read_as(Objects)


def test_a_file_that_is_no_image_is_named(images: Path) -> None:
    path = write_coco(images, coco())
    (images / "one.png").write_text("nothing")
    with pytest.raises(DataError, match=r"the image '.*one.png' cannot be read"):
        Boxes(images=images, annotations=path).read_as(Objects)


def test_two_files_of_one_name_are_refused(images: Path) -> None:
    Image.new("RGB", (20, 50)).save(images / "two.jpg")
    with pytest.raises(DataError, match=r"1 name of images in '.*' stand for several files"):
        Boxes(images=images, annotations=write_coco(images, coco())).read_as(Objects)


def test_an_unknown_class_is_refused_with_the_nearest(images: Path) -> None:
    source = Boxes(images=images, annotations=write_coco(images, coco()), classes=("cta",))
    with pytest.raises(DataError, match=r"no class is called 'cta'.*Did you mean 'cat'\?"):
        source.read_as(Objects)


def test_boxes_are_no_classes_of_images(images: Path) -> None:
    with pytest.raises(DataError, match="the source boxes gives objects and their boxes"):
        Boxes(images=images).read()
    with pytest.raises(DataError, match="the source scenes gives objects and their boxes"):
        Scenes().read()


def test_scenes_are_the_same_whatever_their_number() -> None:
    few, more = (Scenes(num_images=n, size=32).read_as(Objects) for n in (3, 6))
    assert few.images.digests() == more.images.digests()[:3]
    assert few.truth.boxes_K4.tolist() == more.truth.take(np.arange(3)).boxes_K4.tolist()
    other = Scenes(num_images=3, size=32, scene_seed=1).read_as(Objects)
    assert other.images.digests() != few.images.digests()
    sides = more.truth.boxes_K4[:, 2:] - more.truth.boxes_K4[:, :2]
    assert (sides >= 2).all() and (more.truth.boxes_K4 >= 0).all()
    assert (more.truth.boxes_K4 <= 32).all() and (np.diff(more.truth.offsets) >= 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "data.num_images is 0; expected a whole number of at least 1"),
        ({"size": 16}, "data.size is 16; expected a whole number of at least 32"),
        ({"scene_seed": -1}, "data.scene_seed is -1; expected a whole number of at least 0"),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Scenes(**options)


def test_prepared_objects_are_stored_and_read_back(tmp_path: Path) -> None:
    source = Scenes(num_images=40, size=32)
    made = prepare({"all": source}, Roles(test=10, holdout=8, validation=6), kind=kinds.Boxes)
    made.save(tmp_path)
    read = load_prepared(tmp_path)
    assert read.fingerprint() == made.fingerprint() and read.classes == made.classes
    test = read.targets("test")
    assert isinstance(test, Objects) and len(test) == 10
    whole = source.read_as(Objects).truth
    rows = [whole.ids.tolist().index(name) for name in test.ids.tolist()]
    assert whole.take(np.array(rows)).boxes_K4.tolist() == test.boxes_K4.tolist()
    moved = Scenes(num_images=40, size=32, scene_seed=1)
    other = prepare({"all": moved}, Roles(test=10, holdout=8, validation=6), kind=kinds.Boxes)
    assert other.fingerprint() != made.fingerprint()


def test_what_was_left_out_is_noted_with_the_rows(images: Path) -> None:
    """Splits of several sources keep their notes, and share classes by name."""
    labels = images.parent / "labels"
    labels.mkdir()
    (labels / "one.txt").write_text("3 0.5 0.5 0.5 0.2\n0 0.25 0.5 0.5 1\n")
    names = ("cross", "ring", "dog", "square")
    parts = {
        "train": Scenes(num_images=30, size=32),
        "test": Boxes(images=images, annotations=labels, names=names),
    }
    made = prepare(parts, Roles(), kind=kinds.Boxes)
    assert made.classes == ("circle", "cross", "ring", "square", "triangle")
    test = made.targets("test")
    assert [made.classes[label] for label in test.labels_K] == ["square", "cross"]
    assert made.notes == ("2 classes without an object left out: 'ring', 'dog'",)


def test_a_copy_in_two_roles_is_refused_and_its_objects_compared(images: Path) -> None:
    Image.new("RGB", SIZES["one"], (0, 50, 20)).save(images / "copy.png")
    labels = images.parent / "labels"
    labels.mkdir()
    for name, line in (("one", "0 0.5 0.5 0.5 0.2"), ("copy", "0 0.5 0.5 0.5 0.4")):
        (labels / f"{name}.txt").write_text(line)
    rows = Boxes(images=images, annotations=labels, names=("cat",)).read_as(Objects)
    truth, roles_N = rows.truth, np.array(["train", "test", "train"])
    assert rows.ids.tolist() == ["copy", "one", "two"]
    with pytest.raises(
        DataError, match=r"'copy' \(train\) = 'one' \(test\); 1 of them with two lab"
    ):
        check_copies(rows, truth, roles_N)
    same = rows.take(np.array([0, 0]))
    with pytest.raises(DataError, match=r"two roles for 1 image: [^;]*; expected"):
        check_copies(replace(same, ids=rows.ids[:2]), same.truth, roles_N[:2])


def test_splits_join_by_class_name(images: Path) -> None:
    path = write_coco(images, coco())
    parts = {
        "train": Scenes(num_images=30, size=32),
        "test": Boxes(images=images, annotations=path),
    }
    with pytest.raises(DataError, match="no train row has the class 'cat', 'dog'"):
        prepare(parts, Roles(), kind=kinds.Boxes)


def test_a_judged_role_without_objects_is_refused(images: Path) -> None:
    labels = images.parent / "labels"
    labels.mkdir()
    (labels / "one.txt").write_text("")
    (labels / "two.txt").write_text("")
    parts = {
        "train": Scenes(num_images=30, size=32),
        "test": Boxes(images=images, annotations=labels, names=("circle",)),
    }
    with pytest.raises(DataError, match="no row of the role test shows an object"):
        prepare(parts, Roles(), kind=kinds.Boxes)
