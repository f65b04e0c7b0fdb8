# SPDX-License-Identifier: Apache-2.0
"""Reports of detection and segmentation: pictures, curves, and gains part by part."""

import dataclasses
import re

import numpy as np
import pytest

from box_pools import SIDE, box_pool
from fusetune.plugins import discover
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.stack import Stack
from fusetune.report.box_pictures import ASIDE, RIGHT, WRONG, read_box_pictures
from fusetune.report.contents import gather
from fusetune.report.html import render
from fusetune.report.mask_pictures import read_mask_pictures
from fusetune.report.section import Section
from fusetune.stages.box_pictures import save_box_pictures
from picture_runs import boxes_run, masks_run, picture, write_results

NASTY = "<script>alert('1')</script>"


def section(name, folder):
    return discover(Section)[name]().content(gather(folder))


def shown(html):
    return set(re.findall(r'<section id="(\w+)"', html))


def test_a_detection_run_shows_pictures_curves_and_gains(tmp_path):
    folder = boxes_run(tmp_path / "run")
    html = render(gather(folder))
    assert {"boxes", "precision_recall", "per_class", "sizes"} <= shown(html)
    assert not {"masks", "disputed"} & shown(html)
    assert len(html) < 1_000_000
    assert html == render(gather(boxes_run(tmp_path / "again" / "run")))


def test_without_images_all_but_the_pictures_is_there(tmp_path):
    html = render(gather(boxes_run(tmp_path / "run", images=False)))
    assert {"precision_recall", "per_class", "sizes"} <= shown(html)
    assert "boxes" not in shown(html)


def one_row(boxes, scores, labels, classes=("cat", "dog")):
    return Boxes(["a"], classes, [0, len(boxes)], np.array(boxes, float), scores, labels)


def test_boxes_are_right_wrong_or_aside_and_truth_is_found_or_missed(tmp_path):
    truth = Objects(
        ["a"],
        ("cat", "dog"),
        [0, 3],
        np.array([[0, 0, 100, 100], [200, 0, 300, 100], [0, 300, 100, 400]], float),
        [0, 0, 1],
        ignored_K=np.array([False, False, True]),
    )
    fused = one_row([[0, 0, 100, 90], [0, 300, 100, 400]], [0.9, 0.8], [0, 1])
    member = one_row([[0, 0, 100, 90], [400, 400, 500, 500]], [0.9, 0.8], [0, 1])
    other = one_row([], [], [])
    stack = Stack.align({"member": member, "other": other}, classes=("cat", "dog"))
    save_box_pictures(tmp_path, stack, truth, ("fused", fused), "member", picture)
    found = read_box_pictures(tmp_path)
    assert found.layers == ("truth", "fused", "member", "other")
    assert found.cuts["other"] == np.inf
    (only,) = found.pictures
    assert only.pixels_HWC.shape == (320, 320, 3)
    layers = {name: only.boxes_K8[only.boxes_K8[:, 0] == n] for n, name in enumerate(found.layers)}
    assert layers["truth"][:, 7].tolist() == [RIGHT, WRONG, ASIDE]
    assert layers["fused"][:, 7].tolist() == [RIGHT]  # the other, aside, lies below the cut
    assert not len(layers["other"])
    np.testing.assert_allclose(layers["fused"][0, 1:5] * SIDE, [0, 0, 100, 90])


def test_rows_are_those_of_gain_loss_and_disagreement(tmp_path):
    found = read_box_pictures(boxes_run(tmp_path / "run", rows=30))
    reasons = [one.reason for one in found.pictures]
    assert reasons[:3] == ["gain"] * 3 and reasons == sorted(
        reasons, key=("gain", "loss", "disputed").index
    )
    assert len({one.id for one in found.pictures}) == len(reasons)

    def rights(one, layer):
        return (one.boxes_K8[one.boxes_K8[:, 0] == layer][:, 7] == RIGHT).sum()

    best = [one for one in found.pictures if one.reason == "gain"]
    assert all(rights(one, 1) >= rights(one, 2) for one in best)
    assert any(rights(one, 1) > rights(one, 2) for one in best)


def test_equal_predictions_have_no_pictures(tmp_path):
    pool, truth = box_pool(1, 5)
    stack = Stack.align({"one": pool.parts[0], "two": pool.parts[0]}, classes=pool.classes)
    save_box_pictures(tmp_path, stack, truth, ("fused", pool.parts[0]), "one", picture)
    assert read_box_pictures(tmp_path) is None


def test_pictures_of_a_run_before_do_not_stay(tmp_path):
    folder = boxes_run(tmp_path / "run")
    assert read_box_pictures(folder) is not None
    pool, truth = box_pool(1, 5)
    stack = Stack.align({"one": pool.parts[0]}, classes=pool.classes)
    save_box_pictures(folder, stack, truth, ("fused", pool.parts[0]), "one", picture)
    assert read_box_pictures(folder) is None


def test_names_in_pictures_are_only_text(tmp_path):
    pool, truth = box_pool(2, 6)
    names = (NASTY, 'a"b', "c&d")
    truth = dataclasses.replace(truth, classes=names)
    parts = {
        f"{NASTY[:8]}{n}": dataclasses.replace(part, classes=names)
        for n, part in enumerate(pool.parts)
    }
    stack = Stack.align(parts, classes=names)
    write_results(tmp_path, "object_detection", "coco_map", parts, truth)
    chosen = (stack.members[1], stack.parts[1])
    save_box_pictures(
        tmp_path, stack.select(stack.members[:1]), truth, chosen, stack.members[0], picture
    )
    html = render(gather(tmp_path))
    assert "boxes" in shown(html) and NASTY not in html and html.count("<script") == 1


def test_curves_are_those_of_the_results(tmp_path):
    folder = boxes_run(tmp_path / "run")
    contents = gather(folder)
    found = section("precision_recall", folder)
    assert [row["name"] for row in found["rows"]][:2] == ["weighted_boxes", "member0"]
    curve = contents.precision_recall["precision"]["weighted_boxes"]
    assert len(curve) == 101 and curve == sorted(curve, reverse=True)
    assert found["rows"][0]["cells"][2] == f"{100 * curve[50]:.1f}"
    x, y = np.array(found["chosen"]).T
    np.testing.assert_allclose(
        np.interp(np.arange(101), x, 100 - y), np.array(curve) * 100, atol=0.01
    )
    area = contents.precision_recall["average_precision"]["weighted_boxes"]
    assert np.mean(curve) == pytest.approx(area, abs=1e-4)


def test_few_objects_are_marked_and_gains_come_with_intervals(tmp_path):
    folder = boxes_run(tmp_path / "run", rows=12)
    for name in ("per_class", "sizes"):
        table = section(name, folder)["table"]
        assert table["few_objects"] == 30
        for row in table["rows"]:
            assert row["few"] == (row["counted"] < 30)
            assert (row["gain"] == "–") == (row["at"] is None)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", render(gather(folder))))
    assert "Marked as few: below 30 objects" in text


def test_a_chosen_member_gains_nothing_over_itself(tmp_path):
    stack, truth = box_pool(2, 10)
    parts = dict(zip(stack.members, stack.parts, strict=True))
    folder = write_results(tmp_path, "object_detection", "coco_map", parts, truth)
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"chosen": "member1"', '"chosen": "member0"'))
    for name in ("per_class", "sizes"):
        table = section(name, folder)["table"]
        assert not table["paired"] and table["names"] == ["member0"]
    assert section("precision_recall", folder)["best"] == []
    assert "Gain, points" not in render(gather(folder))


@pytest.mark.parametrize("images", [True, False])
def test_a_segmentation_run_shows_masks_and_where_images_are_these(tmp_path, images):
    folder = masks_run(tmp_path / "run", images=images)
    html = render(gather(folder))
    assert {"masks", "per_class"} <= shown(html) and "boxes" not in shown(html)
    found = read_mask_pictures(folder)
    assert set(found.images) == (set(found.pictures) if images else set())
    content = section("masks", folder)
    assert all((row["image"] is not None) == images for row in content["rows"])
    words = {one["name"]: one["words"] for one in content["rows"][0]["pictures"]}
    assert re.fullmatch(r"(\w+ \d+ %(, )?)+", words["truth"])
    assert re.fullmatch(r"on \d+ % of the pixels", words["members that differ"])
    table = section("per_class", folder)["table"]
    assert {row["name"] for row in table["rows"]} == {"road", "sky", "tree"}
    assert all(len(row["ends"]) == 2 and not row["few"] for row in table["rows"])
