# SPDX-License-Identifier: Apache-2.0
"""Files of other tools: their form is told where that is safe and asked for where it is not."""

import numpy as np
import pytest

from fusetune.errors import FusetuneError, MisalignedMembers, PredictionError
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.pool import Reading, read_members, read_pool
from fusetune.predictions.reading import Form
from fusetune.predictions.targets import LabelSets, Numbers, Targets

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
LOGITS = np.log(PROBS) * 1.0 + np.array([[3.0], [-2], [0], [1]])
TARGETS = "id,target\na,ant\nb,bee\nc,cat\nd,bee\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "y.csv").write_text(TARGETS)
    return tmp_path


def table(path, array, header="id,ant,bee,cat", ids="abcd"):
    lines = [
        ",".join([name, *map(repr, row)]) for name, row in zip(ids, array.tolist(), strict=False)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def pool(folder, *paths, **reading):
    return read_pool(paths, folder / "y.csv", Reading(**reading))


def test_probabilities_in_every_format_are_one_and_the_same(folder):
    paths = [table(folder / "csv.csv", PROBS)]
    order = [2, 0, 1]
    np.savez(
        folder / "npz.npz",
        ids=np.array(list("dcba")),
        probs=PROBS[::-1][:, order],
        classes=np.array(["cat", "ant", "bee"]),
    )
    np.save(folder / "npy.npy", PROBS)
    paths += [folder / "npz.npz", folder / "npy.npy"]
    read = pool(folder, *paths, classes=["ant", "bee", "cat"])
    assert isinstance(read.truth.targets, Targets)
    assert {form.form for form in read.forms.values()} == {"probabilities"}
    for part in read.stack.parts:
        columns = [part.classes.index(name) for name in ("ant", "bee", "cat")]
        np.testing.assert_allclose(part.probs_NC[:, columns], PROBS)


def test_logits_and_scores_are_asked_for_and_kept_with_the_ensemble(folder):
    path = table(folder / "m.csv", LOGITS)
    with pytest.raises(PredictionError, match=r"row 'a' holds .* Pass --form MEMBER=FORM"):
        pool(folder, path)
    read = pool(folder, path, forms={"m": "logits"})
    np.testing.assert_allclose(read.stack.parts[0].probs_NC, PROBS, rtol=1e-6)
    scores = pool(folder, table(folder / "s.csv", LOGITS * 1000), forms={"s": "scores"})
    form = scores.forms["s"]
    assert form.scale == pytest.approx(np.std(LOGITS - LOGITS.mean(axis=1, keepdims=True)) * 1000)
    fresh, _ = read_members(
        [table(folder / "s.csv", LOGITS[:2] * 1000, ids="xy")],
        {"s": Form.from_plain(form.as_plain())},
        Probabilities,
        ("ant", "bee", "cat"),
    )
    np.testing.assert_allclose(fresh["s"].probs_NC, scores.stack.parts[0].probs_NC[:2])


def test_labels_become_one_hot_rows(folder):
    (folder / "m.csv").write_text("id,label\nd,bee\na,ant\nb,dog\nc,ant\n")
    part = pool(folder, folder / "m.csv").stack.parts[0]
    assert part.labels().tolist() == ["ant", "dog", "ant", "bee"]
    assert set(part.classes) == {"ant", "bee", "cat", "dog"}
    assert part.probs_NC.max(axis=1).tolist() == [1] * 4


def test_one_column_of_two_classes_is_completed(folder):
    (folder / "y.csv").write_text("id,target\na,no\nb,yes\n")
    (folder / "m.csv").write_text("id,yes\nb,0.9\na,0.25\n")
    part = pool(folder, folder / "m.csv").stack.parts[0]
    assert dict(zip(part.classes, part.probs_NC[0].tolist(), strict=True)) == {
        "yes": 0.25,
        "no": 0.75,
    }
    (folder / "m.csv").write_text("id,score\nb,0.9\na,0.25\n")
    with pytest.raises(PredictionError, match="one column, 'score'"):
        pool(folder, folder / "m.csv")


@pytest.mark.parametrize(
    ("targets", "task", "kind", "truth"),
    [
        ("id,target\na,1\nb,2\n", "auto", Probabilities, Targets),
        ("id,target\na,1\nb,2\n", "regression", Values, Numbers),
        ("id,target\na,1.5\nb,2\n", "auto", Values, Numbers),
        ("id,1,2\na,1,0\nb,1,1\n", "auto", Marginals, LabelSets),
        ("id,1,2\na,1,0\nb,0.5,1\n", "auto", Values, Numbers),
    ],
)
def test_the_task_follows_from_the_targets(folder, targets, task, kind, truth):
    (folder / "y.csv").write_text(targets)
    columns = "1,2" if kind is not Values or "1,2" in targets else "value"
    rows = "0.5,0.5" if "," in columns else "0.5"
    (folder / "m.csv").write_text(f"id,{columns}\na,{rows}\nb,{rows}\n")
    read = pool(folder, folder / "m.csv", task=task)
    assert isinstance(read.truth.targets, truth)
    assert type(read.stack.parts[0]) is kind


def test_quantiles_are_put_in_order(folder):
    (folder / "y.csv").write_text("id,target\na,1.5\nb,2\n")
    (folder / "m.csv").write_text("id,q0.9,q0.1,p50\na,3,1,2\nb,5,6,4\n")
    part = pool(folder, folder / "m.csv").stack.parts[0]
    assert part.levels == (0.1, 0.5, 0.9)
    assert part.values_ND.tolist() == [[1, 2, 3], [4, 5, 6]]
    (folder / "n.csv").write_text("id,value\na,3\nb,5\n")
    with pytest.raises(MisalignedMembers, match=r"'m' gives the quantiles 0.1, 0.5, 0.9 and 'n'"):
        pool(folder, folder / "m.csv", folder / "n.csv")


def test_rows_that_do_not_match_are_counted_or_filled(folder):
    one = table(folder / "one.csv", PROBS)
    two = table(folder / "two.csv", PROBS[[1, 3]], ids="bx")
    with pytest.raises(MisalignedMembers, match=r"3 ids are missing \(first: 'a'\), 1 ids belong"):
        pool(folder, one, two)
    read = pool(folder, one, two, missing="renormalize")
    np.testing.assert_allclose(read.stack["two"].probs_NC[0], PROBS[0])
    assert "two does not predict 3 of 4 rows" in read.notes[0]
    assert "1 rows of two have no target" in read.notes[1]
    disjoint = table(folder / "three.csv", PROBS, ids="wxyz")
    with pytest.raises(MisalignedMembers, match="no row in common"):
        pool(folder, disjoint, missing="renormalize")


def test_feature_vectors_travel_with_the_stack(folder):
    one = table(folder / "one.csv", PROBS)
    two = table(folder / "two.csv", PROBS[:, :2] * 100, header="id,f0,f1")
    with pytest.raises(PredictionError, match="none is called like a class"):
        pool(folder, one, two)
    read = pool(folder, one, two, forms={"two": "features"})
    assert read.stack.members == ("one",)
    assert read.stack.features["two"].shape == (4, 2)


def test_roles_are_read(folder):
    (folder / "y.csv").write_text("id,target,role\na,ant,holdout\nb,bee,test\n")
    read = pool(folder, table(folder / "m.csv", PROBS[:2], ids="ab"))
    assert read.truth.roles_N.tolist() == ["holdout", "test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id," + ",".join(f"column{n}" for n in range(50)) + "\na," + ",".join(["0.02"] * 50),
            r"the columns are 'column0'.*none is called like a class",
        ),
        ("id,ant,bee\na,0.5,0.5\nb,nan,1\nc,0,1\nd,1,0\n", r"row 'b' holds \(nan, 1\)"),
        ("id,ant,bee\na,0.5,0.5\nb,inf,1\nc,0,1\nd,1,0\n", "row 'b' holds"),
        ("id,ant,bee\na,-0.5,1.5\nb,0,1\nc,0,1\nd,1,0\n", "row 'a' holds"),
        ("id,ant,bee\na,0.5,0.9\nb,0,1\nc,0,1\nd,1,0\n", "row 'a' holds"),
        ("id,ant,bee\na,1,0\na,0,1\nc,0,1\nd,1,0\n", "1 ids occur more than once: 'a'"),
    ],
)
def test_wrong_predictions_are_named(folder, content, message):
    (folder / "m.csv").write_text(content)
    with pytest.raises(FusetuneError, match=message) as caught:
        pool(folder, folder / "m.csv")
    assert str(folder / "m.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PROBS[:2], "2 rows without ids; expected 4 rows, in the order of the targets"),
        (PROBS, "expected the order of the classes 'ant', 'bee', 'cat'"),
        (np.zeros((2, 2, 2)), r"has the shape \(2, 2, 2\)"),
    ],
)
def test_arrays_without_names_are_held_against_the_targets(folder, array, message):
    np.save(folder / "m.npy", array)
    classes = ["ant", "bee", "cat"] if len(array) < 4 else []
    with pytest.raises(PredictionError, match=message):
        pool(folder, folder / "m.npy", classes=classes)


def test_whole_numbers_as_classes_order_the_columns_of_an_array(folder):
    (folder / "y.csv").write_text("id,target\na,0\nb,2\nc,1\n")
    np.save(folder / "m.npy", PROBS[:3])
    part = pool(folder, folder / "m.npy").stack.parts[0]
    assert part.classes == ("0", "1", "2")
    np.save(folder / "m.npy", np.array([0, 2, 2]))
    assert pool(folder, folder / "m.npy").stack.parts[0].labels().tolist() == ["0", "2", "2"]


def test_whole_numbers_as_targets_may_be_quantities(tmp_path):
    (tmp_path / "y.csv").write_text("id,target\na,3\nb,17\n")
    path = table(tmp_path / "m.csv", np.array([[2.5], [16.0]]), header="id,target")
    with pytest.raises(PredictionError, match="--task regression"):
        pool(tmp_path, path, forms={"m": "probabilities"})
    read = pool(tmp_path, path, task="regression")
    assert read.stack.parts[0].values_ND.tolist() == [[2.5], [16.0]]
