# SPDX-License-Identifier: Apache-2.0
"""Numbers and sets of labels from tables, through reading, roles and storing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusetune.data.datasets.digits import Digits
from fusetune.data.datasets.table import Table
from fusetune.data.prepare import load_prepared, prepare
from fusetune.data.roles import Roles
from fusetune.errors import DataError
from fusetune.predictions.kinds import Marginals, Values
from fusetune.predictions.targets import LabelSets, Numbers

NUM_ROWS = 40


@pytest.fixture
def images(tmp_path) -> list[str]:
    """Paths of different small images."""
    from PIL import Image

    names = []
    for number in range(NUM_ROWS):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        names.append(f"{number}.png")
    return names


def parquet(folder: Path, columns: dict, name: str = "rows.parquet") -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def csv(folder: Path, columns: dict[str, list[str]]) -> Path:
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def test_numbers_of_one_or_several_columns(tmp_path, images):
    prices = [float(n) * 1.5 for n in range(NUM_ROWS)]
    path = parquet(tmp_path, {"image": images, "price": prices, "age": list(range(NUM_ROWS))})
    one = Table(path=path, label="price").read_as(Numbers)
    assert one.labels is None
    assert one.truth.names == ("price",)
    assert one.truth.values_ND[:, 0].tolist() == prices
    both = Table(path=path, label=("age", "price"), id="image").read_as(Numbers)
    assert both.truth.names == ("age", "price")
    assert both.truth.values_ND[7].tolist() == [7.0, 10.5]
    assert both.take(np.array([7, 3])).truth.ids.tolist() == ["7.png", "3.png"]


def test_numbers_of_a_csv_file_keep_their_digits(tmp_path, images):
    path = csv(tmp_path, {"image": images, "x": [f"{n}.123456789e-3" for n in range(NUM_ROWS)]})
    assert Table(path=path, label="x").read_as(Numbers).truth.values_ND[2, 0] == 2.123456789e-3


def test_label_sets_of_lists_text_and_marks(tmp_path, images):
    tags = [["sea"] * (n % 2) + ["sun", "sea"][: n % 3 // 2] for n in range(NUM_ROWS)]
    expected = np.array([["sea" in row, "sun" in row] for row in tags])
    listed = parquet(tmp_path, {"image": images, "tags": tags})
    text = csv(tmp_path, {"image": images, "tags": ["; ".join(row) for row in tags]})
    columns = {"sea": expected[:, 0].tolist(), "sun": expected[:, 1].astype(int).tolist()}
    marked = parquet(tmp_path, {"image": images, **columns}, "marked.parquet")
    codes = [[["sea", "sun"].index(tag) for tag in row] for row in tags]
    coded = parquet(tmp_path, {"image": images, "tags": codes}, "coded.parquet")
    for table in (
        Table(path=listed, label="tags"),
        Table(path=text, label="tags"),
        Table(path=marked, label=("sea", "sun")),
        Table(path=coded, label="tags", classes=("sea", "sun")),
    ):
        truth = table.read_as(LabelSets).truth
        assert truth.classes == ("sea", "sun")
        np.testing.assert_array_equal(truth.present_NC, expected)


@pytest.mark.parametrize(
    ("columns", "label", "truth", "message"),
    [
        ({"x": [1.0] * 39 + [None]}, "x", Numbers, "'x' is empty in row '39'; expected a finite"),
        ({"x": [1.0] * 39 + [float("nan")]}, "x", Numbers, "holds nan in row '39'; expected a fin"),
        ({"x": ["1"] * 39 + ["many"]}, "x", Numbers, "'x' holds 'many' in row '39'"),
        ({"x": [True] * 40}, "x", Numbers, "holds True in row '0'; expected a finite number"),
        ({"x": [0] * 39 + [2]}, ("x",), LabelSets, "holds 2 in row '39'; expected 0 or 1"),
        ({"x": [1.5] * 40}, "x", LabelSets, "holds 1.5 in row '0'; expected a list of labels"),
        ({"x": [["a"]] * 39 + [None]}, "x", LabelSets, "'x' is empty in row '39'; expected a list"),
        ({"x": [""] * 40}, "x", LabelSets, "no row has a label"),
        ({"x": [1.0] * 40}, None, Numbers, "data.label is null"),
    ],
)
def test_what_is_no_target_is_named_by_row_and_column(
    tmp_path, images, columns, label, truth, message
):
    path = parquet(tmp_path, {"image": images, **columns})
    with pytest.raises(DataError, match=message):
        Table(path=path, label=label).read_as(truth)


def test_several_columns_are_no_classes(tmp_path, images):
    path = parquet(tmp_path, {"image": images, "x": [1] * NUM_ROWS})
    with pytest.raises(DataError, match=r"data\.label names 2 columns; expected one column of cl"):
        Table(path=path, label=("x", "y")).read()


def test_a_source_of_classes_says_that_it_has_nothing_else():
    with pytest.raises(DataError, match="digits gives one class per image; expected one that give"):
        Digits().read_as(Numbers)


def test_rows_of_numbers_are_divided_evenly_and_stored(tmp_path, images):
    values = np.random.default_rng(0).permutation(NUM_ROWS).astype(float)
    path = parquet(tmp_path, {"image": images, "x": values})
    prepared = prepare({"all": Table(path=path, label="x")}, Roles(test=10), kind=Values)
    targets = prepared.targets("test")
    assert prepared.classes == targets.names == ("x",)
    tenths = np.sort(targets.values_ND[:, 0] // 4)
    assert tenths.tolist() == list(range(10))  # one row of every tenth
    (tmp_path / "stored").mkdir()
    prepared.save(tmp_path / "stored")
    loaded = load_prepared(tmp_path / "stored")
    assert loaded.fingerprint() == prepared.fingerprint()
    np.testing.assert_array_equal(loaded.targets("test").values_ND, targets.values_ND)
    other = parquet(tmp_path, {"image": images, "x": values + 1e-12}, "other.parquet")
    moved = prepare({"all": Table(path=other, label="x")}, Roles(test=10), kind=Values)
    assert moved.fingerprint() != prepared.fingerprint()


def test_label_sets_of_splits_are_joined_by_name(tmp_path, images):
    tags = [["a", "b"][n % 2 :] for n in range(NUM_ROWS)]
    train = parquet(tmp_path, {"image": images[:30], "tags": tags[:30]}, "train.parquet")
    test = parquet(tmp_path, {"image": images[30:], "tags": [["b"]] * 10}, "test.parquet")
    splits = {"train": Table(path=train, label="tags"), "test": Table(path=test, label="tags")}
    prepared = prepare(splits, Roles(), kind=Marginals)
    assert prepared.classes == ("a", "b")
    assert prepared.targets("test").present_NC.tolist() == [[False, True]] * 10
    (tmp_path / "stored").mkdir()
    prepared.save(tmp_path / "stored")
    loaded = load_prepared(tmp_path / "stored").targets("train")
    np.testing.assert_array_equal(loaded.present_NC, prepared.targets("train").present_NC)
    late = parquet(tmp_path, {"image": images[30:], "tags": [["c"]] * 10}, "late.parquet")
    with pytest.raises(DataError, match="no train row has the class 'c'"):
        prepare({**splits, "test": Table(path=late, label="tags")}, Roles(), kind=Marginals)


def test_splits_with_other_numbers_are_refused(tmp_path, images):
    train = parquet(tmp_path, {"image": images[:30], "x": [1.0] * 30}, "train.parquet")
    test = parquet(tmp_path, {"image": images[30:], "y": [1.0] * 10}, "test.parquet")
    splits = {"train": Table(path=train, label="x"), "test": Table(path=test, label="y")}
    with pytest.raises(DataError, match="the splits have the numbers 'x' and 'y'"):
        prepare(splits, Roles(), kind=Values)
