# SPDX-License-Identifier: Apache-2.0
"""`fusetune fuse` over folders of masks, from files to report and new images; and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fusetune
from fusetune.cli.main import app
from fusetune.metrics.mean_iou import MeanIou
from fusetune.predictions.pool import Reading, read_pool
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.published import link_masks
from fusetune.predictions.segmentation.writing import write_masks
from mask_pools import mask_pool, whole

pytestmark = pytest.mark.slow

METHODS = ["mean", "staple", "weighted_mean"]


def write_map(path, labels, ignored=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(labels < 0, ignored, labels).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three members: half-precision arrays, label maps, and logits of half the size."""
    stack, targets = mask_pool(rows=10, size=(12, 16), noise=1.5)
    for name, labels in zip(targets.ids.tolist(), targets.maps, strict=True):
        shown = labels.read().copy()
        shown[0, :3] = -1
        write_map(tmp_path / "truth" / f"{name}.png", shown)
    (tmp_path / "classes.txt").write_text("\n".join(targets.classes))
    write_masks(tmp_path / "arrays", stack.parts[0])
    for name, array in zip(targets.ids.tolist(), whole(stack.parts[1]), strict=True):
        write_map(tmp_path / "labels" / f"{name}.png", array.argmax(axis=0))
    (tmp_path / "logits").mkdir()
    (tmp_path / "logits" / "classes.txt").write_text("\n".join(targets.classes[::-1]))
    for name, array in zip(targets.ids.tolist(), whole(stack.parts[2]), strict=True):
        np.save(tmp_path / "logits" / f"{name}.npy", np.log(array[::-1, ::2, ::2] + 1e-6) + 3)
    return tmp_path


def members(folder):
    return [folder / name for name in ("arrays", "labels", "logits")]


def refused(folder, match, **told):
    with pytest.raises(fusetune.errors.UsageError, match=match) as caught:
        read_pool(members(folder), folder / "truth", Reading(**told))
    for part in (caught.value.given, caught.value.expected, caught.value.remedy):
        assert part
    return caught.value


def test_folders_are_read_resampled_and_lined_up_by_class_name(folder):
    pool = read_pool(members(folder), folder / "truth", Reading())
    found = [pool.forms[name].form for name in ("arrays", "labels", "logits")]
    assert found == ["probabilities", "labels", "logits"]
    assert pool.stack["logits"].classes == pool.stack.classes[::-1]
    assert {mask.size for part in pool.stack.parts for mask in part.masks} == {(12, 16)}
    assert (pool.truth.targets.maps[0].read()[0, :3] == -1).all()
    assert pool.notes == ("10 masks of logits were resampled to the size of their image.",)
    stack, truth = mask_pool(rows=10, size=(12, 16), noise=1.5)
    for name, like in zip(("arrays", "labels", "logits"), stack.parts, strict=True):
        metric = MeanIou()
        found = metric.value(metric.statistics(pool.stack[name], pool.truth.targets))
        assert found == pytest.approx(metric.value(metric.statistics(like, truth)), abs=0.2)
    np.testing.assert_allclose(whole(pool.stack["arrays"])[0], whole(stack.parts[0])[0], atol=1e-3)


def test_a_run_from_folders_to_report_and_new_images(folder):
    """`auto` blends; the ensemble reads folders of new images and gives the same bits."""
    out = folder / "run"
    run = fusetune.fuse_files(
        members(folder), folder / "truth", out=out, methods=METHODS, metric="mean_iou"
    )
    results = json.loads((out / "results.json").read_text())
    assert results["task"] == "semantic_segmentation" and results["metric"] == "mean_iou"
    assert results["chosen"] == "auto" and results["judged"] == "cross_fitted"
    assert {one["name"] for one in results["fusions"]} == {*METHODS, "auto", "best_member"}
    auto = next(one for one in results["fusions"] if one["name"] == "auto")
    best = max(one["scores"]["test"]["mean_iou"] for one in results["members"])
    assert auto["scores"]["test"]["mean_iou"] > best - 0.02
    assert set(auto["scores"]["test"]) == {"mean_iou", "pixel_accuracy", "mean_dice", "boundary_f1"}
    assert 0 < results["agreement"]["mean"] < 1
    classes = {one["class"]: one for one in results["per_class"]}
    assert set(classes) == {"road", "sky", "tree"}
    assert 0 < classes["sky"]["intersection_over_union"]["auto"] <= 1
    assert (out / "targets" / "test.parquet").is_file()
    page = (out / "report.html").read_text()
    assert "Mean IoU" in page and "IoU of auto" in page and 'id="masks"' in page
    fused = run.predict([str(path) for path in members(folder)])
    assert isinstance(fused, Masks) and fused.classes == ("road", "sky", "tree")
    cli = ["predict", str(out), *map(str, members(folder)), "--out", str(folder / "new")]
    done = CliRunner().invoke(app, cli)
    assert done.exit_code == 0, done.output
    written = np.load(folder / "new" / "image3.npy")
    assert written.dtype == np.float16 and written.shape == (3, 12, 16)
    np.testing.assert_allclose(written, whole(fused)[3], atol=1e-3)
    assert (folder / "new" / "classes.txt").read_text().split() == ["road", "sky", "tree"]
    cli[-1] = str(folder / "new.csv")
    found = CliRunner().invoke(app, cli).exception
    assert isinstance(found, fusetune.errors.UsageError) and found.expected == "a folder"


def test_a_command_judges_on_held_out_images(folder):
    out = folder / "run"
    cli = ["fuse", *map(str, members(folder)), "--targets", str(folder / "truth")]
    cli += ["--out", str(out), "--method", "label_voting", "--holdout", "0.5"]
    done = CliRunner().invoke(app, [*cli, "--ignore-index", "255"])
    assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text())
    assert results["rows"] == {"holdout": 5, "test": 5} and results["chosen"] == "label_voting"
    kept = sorted((out / "predictions" / "ensemble" / "test").glob("*.npy"))
    assert len(kept) == 5


def judged(run):
    results = json.loads((run / "results.json").read_text())
    fusions = {one["name"]: one["scores"]["test"] for one in results["fusions"]}
    return {one["name"]: one["scores"]["test"] for one in results["members"]}, fusions


def test_members_masks_are_shown_as_links_and_can_be_fused_again(folder):
    """Logits of half the size are written at the size of their image; the others' files are linked."""
    out = folder / "run"
    fusetune.fuse_files(members(folder), folder / "truth", out=out, methods=METHODS, report=False)
    shown = [out / "predictions" / name / "test" for name in ("arrays", "labels", "logits")]
    for path, own in zip(shown, members(folder), strict=True):
        files = {one.name: one for one in path.iterdir() if one.suffix != ".txt"}
        assert len(files) == 10
        linked = [one.samefile(own / name) for name, one in files.items()]
        assert set(linked) == {own.name != "logits"}
    written = np.load(shown[2] / "image0.npy")
    assert written.dtype == np.float16 and written.shape == (3, 12, 16)
    assert (shown[2] / "classes.txt").read_text().split() == ["tree", "sky", "road"]
    fusetune.fuse_files(shown, folder / "truth", out=folder / "again", methods=METHODS)
    first, second = judged(out), judged(folder / "again")
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, scores in one.items():
            assert other[name] == pytest.approx(scores, abs=2e-3)
    assert first[0]["arrays"] == second[0]["arrays"] and first[0]["labels"] == second[0]["labels"]


def test_linked_masks_in_color_keep_their_legend(folder):
    for path in (folder / "labels").iterdir():
        numbers = np.asarray(Image.open(path))
        Image.fromarray((numbers[..., None] * [10, 20, 30]).astype(np.uint8)).save(path)
    legend = "road 0 0 0\nsky 10 20 30\ntree 20 40 60\n"
    (folder / "labels" / "classes.txt").write_text(legend)
    pool = read_pool(members(folder), folder / "truth", Reading())
    link_masks(folder / "shown", pool.stack["labels"])
    assert (folder / "shown" / "classes.txt").read_text() == legend
    again = read_pool([folder / "shown"], folder / "truth", Reading())
    for one, other in zip(again.stack.parts[0].masks, pool.stack["labels"].masks, strict=True):
        np.testing.assert_array_equal(one.array(), other.array())


def test_linking_into_the_folder_that_is_read_keeps_the_files(folder):
    pool = read_pool(members(folder), folder / "truth", Reading())
    before = np.load(folder / "arrays" / "image3.npy")
    link_masks(folder / "arrays", pool.stack["arrays"])
    np.testing.assert_array_equal(np.load(folder / "arrays" / "image3.npy"), before)
    assert not [one for one in folder.iterdir() if one.name.startswith(".")]


def test_masks_in_color_need_a_legend_of_colors(folder):
    for path in (folder / "labels").iterdir():
        numbers = np.asarray(Image.open(path))
        Image.fromarray((numbers[..., None] * [10, 20, 30]).astype(np.uint8)).save(path)
    refused(folder, "is an image in color")
    (folder / "labels" / "classes.txt").write_text("road 0 0 0\nsky 10 20 30\ntree, 20, 40, 60\n")
    pool = read_pool(members(folder), folder / "truth", Reading())
    assert set(np.unique(pool.stack["labels"].masks[0].labels.read())) <= {0, 1, 2}
    (folder / "labels" / "classes.txt").write_text("road 0 0 0\nsky 10 20 30\ntree 1 1 1\n")
    refused(folder, r"holds the colors \(20, 40, 60\)|holds the colors '?\(20, 40, 60\)")
    (folder / "labels" / "classes.txt").write_text("road 0 0 0\nsky 10 20 30\ntree\n")
    refused(folder, "gives colors to 2 of 3 classes")


def test_palette_images_are_read_by_their_numbers(folder):
    for path in (folder / "labels").iterdir():
        image = Image.open(path).convert("P")
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        image.putdata(np.asarray(Image.open(path)).ravel().tolist())
        image.save(path)
    pool = read_pool(members(folder), folder / "truth", Reading())
    assert set(np.unique(pool.stack["labels"].masks[0].labels.read())) <= {0, 1, 2}


def test_strange_class_numbers_are_named_or_ignored(folder):
    path = folder / "truth" / "image1.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[2, 3:5] = 7
    Image.fromarray(labels).save(path)
    found = refused(folder, r"image1.png' holds the class numbers '?7'? \(2 pixels\)")
    assert "--repair" in found.remedy and "--ignore-index" in found.remedy
    pool = read_pool(members(folder), folder / "truth", Reading(repair=True))
    assert (pool.truth.targets.maps[1].read()[2, 3:5] == -1).all()
    refused(folder, "holds the class numbers '?255'?", ignore_index=7)


def test_masks_of_another_shape_are_refused_or_stretched(folder):
    np.save(folder / "logits" / "image4.npy", np.zeros((3, 6, 11)))
    refused(folder, r"image4.npy' is of 6 x 11 pixels, and its image of 12 x 16")
    pool = read_pool(members(folder), folder / "truth", Reading(repair=True))
    assert pool.stack["logits"].masks[4].size == (12, 16)


@pytest.mark.parametrize("name", ["arrays/image5.npy", "labels/image5.png", "truth/image5.png"])
def test_files_that_are_cut_short_are_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-40])
    refused(folder, f"{path.name}' cannot be read")


def test_missing_and_strange_images_are_counted(folder):
    shutil.copy(folder / "labels" / "image0.png", folder / "labels" / "extra.png")
    refused(folder, "'labels' predicts 11 rows and others 10; 1 ids belong to no other row")
    assert (
        len(read_pool(members(folder), folder / "truth", Reading(missing="renormalize")).stack)
        == 10
    )
    (folder / "labels" / "image2.png").unlink()
    refused(folder, "1 ids are missing", missing="renormalize")
    shutil.copy(folder / "labels" / "image0.png", folder / "labels" / "image0.bmp")
    refused(folder, "two files for the row 'image0'")


def test_numbers_that_are_no_probabilities_are_named(folder):
    path = folder / "arrays" / "image6.npy"
    array = np.load(path)
    array[:, 4, 5] = [0.5, 0.6, 0.1]
    np.save(path, array)
    refused(folder, "line 4, column 5 of row 'image6'")
    np.save(path, array[:2])
    refused(folder, "image6.npy' holds 2 planes")
    np.save(path, array[0])
    refused(folder, "image6.npy' holds an array of the shape")


def test_other_bad_input_is_refused(folder):
    refused(folder, "--form arrays=scores was given", forms={"arrays": "scores"})
    refused(folder, "--classes names 2 classes", classes=["a", "b"])
    refused(folder, "is an image, and its member's form is logits", forms={"labels": "logits"})
    (folder / "classes.txt").write_text("road\nroad\ntree")
    refused(folder, "are named twice")
    (folder / "classes.txt").unlink()
    refused(folder, "nothing names the classes")
    for path in (folder / "truth").iterdir():
        write_map(path, np.full((12, 16), -1))
    refused(folder, "no pixel in .* has a class", classes=["road", "sky", "tree"])
    shutil.rmtree(folder / "truth")
    (folder / "truth").mkdir()
    refused(folder, "holds no masks", task="semantic_segmentation", classes=["road", "sky"])
    with pytest.raises(fusetune.errors.UsageError, match="for detections or masks"):
        fusetune.fuse_files(members(folder), folder / "truth", memory="1GB")
