# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.data.datasets.arrays import Arrays
from fusetune.errors import DataError, UnknownName

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 10, 0, 1])


def write(folder, **arrays):
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (PIXELS[..., 0], np.repeat(PIXELS[..., :1], 3, axis=3)),
        (PIXELS[..., :1], np.repeat(PIXELS[..., :1], 3, axis=3)),
        (PIXELS[:, None, :, :, 0], np.repeat(PIXELS[..., :1], 3, axis=3)),
        (PIXELS / 255, PIXELS),
        ((PIXELS / 255).astype(np.float32), PIXELS),
        (PIXELS[:, :3], PIXELS[:, :3]),  # 3 rows of pixels: channels are last where both fit
    ],
)
def test_layouts(tmp_path, images, expected):
    rows = Arrays(path=write(tmp_path, images=images, labels=LABELS)).read()
    assert (rows.images.pixels_NHW3 == expected).all()
    assert rows.images.pixels_NHW3.shape == expected.shape
    assert rows.labels.tolist() == ["0", "1", "10", "0", "1"]
    assert rows.ids.tolist() == ["0", "1", "2", "3", "4"]


def test_ids_and_classes(tmp_path):
    names = np.array(list("abcdefghijk"))
    path = write(
        tmp_path, images=PIXELS, labels=LABELS[:, None], ids=np.arange(7, 12), classes=names
    )
    rows = Arrays(path=path).read()
    assert rows.ids.tolist() == ["7", "8", "9", "10", "11"]
    assert rows.labels.tolist() == ["a", "b", "k", "a", "b"] and rows.classes == tuple(
        "abcdefghijk"
    )
    rows = Arrays(path=path, classes=tuple("ABCDEFGHIJK")).read()
    assert rows.labels.tolist() == ["A", "B", "K", "A", "B"]


def test_names_as_labels(tmp_path):
    for names in (np.array(list("xyxyx")), np.array([b"x", b"y", b"x", b"y", b"x"])):
        rows = Arrays(path=write(tmp_path, images=PIXELS, labels=names)).read()
        assert rows.labels.tolist() == list("xyxyx")


def test_arrays_by_other_names(tmp_path):
    path = write(tmp_path, x_test=PIXELS, y_test=LABELS, x_train=PIXELS[:2], y_train=LABELS[:2])
    assert len(Arrays(path=path, images="x_train", labels="y_train").read()) == 2
    assert Arrays(path=path, images="x_test", labels=None).read().labels is None
    with pytest.raises(
        UnknownName, match=r"no array is called 'images' \(in .*expected one of x_test"
    ):
        Arrays(path=path).read()


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (PIXELS.astype(np.int64), "'images' in '.*rows.npz' holds int64 numbers; expected uint8"),
        (PIXELS > 9, "holds bool numbers"),
        (PIXELS.astype(np.float64), r"holds floats from 0 to 255; expected floats from 0"),
        (PIXELS / 127.5 - 1, r"holds floats from -1 to 1; .*Undo the normalization"),
        (
            np.where(PIXELS > 250, np.nan, 0.5),
            "holds NaN or infinity in 2 of 5 images .first: row 2.",
        ),
        (PIXELS[0, 0], r"has the shape \(4, 3\); expected \(N, H, W, 3\)"),
        (PIXELS[..., :2], r"has the shape \(5, 6, 4, 2\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, images, problem):
    with pytest.raises(DataError, match=problem):
        Arrays(path=write(tmp_path, images=images, labels=LABELS)).read()


def test_columns_of_another_length_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'labels' in '.*' has the shape \(4,\); expected \(5,\)"):
        Arrays(path=write(tmp_path, images=PIXELS, labels=LABELS[:4])).read()
    with pytest.raises(DataError, match=r"\(5, 3\); .*not one-hot rows"):
        Arrays(path=write(tmp_path, images=PIXELS, labels=np.eye(3)[LABELS % 3])).read()
    with pytest.raises(DataError, match=r"'ids' in .*one id per image"):
        Arrays(path=write(tmp_path, images=PIXELS, labels=LABELS, ids=np.arange(3))).read()


def test_files_that_are_no_archives_are_refused(tmp_path):
    whole = write(tmp_path, images=PIXELS, labels=LABELS)
    content = whole.read_bytes()
    np.save(tmp_path / "rows.npy", PIXELS)
    for name, damaged in {
        "a.npz": b"text",
        "b.npz": b"",
        "c.npz": content[: len(content) // 2],
    }.items():
        (tmp_path / name).write_bytes(damaged)
    for name in ("a.npz", "b.npz", "c.npz", "rows.npy"):
        with pytest.raises(
            DataError, match=rf"the file '.*{name}' cannot be read \(it is no archive"
        ):
            Arrays(path=tmp_path / name).read()
    with pytest.raises(DataError, match=r"cannot be read \(it holds Python objects\)"):
        Arrays(
            path=write(tmp_path, images=PIXELS, labels=np.array(["a", 1, 2, 3, 4], dtype=object))
        ).read()
    with pytest.raises(DataError, match="which does not exist"):
        Arrays(path=tmp_path / "none.npz").read()


@pytest.mark.data
def test_real_archive(data_folder):
    rows = Arrays(path=data_folder / "cifar10" / "exact_train.npz").read()
    assert rows.images.pixels_NHW3.shape == (5085, 32, 32, 3)
    assert set(rows.labels.tolist()) == set(rows.classes) and rows.classes[3] == "cat"
