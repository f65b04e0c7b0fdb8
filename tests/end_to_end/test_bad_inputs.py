# SPDX-License-Identifier: Apache-2.0
"""What people get wrong ends with one clean paragraph that names it, and leaves nothing behind."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import SHORT, fusetune

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def png(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def photos(folder: Path) -> Path:
    """Two classes of twenty images each."""
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            (folder / "photos" / name / f"{i:02}.png").write_bytes(png())
    return folder / "photos"


def on_photos(folder: Path) -> str:
    photos(folder)
    roles = "roles: {validation: 0.2, holdout: 0.2, test: 0.2}"
    return f"task: image_classification\ndata: {{source: folder, path: photos, {roles}}}\nmembers: [mini:vgg]\n"


def edited(old: str, new: str) -> Callable[[Path], str]:
    assert old in SHORT
    return lambda folder: SHORT.replace(old, new)


def truncated_image(folder: Path) -> str:
    recipe = on_photos(folder)
    damaged = folder / "photos" / "cat" / "07.png"
    damaged.write_bytes(png(64)[:3000])
    return recipe


def same_image_twice(folder: Path) -> str:
    recipe = on_photos(folder)
    content = png()
    for i in range(20):
        (folder / "photos" / "dog" / f"{i:02}.png").write_bytes(content)
    return recipe


def repeated_ids(folder: Path) -> str:
    rows = "".join(f"img.png,{label},{i % 30}\n" for i, label in enumerate(["a", "b"] * 20))
    (folder / "table.csv").write_text("image,label,id\n" + rows)
    (folder / "img.png").write_bytes(png())
    return (
        "task: image_classification\ndata: {source: table, path: table.csv}\nmembers: [mini:vgg]\n"
    )


def missing_label(folder: Path) -> str:
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(["a", "b"] * 19 + ["", "b"]))
    (folder / "table.csv").write_text("image,label\n" + rows)
    for i in range(40):
        (folder / f"{i}.png").write_bytes(png())
    return (
        "task: image_classification\ndata: {source: table, path: table.csv}\nmembers: [mini:vgg]\n"
    )


def arrays_of(folder: Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez(folder / "data.npz", images=images, labels=labels)
    return (
        "task: image_classification\ndata: {source: arrays, path: data.npz}\nmembers: [mini:vgg]\n"
    )


def wrong_shape(folder: Path) -> str:
    return arrays_of(folder, np.zeros((40, 8, 8, 5), np.uint8), np.arange(40) % 2)


def too_few_labels(folder: Path) -> str:
    return arrays_of(folder, RNG.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(39) % 2)


def nan_pixels(folder: Path) -> str:
    images = RNG.random((40, 8, 8, 3)).astype(np.float32)
    images[7, 0, 0, 0] = np.nan
    return arrays_of(folder, images, np.arange(40) % 2)


def negative_box(folder: Path) -> str:
    (folder / "images").mkdir()
    images, boxes = [], []
    for i in range(20):
        (folder / "images" / f"{i}.png").write_bytes(png(32))
        images.append({"id": i, "file_name": f"{i}.png", "width": 32, "height": 32})
        side = -8 if i == 13 else 8
        boxes.append({"id": 100 + i, "image_id": i, "category_id": 1, "bbox": [9, 9, side, 8]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "boxes.json").write_text(json.dumps(content))
    return (
        "task: object_detection\nmembers: [mini_detection:resnet]\n"
        "data: {source: boxes, images: images, annotations: boxes.json}\n"
    )


def label_map_of_another_size(folder: Path) -> str:
    for name in ("images", "maps"):
        (folder / name).mkdir()
    for i in range(20):
        (folder / "images" / f"{i:02}.png").write_bytes(png(32))
        side = 31 if i == 13 else 32
        labels = RNG.integers(0, 2, (side, 32)).astype(np.uint8)
        Image.fromarray(labels).save(folder / "maps" / f"{i:02}.png")
    return (
        "task: semantic_segmentation\nmembers: [mini_segmentation:resnet_fpn]\n"
        "data: {source: masks, images: images, masks: maps, names: [a, b]}\n"
    )


def weights_of_another_net(folder: Path) -> str:
    import fusetune.members

    vgg = Path(fusetune.members.__file__).parent / "mini_weights" / "vgg.safetensors"
    (folder / "vgg.safetensors").write_bytes(vgg.read_bytes())
    return SHORT.replace(
        "  - mini:resnet", "  - {source: mini, model: resnet, weights: vgg.safetensors}"
    )


def weights_that_are_none(folder: Path) -> str:
    (folder / "text.safetensors").write_text("these are no weights")
    return SHORT.replace(
        "  - mini:resnet", "  - {source: mini, model: resnet, weights: text.safetensors}"
    )


RECIPES: dict[str, tuple[Callable[[Path], str], str, str]] = {
    # name: (writes the recipe, offender that is named, what is said to be done)
    "typo in a key": (edited("epochs: 3", "epohs: 3"), "epohs", "Did you mean 'epochs'?"),
    "typo in a nested key": (edited("{name: adamw, lr:", "{name: adamw, rate:"), "rate", "one of"),
    "key twice": (
        edited("metric: accuracy", "metric: accuracy\nmetric: log_loss"),
        "'metric' twice (line",
        "Remove",
    ),
    "unknown task": (
        edited("image_classification", "image_clasification"),
        "image_clasification",
        "Did you mean",
    ),
    "unknown model": (edited("mini:resnet", "mini:resent"), "resent", "Did you mean 'resnet'?"),
    "unknown source": (edited("mini:resnet", "minni:resnet"), "minni", "Did you mean 'mini'?"),
    "member like a method": (
        edited("  - mini:vgg", "  - {source: mini, model: vgg, name: mean}"),
        "'mean' is the name of a member",
        "Rename",
    ),
    "unknown metric": (
        edited("metric: accuracy", "metric: acuracy"),
        "acuracy",
        "Did you mean 'accuracy'?",
    ),
    "unknown optimizer": (
        edited("adamw", "adamm"),
        "finetune.optimizer.name is 'adamm'",
        "leave it out",
    ),
    "negative epochs": (edited("epochs: 3", "epochs: -3"), "finetune.epochs is -3", "Change it"),
    "text for a number": (
        edited("lr: 2e-3", "lr: fast"),
        "finetune.optimizer.lr is 'fast'",
        "leave it out",
    ),
    "roles above the rows": (edited("test: 300", "test: 30000"), "30,000", "smaller"),
    "share of nothing": (edited("holdout: 120", "holdout: 0"), "roles.holdout is 0", "0.2"),
    "no YAML": (edited("members:", "members: ]"), "no valid YAML in line", "Mend that line"),
    "no members": (lambda folder: SHORT[: SHORT.index("members:")], "no `members:`", "Add"),
    "unset variable": (
        edited("source: digits", "source: ${NO_SUCH_THING}"),
        "NO_SUCH_THING",
        "export",
    ),
    "no such data": (
        lambda folder: (
            "task: image_classification\ndata: {source: folder, path: nowhere}\nmembers: [mini:vgg]\n"
        ),
        "nowhere",
        "path",
    ),
    "truncated image": (truncated_image, "cat/07.png", "."),
    "same image in two roles": (same_image_twice, "dog/", "keep_first"),
    "repeated ids": (repeated_ids, "id", "."),
    "missing label": (missing_label, "label", "."),
    "wrong shape": (wrong_shape, "(40, 8, 8, 5)", "."),
    "too few labels": (too_few_labels, "39", "."),
    "NaN pixels": (nan_pixels, "1 of 40 images (first: row 7)", "Repair"),
    "negative box": (negative_box, "annotation 113 of image '13'", "write repair: true"),
    "label map of another size": (label_map_of_another_size, "maps/13.png", "that were labeled"),
    "weights of another net": (weights_of_another_net, "vgg.safetensors", "."),
    "weights that are none": (weights_that_are_none, "text.safetensors", "."),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    write, offender, remedy = RECIPES[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(write(tmp_path))
    done = fusetune("run", recipe, "--out", tmp_path / "out")
    paragraph = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert offender in paragraph
    assert remedy in paragraph
    assert "; expected " in paragraph
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = fusetune("run", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert not (tmp_path / "out").exists()


def write_predictions(path: Path, rows: list[str], header: str = "id,a,b") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


GOOD = [f"r{i},0.{i % 9 + 1},0.{9 - i % 9}" for i in range(40)]
TARGETS = [f"r{i},{'ab'[i % 2]}" for i in range(40)]

PREDICTIONS: dict[str, tuple[list[str], str, str]] = {
    "NaN": ([*GOOD[:-1], "r39,nan,0.5"], "id,a,b", "'r39'"),
    "negative": ([*GOOD[:-1], "r39,-0.5,1.5"], "id,a,b", "'r39'"),
    "logits": ([*GOOD[:-1], "r39,4.1,-2.0"], "id,a,b", "softmax"),
    "missing rows": (GOOD[:-2], "id,a,b", "2 ids are missing (first: 'r38')"),
    "unknown rows": ([*GOOD, "x,0.5,0.5"], "id,a,b", "'x'"),
    "repeated id": ([*GOOD[:-1], "r0,0.5,0.5"], "id,a,b", "'r0'"),
    "no id column": (GOOD, "name,a,b", "id"),
    "text": ([*GOOD[:-1], "r39,often,0.5"], "id,a,b", "a"),
    "classes without the targets'": (GOOD, "id,c,d", "'c'"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_bad_prediction_file_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    rows, header, offender = PREDICTIONS[name]
    good = write_predictions(tmp_path / "good.csv", GOOD)
    bad = write_predictions(tmp_path / "bad.csv", rows, header)
    targets = write_predictions(tmp_path / "targets.csv", TARGETS, "id,target")
    if name.startswith("classes"):
        good = write_predictions(tmp_path / "good.csv", GOOD, header)
    done = fusetune("fuse", good, bad, "--targets", targets, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert offender in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
