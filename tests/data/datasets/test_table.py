# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv
from pyarrow import parquet as pq

from fusetune.data.datasets.table import Table
from fusetune.data.inputs import EncodedImages, FileImages
from fusetune.data.prepare import prepare
from fusetune.data.roles import Roles
from fusetune.errors import DataError, UnknownName


@pytest.fixture
def files(image_file):
    return [image_file(seed) for seed in range(6)]


def parquet(folder, columns, name="rows.parquet", metadata=None, **options):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, folder / name, **options)
    return folder / name


def encoded(rows):
    return [rows.images.encoded(row) for row in range(len(rows))]


NAMES = ["b", "a", "b", "c", "a", "c"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("group", [None, 4])
def test_bytes(tmp_path, files, kind, group):
    path = parquet(
        tmp_path,
        {"image": pa.array(files, kind), "label": NAMES, "id": list("uvwxyz")},
        row_group_size=group,
    )
    rows = Table(path=path).read()
    assert encoded(rows) == files and isinstance(rows.images, EncodedImages)
    assert rows.labels.tolist() == NAMES and rows.ids.tolist() == list("uvwxyz")
    assert rows.classes == () and rows.roles is None


def test_structs_of_bytes_and_path(tmp_path, files):
    structs = [{"bytes": content, "path": "nowhere.png"} for content in files]
    rows = Table(path=parquet(tmp_path, {"image": structs, "label": NAMES})).read()
    assert encoded(rows) == files
    assert rows.ids.tolist() == ["0", "1", "2", "3", "4", "5"]
    (tmp_path / "one.png").write_bytes(files[0])
    structs[0] = {"bytes": None, "path": "one.png"}
    rows = Table(path=parquet(tmp_path, {"image": structs, "label": NAMES})).read()
    assert encoded(rows) == files
    paths = [{"bytes": None, "path": "one.png"}] * 6
    rows = Table(path=parquet(tmp_path, {"image": paths, "label": NAMES})).read()
    assert isinstance(rows.images, FileImages)


def test_paths_start_at_the_tables_folder(tmp_path, files):
    (tmp_path / "images").mkdir()
    for number, content in enumerate(files):
        (tmp_path / "images" / f"{number}.png").write_bytes(content)
    paths = [f"images/{number}.png" for number in range(5)] + [str(tmp_path / "images" / "5.png")]
    for column in (pa.array(paths), pa.array(paths).dictionary_encode()):
        rows = Table(path=parquet(tmp_path, {"image": column, "label": NAMES})).read()
        assert encoded(rows) == files


def csv_table(folder, files, text, name="rows.csv"):
    for number, content in enumerate(files):
        (folder / f"{number}.png").write_bytes(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_csv_keeps_texts_as_they_are(tmp_path, files):
    path = csv_table(tmp_path, files, 'id,image,label,note\n007,0.png,true,"a, b"\n07,1.png,no,\n')
    rows = Table(path=path).read()
    assert rows.ids.tolist() == ["007", "07"]
    assert rows.labels.tolist() == ["true", "no"]
    tabs = csv_table(tmp_path, files, "id\timage\tlabel\nä\t1.png\tnew york, usa\n", "rows.TSV")
    assert Table(path=tabs).read().labels.tolist() == ["new york, usa"]
    assert Table(path=tabs).read().ids.tolist() == ["ä"]


def test_columns_by_other_names(tmp_path, files):
    columns = {
        "img": files,
        "y": NAMES,
        "key": list("uvwxyz"),
        "split": ["train", None, "test", "", "holdout", "validation"],
    }
    rows = Table(
        path=parquet(tmp_path, columns), image="img", label="y", id="key", role="split"
    ).read()
    assert rows.labels.tolist() == NAMES and rows.ids.tolist() == list("uvwxyz")
    assert rows.roles.tolist() == ["train", "", "test", "", "holdout", "validation"]
    assert Table(path=tmp_path / "rows.parquet", image="img", label=None).read().labels is None


@pytest.mark.parametrize(
    "labels",
    [pa.array([2, 0, 2, 10, 0, 2], pa.int8()), pa.array([2.0, 0, 2, 10, 0, 2]), ["2", "0", "2", "10", "0", "2"],
     pa.array(["2", "0", "2", "10", "0", "2"]).dictionary_encode()],
)  # fmt: skip
def test_numbers_without_names_are_their_digits(tmp_path, files, labels):
    columns = {"image": files, "label": labels}
    rows = Table(path=parquet(tmp_path, columns)).read()
    assert rows.labels.tolist() == ["2", "0", "2", "10", "0", "2"]


def test_numbers_are_sorted_as_numbers(tmp_path, image_file):
    columns = {
        "image": [image_file(seed) for seed in range(60)],
        "label": [seed % 12 for seed in range(60)],
    }
    prepared = prepare({"all": Table(path=parquet(tmp_path, columns))}, Roles())
    assert prepared.classes == tuple(str(number) for number in range(12))


def test_numbers_with_names(tmp_path, files):
    numbers = [1, 0, 1, 2, 0, 2]
    path = parquet(tmp_path, {"image": files, "label": numbers})
    listed = tmp_path / "names.txt"
    listed.write_text("zebra\nant\nbee\n")
    expected = ["ant", "zebra", "ant", "bee", "zebra", "bee"]
    for classes in (("zebra", "ant", "bee"), listed):
        rows = Table(path=path, classes=classes).read()
        assert rows.labels.tolist() == expected
        assert rows.classes == ("zebra", "ant", "bee")
    listed.rename(tmp_path / "classes.txt")  # beside the table, it needs no mention
    assert Table(path=path).read().labels.tolist() == expected
    text = csv_table(tmp_path, files, "image,label\n0.png,1\n1.png,0\n")
    assert Table(path=text).read().labels.tolist() == ["ant", "zebra"]
    named = parquet(tmp_path, {"image": files, "label": NAMES}, "named.parquet")
    assert Table(path=named).read().labels.tolist() == NAMES  # classes.txt is for numbers only


def test_names_in_the_metadata_of_hugging_face(tmp_path, files):
    features = {
        "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        "image": {"_type": "Image"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": files, "label": [1, 0, 1, 1, 0, 0]}
    rows = Table(path=parquet(tmp_path, columns, metadata=metadata)).read()
    assert rows.labels.tolist() == ["yes", "no", "yes", "yes", "no", "no"]
    assert rows.classes == ("no", "yes")
    metadata = {"huggingface": "{not json"}
    assert Table(path=parquet(tmp_path, columns, metadata=metadata)).read().labels[0] == "1"


def test_classes_fix_the_order_of_names(tmp_path, files):
    path = parquet(tmp_path, {"image": files, "label": NAMES})
    assert Table(path=path, classes=("c", "b", "a")).read().classes == ("c", "b", "a")
    with pytest.raises(
        DataError, match=r"the labels 'c' are not among data.classes; expected only 'a', 'b'"
    ):
        Table(path=path, classes=("a", "b")).read()


def test_booleans_are_two_classes(tmp_path, files):
    columns = {"image": files, "label": [True, False, True, True, False, True]}
    assert Table(path=parquet(tmp_path, columns)).read().labels[:2].tolist() == ["true", "false"]


def test_missing_labels_are_left_empty_and_then_refused(tmp_path, files):
    for labels in (
        [1, None, 1, 0, 0, 1],
        [1.0, float("nan"), 1, 0, 0, 1],
        ["a", None, "a", "b", "b", "a"],
    ):
        data = Table(path=parquet(tmp_path, {"image": files, "label": labels}))
        assert data.read().labels[1] == ""
        with pytest.raises(DataError, match="the label is missing in 1 row of data: '1'"):
            prepare({"all": data}, Roles())
    data = Table(path=csv_table(tmp_path, files, "image,label\n0.png,a\n1.png,\n"))
    assert data.read().labels.tolist() == ["a", ""]


def test_labels_that_name_no_class_are_refused(tmp_path, files):
    path = parquet(tmp_path, {"image": files, "label": [0.5, 1, 2, 3, 4, 5]})
    with pytest.raises(
        DataError, match=r"row '0' has the label 0.5; expected class names or whole"
    ):
        Table(path=path).read()
    path = parquet(tmp_path, {"image": files, "label": [0, 1, 2, 0, 0, 0]})
    with pytest.raises(
        DataError,
        match=r"row '2' has the label 2, and 2 classes are named; expected whole numbers from 0 to 1",
    ):
        Table(path=path, classes=("a", "b")).read()


def test_bad_lists_of_names_are_refused(tmp_path, files):
    path = parquet(tmp_path, {"image": files, "label": [0, 1, 0, 1, 0, 1]})
    with pytest.raises(DataError, match=r"data.classes is '.*names.txt', which does not exist"):
        Table(path=path, classes=tmp_path / "names.txt").read()
    with pytest.raises(DataError, match=r"data.classes holds 'a' more than once"):
        Table(path=path, classes=("a", "a")).read()
    (tmp_path / "names.txt").write_text("a\n\nb\n")
    with pytest.raises(DataError, match="holds '' more than once, or empty"):
        Table(path=path, classes=tmp_path / "names.txt").read()
    (tmp_path / "names.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="one class name a line"):
        Table(path=path, classes=tmp_path / "names.txt").read()


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path, files):
    path = parquet(tmp_path, {"image": files, "labels": NAMES})
    with pytest.raises(
        UnknownName,
        match=r"no column is called 'label' \(in '.*rows.parquet'\); expected one of image, labels. Did you mean 'labels'",
    ):
        Table(path=path).read()
    csv.write_csv(pa.table({"picture": ["a.png"], "label": ["a"]}), tmp_path / "rows.csv")
    with pytest.raises(UnknownName, match="no column is called 'image'"):
        Table(path=tmp_path / "rows.csv").read()
    with pytest.raises(UnknownName, match="no column is called 'split'"):
        Table(path=path, label="labels", role="split").read()


def test_a_column_that_occurs_twice_is_refused(tmp_path, files):
    path = csv_table(tmp_path, files, "image,label,label\n0.png,a,b\n")
    with pytest.raises(DataError, match="has 2 columns called 'label'"):
        Table(path=path).read()


def test_missing_images_are_named(tmp_path, files):
    path = parquet(tmp_path, {"image": [*files[:5], None], "label": NAMES, "id": list("uvwxyz")})
    with pytest.raises(DataError, match="the column 'image' is empty in 1 row: 'z'"):
        Table(path=path).read()
    structs = [{"bytes": content, "path": None} for content in files]
    structs[2] = {"bytes": None, "path": None}
    path = parquet(tmp_path, {"image": structs, "label": NAMES})
    with pytest.raises(DataError, match="the column 'image' is empty in 1 row: '2'"):
        Table(path=path).read()
    path = csv_table(tmp_path, files, "image,label\n0.png,a\nfar.png,b\n")
    with pytest.raises(
        DataError, match=r"1 image file cannot be found: 'far.png' \(first of row '1'\)"
    ):
        Table(path=path).read()


def test_a_column_of_another_type_is_refused(tmp_path):
    path = parquet(tmp_path, {"image": [[0.5], [0.5]], "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"the column 'image' holds list<.*double>; expected bytes"):
        Table(path=path).read()


def test_missing_ids_are_refused(tmp_path, files):
    data = Table(
        path=parquet(tmp_path, {"image": files, "label": NAMES, "id": [1, 2, None, 4, 5, 6]})
    )
    assert data.read().ids.tolist() == ["1", "2", "", "4", "5", "6"]
    with pytest.raises(DataError, match="the id is empty in 1 row of data"):
        prepare({"all": data}, Roles())


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data.path is '.*', which does not exist"):
        Table(path=tmp_path / "rows.csv").read()
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"whose ending is '.xlsx'; expected a file that ends in .csv"
    ):
        Table(path=tmp_path / "rows.xlsx").read()
    with pytest.raises(DataError, match="use the source folder for a folder"):
        Table(path=tmp_path).read()
    for name, content in {
        "a.parquet": b"no parquet",
        "a.csv": b"image,label\n1,2,3\n",
        "b.csv": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"the table '.*{name}' cannot be read"):
            Table(path=tmp_path / name).read()


def test_no_rows(tmp_path):
    path = parquet(
        tmp_path, {"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}
    )
    assert len(Table(path=path).read()) == 0
    (tmp_path / "rows.csv").write_text("image,label\n")
    assert len(Table(path=tmp_path / "rows.csv").read()) == 0
    with pytest.raises(DataError, match="data has no rows"):
        prepare({"all": Table(path=path)}, Roles())


@pytest.mark.data
def test_real_table(data_folder):
    rows = Table(path=data_folder / "cifar10" / "jpeg_test.parquet").read()
    assert (
        len(rows) == 10000 and np.unique(rows.labels, return_counts=True)[1].tolist() == [1000] * 10
    )
    assert rows.classes[:2] == ("airplane", "automobile")
    assert rows.ids[0] == "test/truck/0770" and rows.labels[0] == "truck"
    assert rows.images.encoded(9999)[:2] == b"\xff\xd8"
