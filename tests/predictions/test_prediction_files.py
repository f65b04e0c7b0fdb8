# SPDX-License-Identifier: Apache-2.0
"""Prediction files: what is written comes back, and damage is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss

from fusetune.errors import PredictionError
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.files import (
    read_probabilities,
    read_targets,
    write_probabilities,
    write_targets,
)
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool


@pytest.fixture(params=["parquet", "csv"])
def ending(request):
    return request.param


def test_probabilities_come_back(tmp_path, ending):
    stack, _ = pool(dtype=np.float32, classes=12)
    part = stack.parts[0]
    path = tmp_path / "new" / f"member.{ending}"
    write_probabilities(path, part)
    read = read_probabilities(path)
    assert read.ids.tolist() == part.ids.tolist()
    assert read.classes == part.classes
    np.testing.assert_allclose(read.probs_NC, part.probs_NC, rtol=1e-6)
    if ending == "parquet":
        assert read.probs_NC.dtype == np.float32
        assert read.probs_NC.tobytes() == part.probs_NC.tobytes()
    assert [path.name for path in path.parent.iterdir()] == [f"member.{ending}"]


def test_the_same_content_gives_the_same_bytes(tmp_path, ending):
    stack, targets = pool(dtype=np.float32)
    for name in "ab":
        write_probabilities(tmp_path / f"{name}.{ending}", stack.parts[0])
        write_targets(tmp_path / f"{name}-targets.{ending}", targets)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    one, two = tmp_path / f"a-targets.{ending}", tmp_path / f"b-targets.{ending}"
    assert one.read_bytes() == two.read_bytes()


def test_targets_come_back(tmp_path, ending):
    _, targets = pool()
    path = tmp_path / f"targets.{ending}"
    write_targets(path, targets)
    read = read_targets(path, targets.classes)
    assert read.ids.tolist() == targets.ids.tolist()
    assert read.classes == targets.classes
    assert read.labels_N.tolist() == targets.labels_N.tolist()


def test_names_that_look_like_numbers_or_hold_commas_survive(tmp_path, ending):
    part = Probabilities(["007", 'a,"b"\nc', "NA", "ü"], ("1", "x, y"), np.full((4, 2), 0.5))
    write_probabilities(tmp_path / f"member.{ending}", part)
    read = read_probabilities(tmp_path / f"member.{ending}")
    assert read.ids.tolist() == part.ids.tolist()
    assert read.classes == part.classes
    targets = Targets.from_names(part.ids, ["null", "", "NaN", "2"])
    write_targets(tmp_path / f"targets.{ending}", targets)
    again = read_targets(tmp_path / f"targets.{ending}")
    assert again.ids.tolist() == part.ids.tolist()
    assert again.names().tolist() == targets.names().tolist()


def test_no_rows_come_back(tmp_path, ending):
    stack, targets = pool()
    write_probabilities(tmp_path / f"member.{ending}", stack.parts[0].take(np.arange(0)))
    write_targets(tmp_path / f"targets.{ending}", targets.take(np.arange(0)))
    assert read_probabilities(tmp_path / f"member.{ending}").probs_NC.shape == (0, 4)
    assert len(read_targets(tmp_path / f"targets.{ending}", targets.classes)) == 0


def test_csv_keeps_double_precision_as_scikit_learn_sees_it(tmp_path):
    probs_NC = np.array([[1e-12, 1 - 1e-12], [0.3, 0.7]])
    path = tmp_path / "member.csv"
    rows = [f"{n},{p!r},{q!r}" for n, (p, q) in enumerate(probs_NC.tolist())]
    path.write_text("id,a,b\n" + "\n".join(rows))
    prediction = read_probabilities(path)
    targets = Targets(prediction.ids, ("a", "b"), np.array([0, 1]))
    metric = LogLoss()
    assert metric.value(metric.statistics(prediction, targets)) == pytest.approx(
        log_loss([0, 1], probs_NC)
    )


def test_parquet_of_other_tools(tmp_path):
    path = tmp_path / "member.parquet"
    columns = {
        "cat": pa.array([0, 1], pa.int8()),
        "id": pa.array([12, 3], pa.int64()),
        "dog": pa.array([1, 0], pa.float64()),
        "emu": pa.array(np.zeros(2, dtype=np.float16)),
    }
    pq.write_table(pa.table(columns), path)
    read = read_probabilities(path)
    assert read.ids.tolist() == ["12", "3"]
    assert read.classes == ("cat", "dog", "emu")
    assert read.probs_NC.tolist() == [[0, 1, 0], [1, 0, 0]]
    names = pa.array(["cat", "dog"]).dictionary_encode()
    pq.write_table(pa.table({"id": ["x", "y"], "target": names}), path)
    assert read_targets(path).names().tolist() == ["cat", "dog"]
    pq.write_table(pa.table({"id": ["x", "y"], "target": [7, 10]}), path)
    assert read_targets(path).names().tolist() == ["7", "10"]


def test_npz(tmp_path):
    stack, _ = pool(dtype=np.float32)
    part = stack.parts[0]
    path = tmp_path / "member.npz"
    np.savez(path, ids=part.ids, probs=part.probs_NC, classes=np.array(part.classes))
    read = read_probabilities(path)
    assert read.classes == part.classes
    assert read.ids.tolist() == part.ids.tolist()
    assert read.probs_NC.tobytes() == part.probs_NC.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the content cannot be read"),
        ("cat,dog\n1,0\n", "the columns are 'cat', 'dog'; expected one called 'id'"),
        ("id,cat,dog\na,1,0\na,0,1\n", "1 ids occur more than once: 'a'"),
        ("id,cat,dog\na,1,0\n,0,1\n", r"'id' is empty in row 2 \(1 such rows\)"),
        ("id,cat,dog\na,1,0\nb,0,x\n", r"the column 'dog' holds text \(first: 'x'\)"),
        ("id,cat,dog\na,1,0\nb,,1\n", r"row 'b' holds \(nan, 1\)"),
        ("id,cat,dog\na,1,0\nb,nan,1\n", r"row 'b' holds \(nan, 1\)"),
        ("id,cat,dog\na,1,0\nb,3.5,1\n", "which sum to 4.5"),
        ("id,cat,cat\na,1,0\n", "the columns 'cat' occur more than once"),
        ("id,cat,dog\na,1,0\nb,0\n", "the content cannot be read"),
        ("id\na\n", "expected at least one of the classes"),
        ("id,cat,dog\na,,\n", r"row 'a' holds \(nan, nan\)"),
    ],
)
def test_wrong_csv_is_named_with_its_file(tmp_path, content, message):
    path = tmp_path / "member.csv"
    path.write_text(content)
    with pytest.raises(PredictionError, match=message) as caught:
        read_probabilities(path)
    assert f"in '{path}', " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\na,1\n", "the columns are 'id', 'label'; expected one called 'target'"),
        ("id,target\na,x\nb,y\n", "the targets hold 'y'; expected only the classes 'x'"),
    ],
)
def test_wrong_targets_are_named(tmp_path, content, message):
    path = tmp_path / "targets.csv"
    path.write_text(content)
    with pytest.raises(PredictionError, match=message):
        read_targets(path, ["x"])


def test_targets_that_are_no_names_are_refused(tmp_path):
    path = tmp_path / "targets.parquet"
    pq.write_table(pa.table({"id": ["a"], "target": [0.5]}), path)
    with pytest.raises(PredictionError, match="the column 'target' holds double"):
        read_targets(path)
    pq.write_table(pa.table({"id": ["a", "b"], "target": ["x", None]}), path)
    with pytest.raises(PredictionError, match=r"'target' is empty in row 'b'"):
        read_targets(path)


def test_files_that_cannot_be_read(tmp_path):
    stack, _ = pool()
    path = tmp_path / "member.parquet"
    with pytest.raises(PredictionError, match="there is no file"):
        read_probabilities(path)
    write_probabilities(path, stack.parts[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PredictionError, match="expected a complete parquet file"):
        read_probabilities(path)
    with pytest.raises(
        PredictionError, match=r"ends in '\.txt'; expected a file ending in \.parquet"
    ):
        read_probabilities(tmp_path / "member.txt")
    with pytest.raises(PredictionError, match=r"ends in '.npz'; expected .parquet or .csv"):
        write_probabilities(tmp_path / "member.npz", stack.parts[0])


def test_wrong_npz(tmp_path):
    path = tmp_path / "member.npz"
    np.savez(path, ids=["a"], probs=np.ones((1, 1)))
    with pytest.raises(PredictionError, match="the arrays are 'ids', 'probs'"):
        read_probabilities(path)
    np.savez(path, ids=["a"], probs=np.ones((1, 1)), classes=np.array([None], dtype=object))
    with pytest.raises(PredictionError, match="without pickled objects"):
        read_probabilities(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PredictionError, match="the content cannot be read"):
        read_probabilities(path)
    np.savez(path, ids=["a"], probs=np.array([["x"]]), classes=["b"])
    with pytest.raises(PredictionError, match="probs hold <U1"):
        read_probabilities(path)


def test_a_class_called_id_is_refused(tmp_path):
    part = Probabilities(["a"], ("id",), np.ones((1, 1)))
    with pytest.raises(PredictionError, match="a class is called 'id'"):
        write_probabilities(tmp_path / "member.csv", part)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    stack, _ = pool()
    path = tmp_path / "member.csv"
    write_probabilities(path, stack.parts[0])
    before = path.read_bytes()
    broken = stack.parts[0].with_array(stack.classes, stack.parts[0].probs_NC[:5])
    with pytest.raises(pa.ArrowInvalid):
        write_probabilities(path, broken)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["member.csv"]
