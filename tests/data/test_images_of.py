# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from fusetune.data.datasets.digits import Digits
from fusetune.data.images_of import images_from
from fusetune.data.inputs import EncodedImages, PixelImages, decode
from fusetune.errors import DataError, UnknownName

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def pixels(rows):
    return [rows.images.pixels(row) for row in range(len(rows))]


def test_paths(class_folder, tmp_path, image_file):
    (class_folder / "loose.png").write_bytes(image_file())  # labels do not matter here
    rows = images_from(str(class_folder))
    assert len(rows) == 31 and rows.labels is None
    assert rows.ids[0] == "cat/00.png" and rows.ids[-1] == "loose.png"
    one = images_from(class_folder / "cat" / "00.png")
    assert one.ids.tolist() == ["00.png"]
    assert (one.images.pixels(0) == decode(image_file(0))).all()
    columns = {"image": [image_file(1), image_file(2)], "id": ["b", "a"]}
    pq.write_table(pa.table(columns), tmp_path / "new.parquet")
    assert images_from(tmp_path / "new.parquet").ids.tolist() == ["b", "a"]
    np.savez(tmp_path / "new.npz", images=PIXELS)
    assert (images_from(tmp_path / "new.npz").images.pixels_NHW3 == PIXELS).all()


def test_lists_of_paths(class_folder, image_file):
    paths = [class_folder / "eel" / "02.png", str(class_folder / "cat" / "00.png")]
    rows = images_from(paths)
    assert rows.ids.tolist() == [str(path) for path in paths]
    assert (rows.images.pixels(0) == decode(image_file(2))).all()
    with pytest.raises(DataError, match=r"ids occur more than once in the images \(1 of them\)"):
        images_from([paths[0], paths[0]])


@pytest.mark.parametrize("value", [PIXELS, PIXELS / 255, PIXELS.transpose(0, 3, 1, 2)])
def test_arrays(value):
    rows = images_from(value)
    assert (rows.images.pixels_NHW3 == PIXELS).all()
    assert rows.ids.tolist() == ["0", "1", "2", "3"]


def test_one_image():
    for value in (PIXELS[0], Image.fromarray(PIXELS[0]), [PIXELS[0]]):
        rows = images_from(value)
        assert len(rows) == 1 and (rows.images.pixels(0) == PIXELS[0]).all()
    gray = images_from(PIXELS[..., 0])  # (N, H, W)
    assert len(gray) == 4


def test_lists_of_images_of_many_sizes():
    values = [Image.fromarray(PIXELS[0]), PIXELS[1, :4], Image.fromarray(PIXELS[2, ..., 0])]
    rows = images_from(values)
    assert isinstance(rows.images, EncodedImages)
    expected = [PIXELS[0], PIXELS[1, :4], np.repeat(PIXELS[2, ..., :1], 3, axis=2)]
    assert all((got == want).all() for got, want in zip(pixels(rows), expected, strict=True))
    assert isinstance(images_from(list(PIXELS)).images, PixelImages)


def test_frames(image_file):
    table = pa.table({"image": [image_file(1), image_file(2)], "id": ["b", "a"]})
    rows = images_from(table)
    assert rows.ids.tolist() == ["b", "a"]
    assert (rows.images.pixels(1) == decode(image_file(2))).all()
    with pytest.raises(UnknownName, match=r"no column is called 'image' \(in the frame\)"):
        images_from(table.select(["id"]))


def test_rows_of_a_data_set_lose_their_labels():
    rows = images_from(Digits().read())
    assert rows.labels is None and len(rows) == 1797


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (3, "an? int"),
        ([], "list of nothing"),
        ([1, "a"], "list of int and str"),
        (None, "NoneType"),
        ({"a": 1}, "dict"),
    ],
)
def test_other_forms_are_refused(value, given):
    with pytest.raises(DataError, match=rf"the images are given as .*{given}.*a folder of images"):
        images_from(value)


def test_what_cannot_be_read_is_named(class_folder, tmp_path, image_file):
    damaged = class_folder / "cat" / "03.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 of 30 images cannot be read: 'cat/03.png'"):
        images_from(class_folder)
    with (
        Image.open(damaged) as image,
        pytest.raises(DataError, match=r"image 0 cannot be read \(.*truncated"),
    ):
        images_from([image])
    with pytest.raises(DataError, match=r"the input is '.*', which does not exist"):
        images_from(tmp_path / "none")
    with pytest.raises(DataError, match=r"an input is '.*', which does not exist"):
        images_from([damaged, tmp_path / "none.png"])
    with pytest.raises(DataError, match=r"image 1 has the shape \(1, 5, 3\)|image 1 holds floats"):
        images_from([PIXELS[0], PIXELS[0] * 1.0])
