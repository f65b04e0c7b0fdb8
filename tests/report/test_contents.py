# SPDX-License-Identifier: Apache-2.0
"""What is read of a run folder, and which rows are disputed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from fusetune.errors import InvalidValue
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from fusetune.report.contents import gather
from fusetune.report.html import render
from fusetune.report.rows import disputed


def test_everything_in_the_folder_is_read(make_run):
    folder = make_run(failed={"broken": "failed", "late": "not_run"}, error="out of memory")
    results = json.loads((folder / "results.json").read_text())
    found = gather(folder)
    assert (found.run_name, found.metric, found.chosen) == ("run", "accuracy", "auto")
    assert [one.name for one in found.members] == [one["name"] for one in results["members"]]
    assert [one.status for one in found.members] == ["ok", "ok", "ok", "failed", "not_run"]
    assert found.members[3].error == "out of memory"
    first, entry = found.members[0], results["members"][0]
    assert first.scores["test"] == entry["scores"]["test"]
    assert first.intervals["brier"] == tuple(entry["intervals"]["brier"])
    assert first.cost.parameters == entry["parameters"]
    assert first.cost.predict_s_per_row == entry["seconds"]["predict_per_row"]
    assert first.best_epoch == 7
    assert found.predictor("stacking").weights is None
    assert found.predictor("stacking").runs == tuple(one.name for one in found.members[:3])
    assert found.verdict.gain == results["verdict"]["gain"]
    assert found.curves[first.name][2].train_loss == pytest.approx(
        results["learning_curves"][first.name][2]["train_loss"]
    )
    assert found.environment["packages numpy"] == "2.4.6"
    assert found.diversity["agreement"].matrix_MM[0, 1] == results["agreement"]["matrix"][0][1]
    assert found.diversity["q_statistic"].mean == results["q_statistic"]["mean"]
    assert found.oracle_accuracy == results["oracle_accuracy"]
    assert found.contributions.members == results["contributions"]["members"]
    assert found.calibration.before == results["calibration"]["before"]
    assert found.calibration.bins == results["calibration"]["reliability"]["before"]
    assert found.predictor("mean").p_holm == results["fusions"][0]["p_holm"]
    assert found.advice == tuple(results["advice"])
    assert (found.judged, found.rows_name) == ("test", "test rows")
    assert "image_classification" in found.recipe
    assert len(found.thumbnails) == 24
    assert found.thumbnails[next(iter(found.thumbnails))].shape == (8, 8, 3)


def test_predictions_are_lined_up_with_the_targets(make_run):
    folder = make_run(num_rows=60)
    path = folder / "predictions/mini-plain/test.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(60)), path)
    test = gather(folder).test
    part = test.members["mini-plain"]
    assert part.ids.tolist() == test.targets.ids.tolist()
    wanted = dict(zip(table["id"].to_pylist(), table["3"].to_pylist(), strict=True))
    column = part.probs_NC[:, part.classes.index("3")]
    assert column.tolist() == [wanted[name] for name in test.targets.ids.tolist()]


def test_a_fusion_runs_only_members_with_weight(make_run):
    folder = make_run(num_rows=60)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["fusions"][1]["weights"] = {"mini-residual": 0.0, "mini-plain": 1.0}
    results["fusions"][2]["members"] = ["mini-inception"]
    path.write_text(json.dumps(results))
    found = gather(folder)
    assert found.fusions[1].runs == ("mini-plain",)
    assert found.fusions[2].runs == ("mini-inception",)


def test_what_is_not_there_is_left_out(make_run):
    found = gather(make_run(bare=True))
    assert not found.thumbnails
    assert not found.curves
    assert found.recipe is None
    assert found.members[0].cost.predict_s_per_row is None


def test_results_of_older_runs_still_make_a_report(make_run):
    folder = make_run(num_rows=40)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    for name in ("advice", "contributions", "calibration", "disagreement", "q_statistic"):
        del results[name]
    del results["agreement"]["mean"]
    for fusion in results["fusions"]:
        del fusion["p_value"], fusion["p_holm"]
    path.write_text(json.dumps(results))
    found = gather(folder)
    assert found.contributions is None
    assert found.diversity["agreement"].mean is None
    assert "Agreement" in render(found)


def test_a_task_that_is_not_installed_has_classes(make_run):
    folder = make_run(num_rows=40)
    path = folder / "results.json"
    path.write_text(path.read_text().replace("image_classification", "somebody_elses"))
    assert len(gather(folder).test.targets) == 40


def test_rows_of_a_run_larger_than_memory_are_not_read(make_run):
    folder = make_run(num_rows=40)
    path = folder / "results.json"
    results = json.loads(path.read_text()) | {"memory_bytes": 10**9}
    path.write_text(json.dumps(results))
    assert gather(folder).test is None


def test_results_alone_are_enough(tmp_path):
    results = {"task": "image_classification", "metric": "accuracy", "members": [], "fusions": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = gather(tmp_path)
    assert (found.verdict, found.test, found.contributions) == (None, None, None)
    assert (found.calibration, found.oracle_accuracy, found.advice) == (None, None, ())
    assert found.diversity == {}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"task": "x"}'])
def test_results_that_cannot_be_read_are_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InvalidValue) as caught:
        gather(tmp_path)
    assert str(caught.value) == (
        f"'{path}' cannot be read; expected the results of a finished run. Give the folder of a run "
        "that ended well, or run its recipe again."
    )


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(InvalidValue, match=r"results\.json' is not there; expected the results"):
        gather(tmp_path / "nowhere")


def probabilities(rows: list[list[float]], classes: tuple[str, ...] = ("a", "b")) -> Probabilities:
    return Probabilities([f"r{index}" for index in range(len(rows))], classes, np.array(rows))


TARGETS = Targets([f"r{index}" for index in range(4)], ("a", "b"), [0, 1, 0, 1])


def test_disputed_rows_come_with_the_widest_divergence_first():
    """r0: both say a; r1: mild; r2: flat contradiction; r3: one is sure, one is not."""
    first = probabilities([[0.99, 0.01], [0.55, 0.45], [0.99, 0.01], [0.99, 0.01]])
    # Columns in another order: the classes' names count, not their places.
    second = probabilities([[0.4, 0.6], [0.55, 0.45], [0.99, 0.01], [0.6, 0.4]], ("b", "a"))
    found = disputed({"first": first, "second": second}, TARGETS)
    assert found == ("r2", "r3", "r1")
    assert disputed({"first": first, "second": second}, TARGETS, most=1) == ("r2",)


def test_ties_are_listed_in_the_targets_order():
    first, second = probabilities([[0.9, 0.1]] * 4), probabilities([[0.2, 0.8]] * 4)
    assert disputed({"x": first, "y": second}, TARGETS) == ("r0", "r1", "r2", "r3")


def test_one_member_disputes_nothing_nor_do_equal_ones():
    part = probabilities([[1.0, 0.0]] * 4)
    assert disputed({"only": part}, TARGETS) == ()
    assert disputed({"x": part, "y": part}, TARGETS) == ()
    assert disputed({}, TARGETS) == ()
