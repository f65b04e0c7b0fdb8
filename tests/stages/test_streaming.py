# SPDX-License-Identifier: Apache-2.0
"""Fusing files in blocks of rows: the same results as in memory, whatever the files look like."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from fusetune import fuse_files, load
from fusetune.errors import InvalidValue, PredictionError, UsageError
from fusetune.fuse.bounded import Bounded
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions import long_truth, memory, streams, tables
from fusetune.predictions.files import read_columnar, read_probabilities, write_targets
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.pool import Reading
from fusetune.predictions.targets import LabelSets, Numbers
from fusetune.stages import streaming, survey
from pools import pool

pytestmark = pytest.mark.slow

METHODS = ["mean", "vote", "weighted_mean", "greedy_selection", "geometric_mean"]
# What only a run in memory measures, for it takes all rows at once, and what no two runs share.
WHOLE_ONLY = {
    "advice", "agreement", "contributions", "cost_ratio", "disagreement", "double_fault", "environment",
    "error_correlation", "expected_calibration_error_equal_mass", "oracle_accuracy", "q_statistic", "reliability",
}  # fmt: skip
UNEQUAL = {"seconds", "notes", "memory_bytes"}  # what may differ from the results in memory


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Bounds of some megabytes, of which Python takes nothing, and blocks of a few hundred rows."""
    monkeypatch.setattr(memory, "RESERVED", 0)
    monkeypatch.setattr(memory, "LEAST", 0)
    monkeypatch.setattr(memory, "BLOCK", 0.002)
    monkeypatch.setattr(memory, "FUSING", 0.0005)
    for module, name in ((streams, "BATCH"), (streams, "PROBE"), (long_truth, "PIECE")):
        monkeypatch.setattr(module, name, 70)
    monkeypatch.setattr(tables, "GROUP", 100)
    monkeypatch.setattr(survey, "PIECE", 90)


def columns_of(part):
    return {"id": part.ids.tolist(), **dict(zip(part.columns, part.array_NC.T, strict=True))}


def write_pool(folder, stack, targets, layout="groups"):
    """Files of the members, laid out one way or another, and of the targets."""
    folder.mkdir()
    files = []
    for index, (name, part) in enumerate(zip(stack.members, stack.parts, strict=True)):
        if layout in ("shuffled", "csv"):
            part = part.take(np.random.default_rng(index).permutation(len(part)))
        path = folder / f"{name}.{'csv' if layout == 'csv' else 'parquet'}"
        table = pa.table({n: np.ascontiguousarray(v) for n, v in columns_of(part).items()})
        if layout == "csv":
            pyarrow.csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=None if layout != "groups" else 60 + index)
        files.append(path)
    write_targets(folder / "targets.parquet", targets)
    return files, folder / "targets.parquet"


def without(content):
    """Results without what may differ."""
    if isinstance(content, dict):
        kept = {name: without(value) for name, value in content.items() if name not in UNEQUAL}
        return {n: v for n, v in kept.items() if n not in WHOLE_ONLY}
    return [without(value) for value in content] if isinstance(content, list) else content


def both(tmp_path, files, targets, kind=Probabilities, memory="8MB", **asked):
    """Fuse in memory and in blocks, and compare everything; the run in blocks."""
    asked = {"holdout": 0.5, "report": False, **asked}
    whole = fuse_files(files, targets, out=tmp_path / "whole", **asked)
    blocks = fuse_files(files, targets, out=tmp_path / "blocks", memory=memory, **asked)
    for fusion in whole.results["fusions"]:
        fusion["scores"].pop("holdout", None)
    expected, found = without(dict(whole.results)), without(dict(blocks.results))
    assert found == expected
    for name in ("predictions/ensemble/test.parquet",):
        one, other = (read_columnar(run.folder / name, kind) for run in (whole, blocks))
        assert one.ids.tolist() == other.ids.tolist()
        assert one.array_NC.tobytes() == other.array_NC.tobytes()
    for role in ("holdout", "test"):
        tables = [pq.read_table(run.folder / f"targets/{role}.parquet") for run in (whole, blocks)]
        assert tables[0].to_pydict() == tables[1].to_pydict()
    return blocks


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("method", METHODS)
def test_row_groups_read_where_they_lie_give_the_results_of_memory(tmp_path, method, metric):
    files, targets = write_pool(tmp_path / "pool", *pool(4, 900, 3, dtype=np.float32))
    run = both(tmp_path, files, targets, methods=[method], metric=metric)
    assert not [note for note in run.results["notes"] if "written out" in note]


@pytest.mark.parametrize("layout", ["one_group", "shuffled", "csv"])
def test_other_files_are_written_out_and_give_the_same(tmp_path, layout):
    files, targets = write_pool(tmp_path / "pool", *pool(4, 900, 3), layout=layout)
    run = both(tmp_path, files, targets, methods=METHODS)
    assert [note for note in run.results["notes"] if "4 files were written out" in note]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "pool", "whole"]


def test_rows_are_rescaled_all_or_none_as_in_memory(tmp_path):
    stack, truth = pool(3, 900, 3, dtype=np.float32)
    stack.parts[1].probs_NC[700] *= np.float32(1.0005)  # in a block far from the first
    for layout in ("groups", "one_group"):
        files, targets = write_pool(tmp_path / f"pool_{layout}", stack, truth, layout)
        both(tmp_path / layout, files, targets, methods=["mean"], metric="log_loss")


def test_members_that_know_other_classes_in_another_order(tmp_path):
    stack, truth = pool(3, 600, 4)
    parts = list(stack.parts)
    names = parts[0].classes
    parts[1] = parts[1].with_array(names[::-1], parts[1].probs_NC[:, ::-1])
    fewer_NC = parts[2].probs_NC[:, :3] / parts[2].probs_NC[:, :3].sum(axis=1, keepdims=True)
    parts[2] = parts[2].with_array(names[:3], fewer_NC)
    known = type(stack)(stack.members, tuple(parts), names)
    files, targets = write_pool(tmp_path / "pool", known, truth)
    both(tmp_path, files, targets, methods=METHODS)


def test_labels_scores_and_logits_are_read_as_in_memory(tmp_path):
    stack, truth = pool(4, 600, 3)
    files, targets = write_pool(tmp_path / "pool", stack, truth)
    logits = np.log(stack.parts[0].probs_NC)
    rows = {"id": stack.ids.tolist()}
    names = stack.classes
    pq.write_table(pa.table(rows | dict(zip(names, logits.T, strict=True))), files[0])
    pq.write_table(pa.table(rows | dict(zip(names, 7 * logits.T, strict=True))), files[1])
    pq.write_table(pa.table(rows | {"label": stack.parts[2].labels().tolist()}), files[2])
    forms = {files[0].stem: "logits", files[1].stem: "scores"}
    both(tmp_path, files, targets, methods=["mean", "weighted_mean"], reading=Reading(forms=forms))


def test_numbers_and_sets_of_labels(tmp_path):
    random = np.random.default_rng(0)
    ids = np.array([f"row{n}" for n in range(500)])
    truth_ND = random.normal(size=(500, 2))
    numbers = Numbers(ids, ("x", "y"), truth_ND)
    noisy = [truth_ND + random.normal(size=(500, 2)) for _ in range(3)]
    parts = tuple(Values(ids, ("x", "y"), values_ND) for values_ND in noisy)
    stack, _ = pool(3, 2, 2)
    files, targets = write_pool(
        tmp_path / "numbers", type(stack)(stack.members, parts, ("x", "y")), numbers
    )
    both(tmp_path / "1", files, targets, Values, methods=["weighted_mean"])
    sets = LabelSets(ids, ("x", "y"), truth_ND > 0)
    parts = tuple(Marginals(ids, ("x", "y"), 1 / (1 + np.exp(-values_ND))) for values_ND in noisy)
    files, targets = write_pool(
        tmp_path / "sets", type(stack)(stack.members, parts, ("x", "y")), sets
    )
    both(tmp_path / "2", files, targets, Marginals, methods=["mean", "greedy_selection"])


def test_roles_and_in_sample(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(3, 600, 3))
    both(tmp_path / "1", files, targets, holdout=1, methods=["weighted_mean"])
    table = pq.read_table(targets)
    roles = np.array(["train", "holdout", "test"])[np.arange(600) % 3]
    pq.write_table(table.append_column("role", pa.array(roles)), targets)
    both(tmp_path / "2", files, targets, holdout=None, methods=["weighted_mean"])


def test_what_was_fitted_applies_to_new_files(tmp_path):
    stack, truth = pool(3, 600, 3)
    files, targets = write_pool(tmp_path / "pool", stack, truth)
    run = fuse_files(files, targets, out=tmp_path / "run", holdout=0.5, memory="8MB")
    assert run.report.exists()
    fused = load(run.folder).predict(dict(zip(stack.members, stack.parts, strict=True)))
    shown = read_probabilities(run.folder / "predictions/ensemble/test.parquet")
    rows = [fused.ids.tolist().index(name) for name in shown.ids]
    np.testing.assert_allclose(fused.probs_NC[rows], shown.probs_NC, atol=1e-6)


def test_again_is_read_from_the_artifact(tmp_path, monkeypatch):
    files, targets = write_pool(tmp_path / "pool", *pool(3, 600, 3))
    asked = {"out": tmp_path / "run", "holdout": 0.5, "memory": "8MB", "report": False}
    first = fuse_files(files, targets, **asked)
    monkeypatch.setattr(streaming, "survey", None)
    assert fuse_files(files, targets, **asked).results == first.results
    with pytest.raises(TypeError):
        fuse_files(files, targets, **{**asked, "memory": "9MB"})


def test_too_many_rows_are_sampled_with_weights_and_it_is_said(tmp_path, monkeypatch):
    stack, truth = pool(4, 3000, 3)
    rare = np.flatnonzero(truth.labels_N == 0)[12:]
    kept = np.setdiff1d(np.arange(3000), rare)
    stack, truth = stack.take(kept), truth.take(kept)
    files, targets = write_pool(tmp_path / "pool", stack, truth)
    seen = []
    fit = Stacking.fit

    def spy(self, some, truth, metric, *, sample_weights_N=None):
        seen.append((len(some), truth, sample_weights_N))
        return fit(self, some, truth, metric, sample_weights_N=sample_weights_N)

    monkeypatch.setattr(Stacking, "fit", spy)
    run = fuse_files(
        files,
        targets,
        out=tmp_path / "run",
        methods=["stacking"],
        calibrate="none",
        holdout=0.5,
        memory="350KB",
        report=False,
    )
    num_rows, sample, weights_N = seen[0]
    num_holdout = run.results["rows"]["holdout"]
    assert 50 < num_rows < num_holdout / 4
    said = f"stacking was fitted on {num_rows:,} of {num_holdout:,} holdout rows"
    assert any(said in note for note in run.results["notes"])
    holdout = pq.read_table(run.folder / "targets/holdout.parquet")["target"].to_pylist()
    for name in sample.classes:
        share = weights_N[sample.names() == name].sum() / weights_N.sum()
        assert share == pytest.approx(holdout.count(name) / len(holdout), rel=1e-9)
    assert len(np.unique(np.round(weights_N, 9))) > 1  # the rare class's rows count less


def test_the_best_member_is_found_on_all_rows(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(6, 3000, 3))
    run = fuse_files(
        files, targets, out=tmp_path / "run", methods=["mean"], holdout=0.5, memory="120KB"
    )
    assert any("sample" in note or "of each class" in note for note in run.results["notes"])
    scores = {m["name"]: m["scores"]["holdout"]["accuracy"] for m in run.results["members"]}
    assert run.results["best_member"] == max(scores, key=lambda name: scores[name])
    entry = next(f for f in run.results["fusions"] if f["name"] == "best_member")
    assert entry["members"] == [run.results["best_member"]]


def test_a_method_on_few_rows_takes_a_stratified_sample_with_weights():
    stack, targets = pool(3, 400, 4)
    seen = {}

    class Spy(Stacking):
        def fit(self, stack, targets, metric, *, sample_weights_N=None):
            seen.update(rows=len(stack), weights_N=sample_weights_N)

    weights_N = np.arange(1.0, 401.0)
    bounded = Bounded(method=Spy(), ids=stack.ids, weights_N=weights_N, most_rows=100)
    order = np.random.default_rng(0).permutation(400)
    bounded.fit(stack.take(order), targets.take(order), LogLoss())
    assert 98 <= seen["rows"] <= 102  # each class in proportion, rounded
    assert seen["weights_N"].mean() == pytest.approx(1)


ASKED = {"holdout": 0.5, "memory": "8MB", "report": False}


def refused(tmp_path, files, targets, error, words, **asked):
    """The call fails with these words, and nothing is left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as caught:
        fuse_files(files, targets, out=tmp_path / "run", **{**ASKED, **asked})
    for word in words:
        assert word in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_memory_cannot_do_is_refused(tmp_path, monkeypatch):
    files, targets = write_pool(tmp_path / "pool", *pool(2, 300, 3))
    refused(tmp_path, files, targets, UsageError, ["--holdout 0.5"], holdout=None)
    refused(tmp_path, files, targets, InvalidValue, ["1XB", "1GB"], memory="1XB")
    filled = Reading(missing="renormalize")
    refused(tmp_path, files, targets, InvalidValue, ["renormalize"], reading=filled)
    features = Reading(forms={files[0].stem: "features"})
    refused(tmp_path, files, targets, PredictionError, ["feature vectors"], reading=features)
    unknown = Reading(forms={"who": "logits"})
    refused(tmp_path, files, targets, InvalidValue, ["'who'"], reading=unknown)
    monkeypatch.setattr(memory, "LEAST", 10**9)
    refused(tmp_path, files, targets, InvalidValue, ["8,000,000 bytes", "larger"])


def test_faults_deep_in_a_file_name_file_and_row(tmp_path):
    for number, (column, words) in enumerate(
        [("class1", ["row 'row250'", "member1"]), ("id", ["'member1'", "'row250'", "missing"])]
    ):
        files, targets = write_pool(tmp_path / str(number), *pool(3, 300, 3))
        table = pq.read_table(files[1]).to_pydict()
        table[column][250] = float("nan") if column != "id" else "another"
        pq.write_table(pa.table(table), files[1], row_group_size=60)
        refused(tmp_path, files, targets, PredictionError, words)


def test_files_that_cannot_be_read(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(3, 300, 3))
    content = files[1].read_bytes()
    files[1].write_bytes(content[: len(content) // 2])
    refused(tmp_path, files, targets, PredictionError, ["member1", "complete parquet"])
    files[1].unlink()
    refused(tmp_path, files, targets, PredictionError, ["member1", "no file"])
    refused(tmp_path, [files[0]], files[1], PredictionError, ["no file"])


def test_a_file_too_large_to_be_put_in_order(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(2, 900, 3), layout="shuffled")
    refused(tmp_path, files, targets, PredictionError, ["Sort the file"], memory="50KB")


def test_a_true_class_that_no_member_knows(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(2, 300, 3))
    table = pq.read_table(targets).to_pydict()
    table["target"][200] = "elk"
    pq.write_table(pa.table(table), targets)
    refused(tmp_path, files, targets, PredictionError, ["'elk'"])


def test_repeated_ids_of_targets(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(2, 300, 3))
    table = pq.read_table(targets).to_pydict()
    table["id"][200] = table["id"][3]
    pq.write_table(pa.table(table), targets)
    refused(tmp_path, files, targets, PredictionError, ["'row3'", "more than once"])


def test_results_say_what_they_are(tmp_path):
    files, targets = write_pool(tmp_path / "pool", *pool(2, 300, 3))
    run = fuse_files(files, targets, out=tmp_path / "run", **ASKED)
    results = json.loads((run.folder / "results.json").read_text())
    assert results["memory_bytes"] == 8_000_000
    assert not (run.folder / "predictions" / files[0].stem).exists()
    assert sorted(path.name for path in Path(run.folder / "predictions").iterdir()) == ["ensemble"]
