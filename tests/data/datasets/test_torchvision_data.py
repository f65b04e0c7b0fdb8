# SPDX-License-Identifier: Apache-2.0
import struct

import numpy as np
import pytest

pytest.importorskip("torchvision")

from fusetune.data.datasets.torchvision import Torchvision
from fusetune.errors import DataError, InvalidValue, UnknownName

GRAY = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
CODES = np.arange(20, dtype=np.uint8) % 10


@pytest.fixture
def mnist(tmp_path):
    """Twenty images in the files that torchvision's MNIST reads."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in {"train": 20, "t10k": 5}.items():
        head = struct.pack(">iiii", 0x803, count, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(head + GRAY[:count].tobytes())
        head = struct.pack(">ii", 0x801, count)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(head + CODES[:count].tobytes())
    return tmp_path


def test_a_data_set_of_arrays(mnist):
    rows = Torchvision(dataset="MNIST", root=mnist).read()
    assert (rows.images.pixels_NHW3 == GRAY[..., None]).all()
    assert rows.classes[:2] == ("0 - zero", "1 - one")
    assert rows.labels.tolist() == [rows.classes[code] for code in CODES]
    assert rows.ids[:3].tolist() == ["0", "1", "2"]
    assert len(Torchvision(dataset="MNIST", root=mnist, split="test", download=False).read()) == 5


def test_a_data_set_of_files(class_folder):
    rows = Torchvision(dataset="ImageFolder", root=class_folder).read()
    assert rows.classes == ("cat", "dog", "eel") and len(rows) == 30
    assert rows.images.encoded(0) == (class_folder / "cat" / "00.png").read_bytes()
    assert rows.labels.tolist() == ["cat"] * 10 + ["dog"] * 10 + ["eel"] * 10


def test_a_data_set_that_hides_its_files(tmp_path, image_file):
    """Food101's own layout: a list of relative paths for each split, and JPEG files."""
    root = tmp_path / "food-101"
    (root / "meta").mkdir(parents=True)
    import json

    lists = {"train": {"pie": ["pie/1"], "soup": ["soup/2"]}, "test": {"pie": ["pie/3"]}}
    for split, files in lists.items():
        (root / "meta" / f"{split}.json").write_text(json.dumps(files))
        for path in (path for paths in files.values() for path in paths):
            (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "images" / f"{path}.jpg").write_bytes(image_file(int(path[-1]), kind="JPEG"))
    rows = Torchvision(dataset="Food101", root=tmp_path, split="train", download=False).read()
    assert rows.labels.tolist() == ["pie", "soup"]
    assert rows.images.encoded(1) == (root / "images" / "soup" / "2.jpg").read_bytes()


def test_unknown_data_sets_are_refused(tmp_path):
    with pytest.raises(
        UnknownName, match=r"no data set of torchvision is called 'CIFAR1'.*Did you mean 'CIFAR10"
    ):
        Torchvision(dataset="CIFAR1", root=tmp_path).read()
    with pytest.raises(UnknownName, match="'CocoDetection'"):  # needs more than a folder
        Torchvision(dataset="CocoDetection", root=tmp_path).read()


def test_files_that_are_not_there(tmp_path):
    expected = r"the data set CIFAR10 cannot be had in '.*Dataset not found.*torchvision.datasets.CIFAR10\(folder, download=True\)"
    with pytest.raises(DataError, match=expected):
        Torchvision(dataset="CIFAR10", root=tmp_path, download=False).read()


def test_no_network(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(DataError, match=r"the data set CIFAR10 cannot be had .*Connection refused"):
        Torchvision(dataset="CIFAR10", root=tmp_path).read()


@pytest.mark.parametrize(
    ("dataset", "split", "reason"),
    [
        ("CIFAR10", "holdout", "train or test"),
        ("SVHN", "tets", "train"),
        ("ImageFolder", "test", "it has no splits"),
    ],
)
def test_unknown_splits_are_refused(tmp_path, dataset, split, reason):
    with pytest.raises(
        InvalidValue, match=rf"the data set {dataset} has no split '{split}' \(.*{reason}"
    ):
        Torchvision(dataset=dataset, root=tmp_path, split=split, download=False).read()


def test_data_sets_of_other_tasks_are_refused(tmp_path):
    np.save(tmp_path / "unused.npy", GRAY)
    folder = tmp_path / "MovingMNIST"
    folder.mkdir()
    np.save(folder / "mnist_test_seq.npy", GRAY.reshape(20, 1, 28, 28))
    with pytest.raises(DataError, match="MovingMNIST does not keep one class per image"):
        Torchvision(dataset="MovingMNIST", root=tmp_path, download=False).read()
