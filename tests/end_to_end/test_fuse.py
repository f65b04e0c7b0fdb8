# SPDX-License-Identifier: Apache-2.0
"""Prediction files of any framework: fused, judged, and applied to new files of the same members."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusetune import fuse_files, load
from fusetune.predictions.files import read_probabilities, write_probabilities, write_targets
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from support import fusetune

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")


def pool(folder: Path, rows: int = 600, seed: int = 0) -> tuple[list[Path], Path]:
    """Three members that err independently, with rows and classes in orders of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    ids = np.array([f"row-{seed}-{i}" for i in range(rows)])
    paths = []
    folder.mkdir(exist_ok=True)
    for member, suffix in (("one", "csv"), ("two", "parquet"), ("three", "parquet")):
        logits = rng.normal(0, 1, (rows, 3)) + 1.3 * np.eye(3)[labels]
        order, columns = rng.permutation(rows), rng.permutation(3)
        names = tuple(np.array(CLASSES)[columns])
        prediction = Probabilities.from_logits(ids[order], names, logits[order][:, columns])
        paths.append(folder / f"{member}.{suffix}")
        write_probabilities(paths[-1], prediction)
    write_targets(folder / "targets.csv", Targets(ids, CLASSES, labels))
    return paths, folder / "targets.csv"


def in_order(prediction: Probabilities) -> np.ndarray:
    """Probabilities with rows sorted by id and columns by class name."""
    rows, columns = np.argsort(prediction.ids), np.argsort(prediction.classes)
    return prediction.probs_NC[rows][:, columns]


def test_independent_members_are_worth_fusing(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    run = fuse_files(paths, targets, out=tmp_path / "run", holdout=0.5, report=False)
    assert run.results["rows"] == {"holdout": 300, "test": 300}
    assert run.results["verdict"]["decision"] == "worth_it"
    assert run.results["verdict"]["cost_ratio"] is None
    assert "Worth it" in run.verdict
    assert not run.report.exists()
    accuracy = {f["name"]: f["scores"]["test"]["accuracy"] for f in run.results["fusions"]}
    best = max(m["scores"]["test"]["accuracy"] for m in run.results["members"])
    assert accuracy["mean"] > best + 0.03


@pytest.mark.parametrize("method", ["mean", "vote", "best", "stacking"])
def test_one_method_is_the_answer(tmp_path: Path, method: str) -> None:
    paths, targets = pool(tmp_path / "pool")
    run = fuse_files(paths, targets, out=tmp_path / "run", methods=[method], report=False)
    assert run.results["chosen"] == method or method == "best"
    assert "auto" not in {f["name"] for f in run.results["fusions"]}


def test_a_fitted_fusion_applies_to_new_files_matched_by_name(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    run = fuse_files(
        paths,
        targets,
        out=tmp_path / "run",
        methods=["weighted_mean"],
        calibrate="none",
        report=False,
    )
    fresh, _ = pool(tmp_path / "fresh", rows=50, seed=1)
    out = tmp_path / "fused.parquet"
    done = fusetune("predict", run.folder, *reversed(fresh), "--out", out)
    assert done.returncode == 0, done.stderr
    fused = read_probabilities(out)
    weights = next(f["weights"] for f in run.results["fusions"] if f["name"] == "weighted_mean")
    parts = {path.stem: read_probabilities(path) for path in fresh}
    expected = sum(weights[name] * in_order(part) for name, part in parts.items())
    assert np.allclose(in_order(fused), expected, atol=1e-5)
    assert len(load(run.folder).predict(parts)) == 50


def test_a_member_missing_at_prediction_time_is_named(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    run = fuse_files(paths, targets, out=tmp_path / "run", methods=["mean"], report=False)
    done = fusetune("predict", run.folder, paths[0], "--out", tmp_path / "x.csv")
    assert done.returncode == 2
    assert "'two'" in done.stderr
    assert not (tmp_path / "x.csv").exists()


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    done = fusetune(
        "fuse", *paths, "--targets", targets, "--metric", "log_loss", "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert "log-loss" in done.stdout
    assert (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["metric"] == "log_loss"
    again = fusetune(
        "fuse", *paths, "--targets", targets, "--out", tmp_path / "run", "--json", "--no-report"
    )
    assert json.loads(again.stdout)["metric"] == "accuracy"


def test_files_whose_names_cannot_tell_members_apart(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    done = fusetune("fuse", paths[0], paths[0], "--targets", targets, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "'one' cannot be the name of one member" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_member_that_is_called_like_a_method_is_refused(tmp_path: Path) -> None:
    """Else the fusion's interval would stand beside the member's score."""
    paths, targets = pool(tmp_path / "pool")
    mean = paths[0].with_name(f"mean{paths[0].suffix}")
    paths[0].rename(mean)
    arguments = ("fuse", mean, *paths[1:], "--targets", targets, "--out", tmp_path / "run")
    done = fusetune(*arguments)
    assert done.returncode == 2
    assert "'mean' is the name of a member and of a fusion method" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
    done = fusetune(*arguments, "--method", "vote", "--no-report")
    assert done.returncode == 0, done.stderr


def test_files_that_are_called_alike_have_the_names_of_their_folders(tmp_path: Path) -> None:
    """So that a run folder's predictions can be fused again."""
    paths, targets = pool(tmp_path / "pool")
    done = fusetune("fuse", *paths, "--targets", targets, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    shown = [tmp_path / "run" / "predictions" / path.stem / "test.parquet" for path in paths]
    again = fusetune(
        "fuse", *shown, "--targets", targets, "--out", tmp_path / "again", "--json", "--no-report"
    )
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert [one["name"] for one in second["members"]] == [path.stem for path in paths]
    scores = [one["fusions"][-1]["scores"]["test"] for one in (first, second)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)  # single precision


@pytest.mark.data
def test_three_published_networks_on_shifted_images(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "cifar10_predictions"
    paths = sorted(folder.glob("*.parquet"))
    run = fuse_files(paths, folder / "targets.csv", out=tmp_path / "run", report=False)
    assert run.results["verdict"]["decision"] == "worth_it"
    assert run.results["verdict"]["gain"] > 0.023


def test_simple_fusions_load_no_heavy_library(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    methods = ("vote", "mean", "median", "geometric_mean", "weighted_mean", "greedy_selection")
    arguments = [
        "fuse",
        *map(str, paths),
        "--targets",
        str(targets),
        "--out",
        str(tmp_path / "run"),
    ]
    arguments += ["--no-report", *(text for name in methods for text in ("--method", name))]
    heavy = ("scipy", "sklearn", "matplotlib", "pydantic", "torch", "jinja2", "pandas")
    code = (
        "import sys\n"
        f"sys.argv = ['fusetune', *{arguments!r}]\n"
        "from fusetune.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        f"print('loaded:', [name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded: []")


def test_the_summary_says_what_the_rows_are_and_gives_advice(tmp_path: Path) -> None:
    paths, targets = pool(tmp_path / "pool")
    command = ("fuse", *paths, "--targets", targets, "--method", "mean", "--out", tmp_path / "run")
    done = fusetune(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["judged"] == "cross_fitted"
    assert done.stdout.startswith("on all rows, cross-fitted")
    assert "best member" in done.stdout
    assert "holdout" not in done.stdout
    sentences = found["advice"]
    assert sentences and " ".join(sentences) in done.stdout
    assert done.stdout.index(found["verdict"]["sentence"]) < done.stdout.index(sentences[0])
    report = (tmp_path / "run" / "report.html").read_text()
    assert "test rows" not in report
    assert 'id="contributions"' in report and 'id="calibration"' in report


@pytest.mark.parametrize("metric", ["log_loss", "macro_f1"])
def test_fusions_are_tested_by_the_metric_that_decides(tmp_path: Path, metric: str) -> None:
    paths, targets = pool(tmp_path / "pool")
    methods = ["mean", "vote"]
    run = fuse_files(
        paths, targets, out=tmp_path / "run", metric=metric, methods=methods, report=False
    )
    found = {f["name"]: f for f in run.results["fusions"]}
    assert found["mean"]["p_value"] == 0.001  # 999 swaps, none as far
    assert found["best_member"]["p_holm"] is None
    assert run.results["verdict"]["p_value"] == found["auto"]["p_value"]
