# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import numpy as np
import pytest

from fusetune.data import readable
from fusetune.data.dataset import Rows
from fusetune.data.datasets.digits import Digits
from fusetune.data.datasets.folder import Folder
from fusetune.data.datasets.table import Table
from fusetune.data.inputs import EncodedImages, PixelImages, decode
from fusetune.data.prepare import load_prepared, prepare
from fusetune.data.roles import ROLES, Roles
from fusetune.errors import DataError, UnknownName
from small_rows import png, ready, rows


def test_prepared_rows_are_those_of_the_source():
    source = rows()
    prepared = ready(source)
    assert prepared.ids.tolist() == source.ids.tolist()
    assert prepared.classes == ("a", "b")
    assert sorted(np.concatenate([prepared.rows(role) for role in ROLES])) == list(range(40))
    for role in ROLES:
        targets = prepared.targets(role)
        assert targets.names().tolist() == source.labels[prepared.rows(role)].tolist()
        assert targets.ids.tolist() == source.ids[prepared.rows(role)].tolist()
    assert (prepared.images.pixels(7) == decode(png(7))).all()


def test_the_demo_division_of_digits():
    roles = Roles(train=260, validation=40, holdout=300, test=1197)
    prepared = prepare({"all": Digits(noise=0.2)}, roles)
    sizes = {role: len(prepared.rows(role)) for role in ROLES}
    assert sizes == {"train": 260, "validation": 40, "holdout": 300, "test": 1197}
    assert prepared.classes == tuple("0123456789")


def test_rows_without_a_use_are_left_out():
    prepared = ready(rows(100), limit=40)
    assert len(prepared) == 60 and len(prepared.rows("test")) == 20
    assert len(prepared.images) == 60


def test_images_of_one_size_are_decoded_and_others_stay_encoded(monkeypatch):
    same = ready(rows())
    assert isinstance(same.images, PixelImages)
    odd = rows()
    files = [odd.images.encoded(row) for row in range(39)] + [png(39, size=9)]
    mixed = ready(replace(odd, images=EncodedImages.of(files)))
    assert isinstance(mixed.images, EncodedImages)
    assert mixed.images.pixels(39).shape == (9, 9, 3)
    monkeypatch.setattr(readable, "MOST_PIXEL_BYTES", 40 * 6 * 6 * 3 - 1)
    large = ready(rows())
    assert isinstance(large.images, EncodedImages)
    assert (large.images.pixels(3) == same.images.pixels(3)).all()


def test_saved_and_loaded_rows_are_the_same(tmp_path):
    odd = replace(rows(), images=EncodedImages.of([png(n, size=4 + n % 3) for n in range(40)]))
    for number, source in enumerate((rows(), odd)):
        prepared = ready(source)
        one, two = tmp_path / f"{number}-one", tmp_path / f"{number}-two"
        for folder in (one, two):
            folder.mkdir()
            prepared.save(folder)
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in two.iterdir())
        assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
        loaded = load_prepared(one)
        assert loaded.fingerprint() == prepared.fingerprint()
        assert loaded.classes == prepared.classes and loaded.notes == prepared.notes
        assert isinstance(
            getattr(loaded.images, "pixels_NHW3", getattr(loaded.images, "data", 0)), np.memmap
        )
        assert loaded.targets("test").names().tolist() == prepared.targets("test").names().tolist()


def test_the_fingerprint_tells_contents_apart_and_ignores_paths(class_folder, tmp_path):
    prepared = prepare({"all": Folder(path=class_folder)}, Roles())
    moved = class_folder.rename(tmp_path / "elsewhere")
    assert prepare({"all": Folder(path=moved)}, Roles()).fingerprint() == prepared.fingerprint()
    assert len(prepared.fingerprint()) == 64
    pixels = np.array(prepared.images.pixels_NHW3)
    pixels[5, 0, 0, 0] ^= 1
    ids = prepared.ids.copy()
    ids[0] = "other"
    swapped = prepared.roles_N.copy()
    swapped[[prepared.rows("test")[0], prepared.rows("train")[0]]] = ["train", "test"]
    truth = prepared.truth
    relabeled = truth.labels_N.copy()
    relabeled[0] = 1 - min(relabeled[0], 1)
    others = [
        replace(prepared, images=PixelImages(pixels)),
        replace(prepared, truth=replace(truth, ids=ids)),
        replace(prepared, roles_N=swapped),
        replace(prepared, truth=replace(truth, labels_N=relabeled)),
        replace(prepared, truth=replace(truth, classes=("cat", "dog", "fox"))),
    ]
    assert len({p.fingerprint() for p in [prepared, *others]}) == 6


def test_official_splits_keep_their_rows():
    prepared = ready({"train": rows(40), "test": rows(10, 40)})
    assert prepared.ids[prepared.rows("test")].tolist() == [f"row-{n}" for n in range(40, 50)]
    assert len(prepared.rows("holdout")) == 8 and prepared.notes == ()
    every = {role: rows(10, 10 * n) for n, role in enumerate(ROLES)}
    assert [len(ready(every).rows(role)) for role in ROLES] == [10] * 4


def test_splits_that_share_ids_get_their_name_in_front():
    prepared = ready({"train": rows(40), "test": replace(rows(10, 40), ids=rows(10).ids)})
    assert prepared.ids[[0, -1]].tolist() == ["train/row-0", "test/row-9"]
    assert prepared.notes == ("the splits share ids, so every id has its split's name in front",)


def test_a_role_column_decides():
    column = np.array(["test", "validation", "holdout", "train"] * 10)
    prepared = ready(replace(rows(num_classes=3), roles=column))
    assert prepared.roles_N.tolist() == column.tolist()
    partly = np.where(column == "test", "test", "")
    prepared = ready(replace(rows(num_classes=3), roles=partly))
    assert (prepared.roles_N[column == "test"] == "test").all()
    assert len(prepared.rows("test")) == 10 and len(prepared.rows("holdout")) == 6


def test_classes_keep_the_order_of_the_source_and_numbers_theirs():
    assert ready(replace(rows(), classes=("b", "a"))).classes == ("b", "a")
    numbers = np.array([str(2 + n % 10) for n in range(40)])
    assert ready(replace(rows(), labels=numbers)).classes == tuple(str(n) for n in range(2, 12))


def test_an_unreadable_image_is_named():
    files = [png(number) for number in range(40)]
    files[3], files[17] = files[3][:-30], b"text"
    with pytest.raises(
        DataError, match=r"2 of 40 images cannot be read: 'row-3', 'row-17' \('row-3'"
    ):
        ready(replace(rows(), images=EncodedImages.of(files)))
    files[0] = b""
    with pytest.raises(DataError, match=r"3 of 40 images cannot be read: 'row-0'.*empty file"):
        ready(replace(rows(), images=EncodedImages.of(files)))


def test_a_truncated_file_of_a_folder_is_named(class_folder):
    damaged = class_folder / "dog" / "04.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match=r"'dog/04.png'.*Replace these files"):
        prepare({"all": Folder(path=class_folder)}, Roles())


def test_a_file_that_vanished_is_named(class_folder):
    source = Folder(path=class_folder).read()
    (class_folder / "cat" / "00.png").unlink()
    with pytest.raises(
        DataError, match=r"cat/00.png' cannot be read \(No such file.*while fusetune reads"
    ):
        ready(source)


def test_a_missing_label_is_named():
    labels = rows().labels.copy()
    labels[4] = ""
    with pytest.raises(DataError, match=r"the label is missing in 1 row of data: 'row-4'"):
        ready(replace(rows(), labels=labels))
    with pytest.raises(DataError, match="data has no labels"):
        ready(replace(rows(), labels=None))


def test_an_id_that_occurs_twice_is_named():
    ids = rows().ids.copy()
    ids[9] = ids[2]
    with pytest.raises(DataError, match=r"ids occur more than once in data \(1 of them\): 'row-2'"):
        ready(replace(rows(), ids=ids))
    ids[9] = ""
    with pytest.raises(DataError, match=r"the id is empty in 1 row of data"):
        ready(replace(rows(), ids=ids))


def with_copies() -> Rows:
    """Rows 0 and 1 (classes a and b) have the same image, and 2 and 4 (both a) another."""
    files = [png(number) for number in range(40)]
    files[1], files[4] = files[0], files[2]
    return replace(rows(), images=EncodedImages.of(files))


def test_the_same_bytes_in_two_roles_are_named():
    column = np.array(["train", "test", "holdout", "validation", "holdout"] * 8)
    source = replace(with_copies(), roles=column)
    expected = (
        r"the same bytes stand in two roles for 1 image: 'row-0' \(train\) = 'row-1' \(test\); "
        r"1 of them with two labels; expected every image in one role"
    )
    with pytest.raises(DataError, match=expected):  # rows 2 and 4 share a role
        ready(source)


def test_the_same_bytes_in_two_splits_are_found():
    test = rows(10, 39)  # row-39 has the bytes of the last train row
    other = replace(test, ids=np.array([f"t-{n}" for n in range(10)]))
    with pytest.raises(DataError, match=r"'row-39' \(\w+\) = 't-0' \(test\).*keep_first"):
        ready({"train": rows(40), "test": other})
    kept = ready({"train": rows(40), "test": other}, Roles(duplicates="keep_first"))
    assert "row-39" not in kept.ids.tolist() and len(kept.rows("test")) == 10
    assert kept.notes == ("1 copy of other rows' images left out",)


def test_keep_first_drops_later_copies():
    kept = ready(with_copies(), Roles(duplicates="keep_first"))
    assert set(rows().ids.tolist()) - set(kept.ids.tolist()) == {"row-1", "row-4"}
    assert kept.notes == ("2 copies of other rows' images left out",)


def test_an_empty_role_is_named():
    with pytest.raises(DataError, match="the role validation has no rows"):
        ready(rows(4))
    with pytest.raises(DataError, match="the role train has no rows"):
        ready(replace(rows(), roles=np.array(["validation", "holdout", "test", "test"] * 10)))


def test_a_class_without_train_rows_is_named():
    test = replace(rows(10, 40), labels=np.array(["a", "z"] * 5))
    with pytest.raises(
        DataError, match="no train row has the class 'z'; expected train rows of all 3"
    ):
        ready({"train": rows(40), "test": test})
    with pytest.raises(DataError, match="no train row has the class 'c'"):
        ready(replace(rows(), classes=("a", "b", "c")))


def test_one_class_alone_is_refused():
    with pytest.raises(DataError, match="all rows have the label 'a'"):
        ready(rows(num_classes=1))


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="data has no rows"):
        ready(rows(40).take(np.array([], dtype=int)))


def test_parts_other_than_splits_are_refused():
    with pytest.raises(UnknownName, match=r"'tset'.*Did you mean 'test'"):
        ready({"train": rows(), "tset": rows(10, 40)})
    with pytest.raises(DataError, match="no train rows"):
        ready({"test": rows()})


def test_an_unknown_role_in_the_column_is_refused():
    with pytest.raises(
        DataError, match=r"'valdation' \(in the role column\).*Did you mean 'validation'"
    ):
        ready(replace(rows(), roles=np.array(["train", "valdation"] * 20)))


@pytest.mark.data
def test_real_cifar_files(data_folder):
    folder = data_folder / "cifar10"
    splits = {
        "train": Table(path=folder / "jpeg_train.parquet"),
        "test": Table(path=folder / "jpeg_test.parquet"),
    }
    prepared = prepare(splits, Roles(), limit=1000)
    assert {role: len(prepared.rows(role)) for role in ROLES} == {
        "train": 700, "validation": 100, "holdout": 200, "test": 10000,
    }  # fmt: skip
    assert prepared.classes == tuple((folder / "classes.txt").read_text().split())
    assert prepared.images.pixels_NHW3.shape == (11000, 32, 32, 3)
    names = prepared.targets("test").names()
    folders = [name.split("/")[1] for name in prepared.targets("test").ids.tolist()]
    assert names.tolist() == folders


def test_prepared_json_is_readable(tmp_path):
    ready(rows()).save(tmp_path)
    assert json.loads((tmp_path / "prepared.json").read_text()) == {
        "truth": "Targets",
        "classes": ["a", "b"],
        "notes": [],
    }
