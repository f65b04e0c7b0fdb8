# SPDX-License-Identifier: Apache-2.0
"""Detections from files of every form: fused, judged, saved, applied; and what is refused."""

import dataclasses
import json
import sys

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from box_pools import as_sets, box_pool
from fusetune import fuse_files, load
from fusetune.errors import InvalidValue, MisalignedMembers, MissingExtra, PredictionError
from fusetune.predictions.detection.detections import write_boxes
from fusetune.predictions.pool import Reading, read_pool
from support import fusetune

SIDE = 640


def sided(box):
    left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]


def coco_results(part):
    lines = zip(part.rows_K, part.labels_K, part.boxes_K4, part.scores_K, strict=True)
    return [
        {
            "image_id": int(row) + 1,
            "category_id": 10 + int(label),
            "bbox": sided(box),
            "score": float(score),
        }
        for row, label, box, score in lines
    ]


def coco_truth(truth):
    images = [
        {"id": row + 1, "file_name": f"img{row + 1}.jpg", "width": SIDE, "height": SIDE}
        for row in range(len(truth))
    ]
    annotations = [
        {"id": n, "image_id": int(row) + 1, "category_id": 10 + int(label), "bbox": sided(box)}
        for n, (row, label, box) in enumerate(
            zip(truth.rows_K, truth.labels_K, truth.boxes_K4, strict=True)
        )
    ]
    names = [{"id": 10 + c, "name": name} for c, name in enumerate(truth.classes)]
    return {"images": images, "annotations": annotations, "categories": names}


def write_yolo(folder, part, scores=None):
    """Shares of the image; of the truth without scores."""
    folder.mkdir(parents=True)
    for row in range(len(part)):
        lines = []
        for k in range(part.offsets[row], part.offsets[row + 1]):
            left, top, wide, high = np.array(sided(part.boxes_K4[k])) / SIDE
            numbers = [left + wide / 2, top + high / 2, wide, high]
            numbers += [] if scores is None else [scores[k]]
            lines.append(" ".join([str(part.labels_K[k]), *(f"{n:.9f}" for n in numbers)]))
        (folder / f"img{row + 1}.txt").write_text("\n".join(lines))


def write_voc(folder, truth):
    folder.mkdir()
    for row in range(len(truth)):
        objects = ""
        for k in range(truth.offsets[row], truth.offsets[row + 1]):
            left, top, right, bottom = truth.boxes_K4[k]
            objects += (
                f"<object><name>{truth.classes[truth.labels_K[k]]}</name><difficult>0</difficult>"
                f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        (folder / f"img{row + 1}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


@pytest.fixture(scope="module")
def pool():
    return box_pool(rows=40)


@pytest.fixture
def coco(tmp_path, pool):
    """Annotations and three members' results, as files."""
    stack, truth = pool
    targets = tmp_path / "annotations.json"
    targets.write_text(json.dumps(coco_truth(truth)))
    files = []
    for name, part in zip(stack.members, stack.parts, strict=True):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(coco_results(part)))
    return files, targets


@pytest.mark.slow
def test_detections_are_fused_judged_saved_and_applied(coco, tmp_path):
    files, targets = coco
    run = fuse_files(files, targets, out=tmp_path / "run")
    results = run.results
    assert results["task"] == "object_detection" and results["metric"] == "coco_map"
    assert results["judged"] == "cross_fitted" and results["chosen"] != "auto"
    scores = results["fusions"][-1]["scores"]["test"]
    assert len(scores) == 12 and scores["coco_map50"] >= scores["coco_map75"]
    low, high = results["verdict"]["interval"]
    assert low < results["verdict"]["gain"] < high
    assert results["verdict"]["decision"] == "worth_it"
    assert results["contributions"] is None and results["agreement"] is None
    page = run.report.read_text(encoding="utf-8")
    assert "Mean average precision" in page and "Average precision of every class" in page
    assert 'id="precision_recall"' in page and 'id="sizes"' in page and 'id="boxes"' not in page
    assert [one["class"] for one in results["per_class"]] == ["class0", "class1", "class2"]
    of_chosen = [one["average_precision"][results["chosen"]] for one in results["per_class"]]
    by_name = {one["name"]: one["scores"]["test"]["coco_map"] for one in results["fusions"]}
    assert np.mean(of_chosen) == pytest.approx(by_name[results["chosen"]], abs=1e-5)
    fused = load(tmp_path / "run").predict(files)
    table = pyarrow.parquet.read_table(
        tmp_path / "run" / "predictions" / "ensemble" / "test.parquet"
    )
    assert set(table["id"].to_pylist()) == set(fused.ids.tolist())
    assert table.column_names[:2] == ["id", "label"]


@pytest.mark.slow
def test_statistics_that_no_object_has_a_part_in_are_not_shown(tmp_path):
    """COCO writes -1 for the average precision of small objects where there are none."""
    stack, truth = box_pool(rows=30)
    large = [part.scaled(np.full((30, 2), 10.0), relative=False) for part in stack.parts]
    content = coco_truth(dataclasses.replace(truth, boxes_K4=10 * truth.boxes_K4, areas_K=None))
    for image in content["images"]:
        image |= {"width": 10 * SIDE, "height": 10 * SIDE}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    files = [tmp_path / f"{name}.json" for name in stack.members]
    for file, part in zip(files, large, strict=False):
        file.write_text(json.dumps(coco_results(part)))
    run = fuse_files(files, tmp_path / "annotations.json", out=tmp_path / "run", methods=["nms"])
    scores = run.results["fusions"][-1]["scores"]["test"]
    assert "coco_map_small" not in scores and "coco_recall_medium" not in scores
    assert scores["coco_map_large"] == pytest.approx(scores["coco_map"])


@pytest.mark.slow
def test_the_command_line_fuses_and_predicts(coco, tmp_path):
    files, targets = coco
    arguments = (
        "--targets",
        targets,
        "--method",
        "weighted_boxes",
        "--holdout",
        "0.5",
        "--no-report",
    )
    made = fusetune("fuse", *files, *arguments, "--out", tmp_path / "run")
    assert made.returncode == 0, made.stderr
    assert "weighted_boxes" in made.stdout and "mean average precision" in made.stdout
    done = fusetune("predict", tmp_path / "run", *files, "--out", tmp_path / "new.csv")
    assert done.returncode == 0, done.stderr
    table = pyarrow.csv.read_csv(tmp_path / "new.csv")
    assert table.column_names == ["id", "label", "x1", "y1", "x2", "y2", "score"]
    again = fusetune("fuse", *files, *arguments, "--out", tmp_path / "run", "--json")
    assert json.loads(again.stdout)["chosen"] == "weighted_boxes"


def test_every_form_of_file_says_the_same(coco, tmp_path, pool):
    stack, truth = pool
    files, targets = coco
    expected = read_pool(files, targets, Reading())
    assert as_sets(expected.stack.parts[0], 3) == {
        str(int(row.removeprefix("row")) + 1): lines
        for row, lines in as_sets(stack.parts[0], 3).items()
    }
    write_yolo(tmp_path / "yolo" / "member0", stack.parts[0], stack.parts[0].scores_K)
    (tmp_path / "yolo" / "classes.txt").write_text("\n".join(truth.classes))
    written = expected.stack.parts[1]
    write_boxes(tmp_path / "member1.parquet", written)
    mixed = [tmp_path / "yolo" / "member0", tmp_path / "member1.parquet", files[2]]
    found = read_pool(mixed, targets, Reading())
    for one, other in zip(found.stack.parts, expected.stack.parts, strict=True):
        assert as_sets(one, 2) == as_sets(other, 2)
    assert found.stack.parts[1].classes == written.classes
    write_yolo(tmp_path / "labels", truth)
    write_voc(tmp_path / "voc", truth)
    names = list(truth.classes)
    yolo = read_pool(mixed[:1], tmp_path / "labels", Reading(classes=names)).truth.targets
    assert yolo.relative and yolo.classes == truth.classes
    np.testing.assert_allclose(
        np.sort(yolo.boxes_K4 * SIDE, 0), np.sort(truth.boxes_K4, 0), atol=1e-4
    )
    voc = read_pool(mixed[:1], tmp_path / "voc", Reading()).truth.targets
    np.testing.assert_allclose(np.sort(voc.boxes_K4, 0), np.sort(truth.boxes_K4, 0), atol=1e-6)
    assert not voc.relative and len(voc) == len(truth)


def test_crowds_difficult_and_ignored_objects_are_flagged(tmp_path, pool):
    _, truth = pool
    content = coco_truth(truth)
    content["annotations"][0] |= {"iscrowd": 1, "area": 7.0}
    content["annotations"][1] |= {"ignore": 1}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    results = tmp_path / "one.json"
    results.write_text("[]")
    read = read_pool([results], tmp_path / "annotations.json", Reading()).truth.targets
    assert read.crowd_K.sum() == 1 and read.ignored_K.sum() == 2
    assert 7.0 in read.areas_K


def broken(content, change):
    change(content["annotations"][0])
    return content


BAD = {
    "negative": (
        lambda one: one.update(bbox=[5, 5, -3, 4]),
        "annotation 0 .* no positive size: -3",
    ),
    "outside": (lambda one: one.update(bbox=[600, 5, 100, 4]), "annotation 0 .* sticks out"),
    "class": (lambda one: one.update(category_id=99), "annotation 0 .* of an unknown class"),
    "image": (lambda one: one.update(image_id=999), "annotation 0 of image '999' .* unknown image"),
}


@pytest.mark.parametrize("fault", BAD)
def test_wrong_annotations_are_refused_by_name_or_repaired(coco, pool, fault):
    files, targets = coco
    change, message = BAD[fault]
    targets.write_text(json.dumps(broken(coco_truth(pool[1]), change)))
    with pytest.raises(PredictionError, match=message):
        read_pool(files, targets, Reading())
    read = read_pool(files, targets, Reading(repair=True))
    assert len(read.truth.targets.labels_K) == len(pool[1].labels_K) - (fault != "outside")
    assert any("Repaired annotations: 1 object" in note for note in read.notes)


def test_files_that_cannot_be_read_are_refused(coco, tmp_path, pool):
    files, targets = coco
    whole = targets.read_text()
    for text, message in (
        (whole[:-200], "no complete JSON"),
        ("{}", "no COCO annotation file"),
        (json.dumps(coco_truth(pool[1]) | {"images": []}), "unknown image|lists no image"),
    ):
        targets.write_text(text)
        with pytest.raises(PredictionError, match=message):
            read_pool(files, targets, Reading())
    targets.write_text(whole)
    for text, message in (
        ("[{", "no complete JSON"),
        ('{"a": 1}', "no COCO results"),
        ('[{"image_id": 1}]', "no COCO results"),
        (one_result(bbox=[1, 2, 3, 4, 45]), "rotated"),
        (one_result(bbox=[1, 2, -3, 4]), "member0.json.*negative side"),
        (one_result(bbox=[1, 2, float("nan"), 4]), "member0.json.*row '1' holds NaN"),
        (one_result(score=float("nan")), "member0.json.*row '1' has the score nan"),
        (one_result(image_id=77), "'77'"),
        (one_result(category_id=77), "classes '77'"),
    ):
        files[0].write_text(text)
        with pytest.raises(PredictionError, match=message):
            read_pool(files, targets, Reading())
    files[0].write_text(one_result(image_id=77))
    read = read_pool(files, targets, Reading(missing="renormalize"))
    assert "1 detection of member0 were left out" in " ".join(read.notes)


def one_result(**changes):
    entry = {"image_id": 1, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 0.5}
    return json.dumps([entry | changes])


def test_yolo_files_are_checked_line_by_line(coco, tmp_path, pool):
    _, targets = coco
    folder = tmp_path / "yolo"
    folder.mkdir()
    for text, message in (
        ("0 0.5 0.5 0.1 0.1", "line 1 of 'img1.txt'.*6 numbers"),
        ("0 0.5 0.5 x 0.1 0.9", "line 1 of 'img1.txt'"),
        ("0 " + "0.1 " * 8 + "0.9", "rotated"),
        ("0 0.5 0.5 0.1 0.1 0.9", "classes '0'.*--classes"),
    ):
        (folder / "img1.txt").write_text(text)
        with pytest.raises(PredictionError, match=message):
            read_pool([folder], targets, Reading())
    read = read_pool([folder], targets, Reading(classes=["class0"]))
    assert read.stack.parts[0].boxes_K4[0] == pytest.approx([288, 288, 352, 352])
    content = coco_truth(pool[1])
    for image in content["images"]:
        del image["width"]
    targets.write_text(json.dumps(content))
    with pytest.raises(PredictionError, match="shares of the image and the annotations pixels"):
        read_pool([folder], targets, Reading(classes=["class0"]))


@pytest.mark.slow
def test_what_belongs_to_other_tasks_is_refused(coco, tmp_path):
    files, targets = coco
    for reading, message in (
        (Reading(task="regression"), "the task is 'regression'"),
        (Reading(forms={"member0": "logits"}), "--form was given for 'member0'"),
    ):
        with pytest.raises(InvalidValue, match=message):
            read_pool(files, targets, reading)
    table = tmp_path / "targets.csv"
    table.write_text("id,target\n1,a\n")
    with pytest.raises(InvalidValue, match="holds no annotations of objects"):
        read_pool(files, table, Reading(task="object_detection"))
    with pytest.raises(InvalidValue, match="--memory was given for detections"):
        fuse_files(files, targets, out=tmp_path / "run", memory="1GB", holdout=0.5)
    with pytest.raises(InvalidValue, match="judges"):
        fuse_files(files, targets, out=tmp_path / "run", metric="accuracy")
    with pytest.raises(InvalidValue, match="'mean' fuses"):
        fuse_files(files, targets, out=tmp_path / "run", methods=["mean"])


@pytest.mark.slow
def test_new_files_have_to_be_named_and_formed_like_the_fused_ones(coco, tmp_path, pool):
    files, targets = coco
    run = fuse_files(files, targets, out=tmp_path / "run", methods=["nms"], holdout=1, report=False)
    other = tmp_path / "new" / "other.json"
    other.parent.mkdir()
    other.write_text(files[0].read_text())
    with pytest.raises(MisalignedMembers, match="'other'"):
        run.predict([other])
    new = [tmp_path / "new" / file.name for file in files]
    for path in new:  # of one image and class, in which the first member now finds something
        path.write_text(one_result(image_id=2024, category_id=12))
    fused = run.predict(new)
    assert as_sets(fused) == {"2024": [("class2", 1.0, 2.0, 4.0, 6.0, 0.5)]}
    write_boxes(tmp_path / "new" / "member0.parquet", pool[0].parts[0])
    with pytest.raises(InvalidValue, match="of the form 'coco', and this one is 'boxes'"):
        run.predict([tmp_path / "new" / "member0.parquet", *files[1:]])


def test_without_numba_the_message_says_what_to_install(coco, monkeypatch, tmp_path):
    files, targets = coco
    for name in [name for name in sys.modules if ".numba_" in name or name.endswith(".compiled")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fusetune\[detection\]'"):
        fuse_files(files, targets, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
