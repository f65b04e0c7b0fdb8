# SPDX-License-Identifier: Apache-2.0
"""Images with label maps, every fault that can be in them, and how they are stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusetune.data.datasets.folder import Folder
from fusetune.data.datasets.masks import Masks
from fusetune.data.label_truth import in_memory, resized_maps
from fusetune.data.prepare import load_prepared, prepare
from fusetune.data.roles import Roles
from fusetune.data.stored_truth import contents_of, joined
from fusetune.errors import DataError
from fusetune.predictions.segmentation import masks as kinds
from fusetune.predictions.segmentation.label_maps import LabelMaps

SIZES = {"one": (4, 3), "sub/two": (2, 5)}  # width and height
NAMES = ("sky", "road", "car")
LABELS = {
    "one": np.array([[0, 0, 1, 255], [0, 0, 1, 1], [2, 2, 1, 1]], dtype=np.uint8),
    "sub/two": np.array([[0, 0], [0, 1], [1, 1], [1, 1], [255, 255]], dtype=np.uint8),
}


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of different sizes, and their label maps."""
    for number, (name, size) in enumerate(SIZES.items()):
        save(
            tmp_path / "images" / f"{name}.jpg", Image.new("RGB", size, (number * 90 + 20, 50, 20))
        )
        save(tmp_path / "masks" / f"{name}.png", Image.fromarray(LABELS[name]))
    return tmp_path


def rows_of(folder: Path, **options: Any) -> Any:
    options = {"names": NAMES, **options}
    return Masks(images=folder / "images", masks=folder / "masks", **options).read_as(LabelMaps)


def labels_of(truth: LabelMaps) -> list[list[list[int]]]:
    return [one.read().tolist() for one in truth.maps]


EXPECTED = [np.where(one == 255, -1, one.astype(int)).tolist() for one in LABELS.values()]


def test_label_maps_lie_beside_their_images(folder: Path) -> None:
    rows = rows_of(folder)
    assert rows.ids.tolist() == ["one", "sub/two"] and rows.classes == NAMES
    assert labels_of(rows.truth) == EXPECTED
    assert rows.truth.counts_NC.tolist() == [[4, 5, 2], [3, 5, 0]]
    assert [one.size for one in rows.truth.maps] == [(3, 4), (5, 2)]
    assert [rows.images.pixels(row).shape[:2] for row in range(2)] == [(3, 4), (5, 2)]


def test_palettes_colors_and_arrays_are_read_alike(folder: Path) -> None:
    palette = Image.fromarray(LABELS["one"]).convert("P")
    palette.putdata(LABELS["one"].reshape(-1).tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 250] + [0] * 759)
    save(folder / "masks" / "one.png", palette)
    (folder / "masks" / "sub" / "two.png").unlink()
    np.save(folder / "masks" / "sub" / "two.npy", LABELS["sub/two"].astype(np.int64))
    assert labels_of(rows_of(folder).truth) == EXPECTED
    colors = np.array([[70, 130, 180], [128, 64, 128], [0, 0, 142]], dtype=np.uint8)
    for name, labels in LABELS.items():
        painted = np.where(
            labels[..., None] == 255, 0, colors[np.minimum(labels, 2).astype(int)]
        ).astype(np.uint8)
        (folder / "masks" / f"{name}.npy").unlink(missing_ok=True)
        save(folder / "masks" / f"{name}.png", Image.fromarray(painted))
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(NAMES, colors.tolist(), strict=True)]
    (folder / "masks" / "classes.txt").write_text("\n".join(lines))
    assert labels_of(rows_of(folder, names=None).truth) == EXPECTED


def test_chosen_classes_are_the_only_ones_that_count(folder: Path) -> None:
    rows = rows_of(folder, classes=("car", "sky"))
    assert rows.classes == ("car", "sky")
    assert rows.notes == ("pixels of 'road' are ignored",)
    assert labels_of(rows.truth)[0] == [[1, 1, -1, -1], [1, 1, -1, -1], [0, 0, -1, -1]]
    more = rows_of(folder, names=(*NAMES, "bus"))
    assert more.classes == NAMES and more.notes == ("1 class without a pixel left out: 'bus'",)
    with pytest.raises(DataError, match=r"no class is called 'cat' .in data.classes."):
        rows_of(folder, classes=("cat",))


def damaged(folder: Path) -> None:
    path = folder / "masks" / "one.png"
    path.write_bytes(path.read_bytes()[:40])


def of_another_size(folder: Path) -> None:
    save(folder / "masks" / "one.png", Image.fromarray(LABELS["one"].T.copy()))


def in_color(folder: Path) -> None:
    save(folder / "masks" / "one.png", Image.new("RGB", (4, 3)))


def of_strange_numbers(folder: Path) -> None:
    save(folder / "masks" / "one.png", Image.fromarray(LABELS["one"] + 1))


def lacking(folder: Path) -> None:
    (folder / "masks" / "one.png").unlink()


def without_image(folder: Path) -> None:
    (folder / "images" / "sub" / "two.jpg").unlink()


def twice(folder: Path) -> None:
    save(folder / "images" / "one.png", Image.new("RGB", (4, 3)))


def of_nothing(folder: Path) -> None:
    for name, labels in LABELS.items():
        save(folder / "masks" / f"{name}.png", Image.fromarray(np.full_like(labels, 255)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (damaged, r"one.png' cannot be read"),
        (of_another_size, r"one.png' is of 3 by 4 pixels, and its image of 4 by 3"),
        (in_color, r"one.png' is an image in color.*classes.txt"),
        (of_strange_numbers, r"one.png' holds the class numbers '3' .*write repair: true"),
        (lacking, r"1 image has no label map: 'one'"),
        (without_image, r"1 label map has no image: 'sub/two'"),
        (twice, r"has two images called 'one': one.jpg and one.png"),
        (of_nothing, r"the label maps show 0 classes"),
    ],
)
def test_faults_are_named(folder: Path, fault: Any, message: str) -> None:
    rows_of(folder)
    fault(folder)
    with pytest.raises(DataError, match=message):
        rows_of(folder)


def test_repair_mends_what_can_be_mended(folder: Path) -> None:
    of_strange_numbers(folder)
    without_image(folder)
    rows = rows_of(folder, repair=True)
    assert rows.ids.tolist() == ["one"]
    assert rows.notes[0].startswith("1 image or label maps without the other left out")
    assert labels_of(rows.truth)[0][2] == [-1, -1, 2, 2]
    of_another_size(folder)
    with pytest.raises(DataError, match="3 by 4 pixels"):
        rows_of(folder, repair=True)


def test_names_numbers_and_suffixes_are_asked_for(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nothing names the classes.*give data.names"):
        rows_of(folder, names=None)
    with pytest.raises(DataError, match="holds the class numbers '255'"):
        rows_of(folder, ignore_index=None)
    (folder / "masks" / "one.png").rename(folder / "masks" / "one_labels.png")
    (folder / "masks" / "sub" / "two.png").rename(folder / "masks" / "sub" / "two_labels.png")
    assert labels_of(rows_of(folder, suffix="_labels").truth) == EXPECTED


def test_other_tasks_and_sources_say_where_to_go(folder: Path) -> None:
    source = Masks(images=folder / "images", masks=folder / "masks", names=NAMES)
    with pytest.raises(DataError, match=r"gives a class for every pixel.*semantic_segmentation"):
        source.read()
    with pytest.raises(DataError, match="Use the source masks, with images and masks"):
        Folder(path=folder / "images").read_as(LabelMaps)


def test_label_maps_are_stored_and_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for row in range(12):
        save(
            tmp_path / "images" / f"{row}.png",
            Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)),
        )
        save(
            tmp_path / "masks" / f"{row}.png",
            Image.fromarray(random.integers(0, 3, (6, 8), dtype=np.uint8)),
        )
    source = Masks(images=tmp_path / "images", masks=tmp_path / "masks", names=NAMES)
    roles = Roles(validation=2, holdout=3, test=2)
    prepared = prepare({"all": source}, roles, kind=kinds.Masks)
    folder = tmp_path / "stored"
    folder.mkdir()
    prepared.save(folder)
    loaded = load_prepared(folder)
    assert loaded.fingerprint() == prepared.fingerprint() and loaded.classes == NAMES
    assert labels_of(loaded.truth) == labels_of(prepared.truth)
    assert loaded.truth.counts_NC.tolist() == prepared.truth.counts_NC.tolist()
    test = loaded.targets("test")
    assert len(test) == 2 and test.counts_NC.sum() == 2 * 48
    save(
        tmp_path / "masks" / "3.png",
        Image.fromarray(random.integers(0, 3, (6, 8), dtype=np.uint8)),
    )
    assert prepare({"all": source}, roles, kind=kinds.Masks).fingerprint() != prepared.fingerprint()


def test_a_role_whose_pixels_are_all_ignored_is_refused(tmp_path: Path) -> None:
    for row in range(6):
        save(tmp_path / "images" / f"{row}.png", Image.new("RGB", (4, 4), (row, 1, 2)))
        labels = np.full((4, 4), 255 if row == 5 else 0, dtype=np.uint8)
        save(tmp_path / "masks" / f"{row}.png", Image.fromarray(labels))
    save(tmp_path / "last" / "5.png", Image.new("RGB", (4, 4), (5, 1, 2)))
    save(tmp_path / "last_masks" / "5.png", Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)))
    (tmp_path / "images" / "5.png").unlink()
    (tmp_path / "masks" / "5.png").unlink()
    names = ("ground",)
    train = Masks(images=tmp_path / "images", masks=tmp_path / "masks", names=names)
    stored = train.read_as(LabelMaps)
    assert stored.truth.counts_NC.tolist() == [[16]] * 5
    last = Masks(images=tmp_path / "last", masks=tmp_path / "last_masks", names=names)
    with pytest.raises(DataError, match="the label maps show 0 classes"):
        prepare({"train": train, "test": last}, Roles(validation=1, holdout=1), kind=kinds.Masks)


def test_splits_with_other_classes_are_joined_by_name() -> None:
    one = LabelMaps.from_arrays(["a"], ("sky", "road"), [np.array([[0, 1, -1]])])
    other = LabelMaps.from_arrays(["b"], ("car", "sky"), [np.array([[0, 1]])])
    both = joined([one, other], np.array(["x", "y"]))
    assert isinstance(both, LabelMaps) and both.classes == ("sky", "road", "car")
    assert labels_of(both) == [[[0, 1, -1]], [[2, 0]]]
    assert both.counts_NC.tolist() == [[1, 1, 0], [1, 0, 1]]
    assert len(set(contents_of(both).tolist())) == 2
    assert labels_of(in_memory(one, ("road",))) == [[[-1, 0, -1]]]


def test_resized_label_maps_take_the_class_at_each_pixels_center() -> None:
    truth = LabelMaps.from_arrays(["a"], ("x", "y"), [np.array([[0, 0, 1, 1], [-1, -1, 0, 0]])])
    assert labels_of(resized_maps(truth, 2)) == [[[0, 1], [-1, 0]]]
    assert labels_of(resized_maps(truth, 4))[0][1] == [0, 0, 1, 1]
