# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from fusetune.data.datasets.folder import Folder
from fusetune.errors import DataError


def test_classes_are_folders_and_ids_are_paths(class_folder, image_file):
    deep = class_folder / "dog" / "old" / "x.JPG"
    deep.parent.mkdir()
    deep.write_bytes(image_file(99, kind="JPEG"))
    (class_folder / "empty").mkdir()
    (class_folder / "dog" / "notes.txt").write_text("no image")
    (class_folder / "dog" / ".hidden.png").write_bytes(b"")
    hidden = class_folder / ".cache" / "y.png"
    hidden.parent.mkdir()
    hidden.write_bytes(b"")
    rows = Folder(path=class_folder).read()
    assert len(rows) == 31
    assert rows.ids.tolist() == sorted(rows.ids.tolist())
    assert set(rows.labels.tolist()) == {"cat", "dog", "eel"}
    row = rows.ids.tolist().index("dog/old/x.JPG")
    assert rows.labels[row] == "dog"
    assert rows.images.encoded(row) == deep.read_bytes()


def test_a_folder_of_loose_images_has_no_labels(class_folder):
    rows = Folder(path=class_folder / "eel").read()
    assert rows.labels is None
    assert rows.ids.tolist() == [f"{number:02d}.png" for number in range(2, 30, 3)]


def test_labels_can_be_left_out(class_folder, image_file):
    (class_folder / "loose.png").write_bytes(image_file())
    rows = Folder(path=class_folder, labels=False).read()
    assert rows.labels is None and len(rows) == 31


def test_one_image_file(class_folder):
    rows = Folder(path=class_folder / "cat" / "00.png").read()
    assert rows.ids.tolist() == ["00.png"] and rows.labels is None


def test_linked_class_folders_are_followed(class_folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "feline").symlink_to(class_folder / "cat")
    (linked / "other").symlink_to(class_folder / "eel")
    assert set(Folder(path=linked).read().labels.tolist()) == {"feline", "other"}


def test_a_path_that_is_not_there_names_what_is(class_folder):
    with pytest.raises(
        DataError, match=r"data.path is '.*/pets/fish', which does not exist.*'cat', 'dog', 'eel'"
    ):
        Folder(path=class_folder / "fish").read()
    (class_folder / "none").mkdir()
    with pytest.raises(DataError, match=r"The folder '.*/none' is empty"):
        Folder(path=class_folder / "none" / "x" / "y").read()


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no images; expected files that end in .avif, .bmp"):
        Folder(path=tmp_path).read()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no image")
    with pytest.raises(DataError, match=r"data.path is the file '.*a.txt'.*source table or arrays"):
        Folder(path=tmp_path / "a.txt").read()


def test_loose_images_beside_class_folders_are_named(class_folder, image_file):
    (class_folder / "loose.png").write_bytes(image_file())
    with pytest.raises(
        DataError, match=r"beside the class folders of '.*' there is 1 image: 'loose.png'"
    ):
        Folder(path=class_folder).read()


def test_folders_of_splits_are_no_classes(class_folder):
    for name in ("train", "val"):
        (class_folder.parent / "both" / name).mkdir(parents=True)
    class_folder.rename(class_folder.parent / "both" / "train" / "x")
    shifted = class_folder.parent / "both" / "val" / "x.png"
    shifted.write_bytes((class_folder.parent / "both/train/x/cat/00.png").read_bytes())
    with pytest.raises(
        DataError,
        match=r"'train', 'val', which are splits.*train: \{source: folder, path: both/train\}",
    ):
        Folder(path=class_folder.parent / "both").read()


def test_a_name_that_is_no_text_is_refused(tmp_path, image_file):
    folder = tmp_path / "cat"
    folder.mkdir()
    try:
        with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
            file.write(image_file())
    except OSError:
        pytest.skip("this file system takes only text for names")
    with pytest.raises(DataError, match=r"'cat/\\udcff.png' in .* is no UTF-8 text"):
        Folder(path=tmp_path).read()
