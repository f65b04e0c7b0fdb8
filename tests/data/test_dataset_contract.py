# SPDX-License-Identifier: Apache-2.0
"""What every data set source has to do, whichever it is."""

import dataclasses
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusetune.data.dataset import Dataset
from fusetune.errors import DataError, FusetuneError
from fusetune.plugins import discover, plugin_names
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.segmentation.label_maps import LabelMaps

SOURCES = plugin_names(Dataset)
TRUTH = {"boxes": Objects, "scenes": Objects, "masks": LabelMaps}
"""Of sources that know no class of an image."""


def labels_of(folder: Path) -> Path:
    """YOLO labels of the images in a folder."""
    labels = folder.parent / "labels"
    labels.mkdir(exist_ok=True)
    for path in folder.rglob("*.png"):
        (labels / f"{path.stem}.txt").write_text("0 0.5 0.5 0.5 0.5")
    return labels


def masks_of(folder: Path) -> Path:
    """Label maps of the images in a folder: one class above another."""
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            width, height = image.size
        labels = np.arange(height)[:, None].repeat(width, axis=1) > height // 2
        mask = folder.parent / "masks" / path.relative_to(folder)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(mask)
    return folder.parent / "masks"


@pytest.fixture
def example(class_folder, image_file):
    """A small data set of every source: a new source needs a line here."""
    labels = np.arange(12) % 3
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    np.savez(class_folder.parent / "rows.npz", images=pixels, labels=labels)
    lines = [
        f"pets/{p.relative_to(class_folder)},{p.parent.name}" for p in class_folder.rglob("*.png")
    ]
    (class_folder.parent / "rows.csv").write_text("\n".join(["image,label", *lines]))
    options = {
        "boxes": {"images": class_folder, "annotations": labels_of(class_folder)},
        "scenes": {"num_images": 3, "size": 32},
        "masks": {
            "images": class_folder,
            "masks": masks_of(class_folder),
            "names": ("sky", "road"),
        },
        "arrays": {"path": class_folder.parent / "rows.npz"},
        "digits": {},
        "folder": {"path": class_folder},
        "table": {"path": class_folder.parent / "rows.csv"},
        "torchvision": {"dataset": "ImageFolder", "root": class_folder},
    }
    return lambda name: discover(Dataset)[name](**options[name])


@pytest.mark.parametrize("name", SOURCES)
def test_rows_are_whole_and_the_same_every_time(name, example):
    if name == "torchvision":
        pytest.importorskip("torchvision")
    data = example(name)
    assert data.name == name
    if name in TRUTH:
        rows, again = (data.read_as(TRUTH[name]) for _ in range(2))
        rows, again = (replace(r, labels=r.truth.strata_N.astype(str)) for r in (rows, again))
        assert rows.truth.ids.tolist() == rows.ids.tolist()
    else:
        rows, again = data.read(), data.read()
    assert len(rows) == len(rows.images) == len(rows.labels) > 0
    assert len(np.unique(rows.ids)) == len(rows) and (rows.ids != "").all()
    assert rows.ids.dtype.kind == rows.labels.dtype.kind == "U"
    named = name not in TRUTH and rows.classes
    assert not named or set(rows.labels.tolist()) <= set(rows.classes)
    assert rows.ids.tolist() == again.ids.tolist() and rows.labels.tolist() == again.labels.tolist()
    assert rows.images.digests() == again.images.digests()
    shape = rows.images.pixels(0).shape
    assert len(shape) == 3 and shape[2] == 3 and rows.images.pixels(0).dtype == np.uint8
    few = rows.take(np.array([2, 0]))
    assert few.ids.tolist() == rows.ids[[2, 0]].tolist()
    assert few.labels.tolist() == rows.labels[[2, 0]].tolist()
    assert few.images.digests() == [rows.images.digests()[row] for row in (2, 0)]


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_frozen_keyword_only_dataclasses_with_documented_fields(name):
    source = discover(Dataset)[name]
    assert dataclasses.is_dataclass(source) and source.__dataclass_params__.frozen
    documented = source.__doc__.partition("Args:")[2]
    for field in dataclasses.fields(source):
        assert field.kw_only
        assert f"{field.name}:" in documented


@pytest.mark.parametrize("name", SOURCES)
def test_a_path_that_is_not_there_is_an_error_for_people(name, tmp_path):
    source = discover(Dataset)[name]
    hints = typing.get_type_hints(source)
    paths = [field.name for field in dataclasses.fields(source) if hints[field.name] is Path]
    for path in paths:
        extra = {"dataset": "CIFAR10", "download": False} if name == "torchvision" else {}
        others = {other: tmp_path for other in paths if other != path}
        with pytest.raises(DataError, match="none") as caught:
            source(**{path: tmp_path / "none"}, **others, **extra).read()
        assert isinstance(caught.value, FusetuneError) and caught.value.exit_code == 2
    assert paths or name in ("digits", "scenes")
