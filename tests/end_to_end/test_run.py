# SPDX-License-Identifier: Apache-2.0
"""Whole runs in processes of their own: what they leave, how they resume, what they say."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from support import SHORT, fusetune

pytestmark = pytest.mark.slow

MEMBERS = ["mini-resnet", "mini-vgg", "mini-inception"]
FUSIONS = [
    "best_member",
    "vote",
    "mean",
    "weighted_mean",
    "log_pool",
    "stacking",
    "greedy_selection",
    "auto",
]
METRICS = {"accuracy", "log_loss", "brier", "expected_calibration_error", "macro_f1"}


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run that a test may change; its name, which the report shows, stays."""
    return Path(shutil.copytree(run, folder / run.name))


def test_the_run_folder_holds_what_the_documents_say(finished_run: Path) -> None:
    shown = {path.name for path in finished_run.iterdir()} - {".lock"}
    assert shown == {
        "recipe.yaml", "results.json", "report.html", "predictions", "targets",
        "ensemble", "images", "log.jsonl", "steps",
    }  # fmt: skip
    for member in MEMBERS:
        for role, rows in (("validation", 40), ("holdout", 120), ("test", 300)):
            table = pq.read_table(finished_run / "predictions" / member / f"{role}.parquet")
            assert table.column_names == ["id", *map(str, range(10))]
            assert table.num_rows == rows
            sums = np.sum([table.column(str(c)).to_numpy() for c in range(10)], axis=0)
            assert np.allclose(sums, 1, atol=1e-5)
    assert not list(finished_run.rglob("*.tmp*"))
    assert not list(finished_run.rglob("work"))


def test_results_follow_the_schema_and_the_predictions(finished_run: Path) -> None:
    found = results(finished_run)
    assert found["version"] == 1
    assert found["task"] == "image_classification"
    assert found["metric"] == "accuracy"
    assert found["rows"] == {"train": 120, "validation": 40, "holdout": 120, "test": 300}
    assert [m["name"] for m in found["members"]] == MEMBERS
    assert {f["name"] for f in found["fusions"]} == set(FUSIONS)
    assert found["chosen"] == "auto"
    assert found["seed"] == 0
    truth = pq.read_table(finished_run / "targets" / "test.parquet").to_pydict()
    for entry in found["members"]:
        assert entry["status"] == "ok"
        assert entry["error"] is None
        assert set(entry["scores"]["test"]) == METRICS
        assert entry["seconds"]["finetune"] > 0
        assert entry["seconds"]["predict_per_row"] > 0
        assert entry["parameters"] > 1000
        table = pq.read_table(
            finished_run / "predictions" / entry["name"] / "test.parquet"
        ).to_pydict()
        assert table.pop("id") == truth["id"]
        labels = np.array(list(table))[np.array(list(table.values())).argmax(axis=0)]
        assert entry["scores"]["test"]["accuracy"] == pytest.approx(
            np.mean(labels == truth["target"])
        )
    assert found["advice"]
    assert all(isinstance(sentence, str) for sentence in found["advice"])
    for fusion in found["fusions"]:
        if fusion["name"] == "best_member":
            assert fusion["p_value"] is fusion["p_holm"] is None
        else:
            assert 0 <= fusion["p_value"] <= fusion["p_holm"] <= 1
    for name in (
        "agreement", "disagreement", "double_fault", "q_statistic", "error_correlation",
    ):  # fmt: skip
        assert found[name]["members"] == MEMBERS
        assert found[name]["mean"] == pytest.approx(
            np.array(found[name]["matrix"])[np.triu_indices(3, 1)].mean(), abs=1e-5
        )
    accuracies = [m["scores"]["test"]["accuracy"] for m in found["members"]]
    assert max(accuracies) <= found["oracle_accuracy"] <= 1
    calibration = found["calibration"]
    auto = next(f for f in found["fusions"] if f["name"] == "auto")
    equal_mass = "expected_calibration_error_equal_mass"
    for when in ("before", "after"):
        assert set(calibration[when]) == METRICS | {equal_mass}
        assert sum(calibration["reliability"][when]["rows"]) == 300
    for metric in METRICS:
        assert calibration["after"][metric] == pytest.approx(auto["scores"]["test"][metric])
    given = found["contributions"]
    assert given["of"] in ("weights", "mean")
    assert (given["rows"], given["permutations"]) == (300, 0)
    total = sum(one["shapley"] for one in given["members"].values())
    assert total == pytest.approx(given["score_all"] - given["score_none"])
    verdict = found["verdict"]
    assert verdict["p_value"] == auto["p_value"]
    assert verdict["decision"] in ("worth_it", "not_shown", "not_worth_it")
    assert verdict["interval"][0] <= verdict["gain"] <= verdict["interval"][1]
    assert 0 <= verdict["p_value"] <= 1
    assert verdict["cost_ratio"] > 1
    scores = {
        e["name"]: e["scores"]["test"]["accuracy"] for e in [*found["members"], *found["fusions"]]
    }
    assert verdict["gain"] == pytest.approx(scores["auto"] - scores[found["best_member"]])


def test_running_again_skips_everything_and_changes_no_byte(
    finished_run: Path, short_recipe: Path, tmp_path: Path
) -> None:
    run = copied(finished_run, tmp_path)
    before = {
        p: p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and p.name not in ("log.jsonl", ".lock")
    }
    done = fusetune("run", short_recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 2 * len(MEMBERS)
    assert "epoch" not in done.stderr
    after = {
        p: p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and p.name not in ("log.jsonl", ".lock")
    }
    assert before == after


def test_a_changed_member_redoes_that_member_only(
    finished_run: Path, short_recipe: Path, tmp_path: Path
) -> None:
    run, recipe = copied(finished_run, tmp_path), tmp_path / "changed.yaml"
    recipe.write_text(SHORT.replace("{train: head, epochs: 2}", "{train: head, epochs: 1}"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    plan = fusetune("run", recipe, "--out", run, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert [line for line in plan.stdout.splitlines() if not line.startswith("done ")] == [
        "redo    finetune-mini-inception  finetune.epochs: 2 → 1",
        "redo    predict-mini-inception   weights changed",
        "redo    fuse                     predictions.mini-inception changed",
        "redo    ensemble                 fusion changed; predictions.mini-inception changed",
    ]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 4
    assert "finetune-mini-inception: made again: finetune.epochs: 2 → 1" in done.stderr
    assert "mini-inception: epoch 1/1" in done.stderr
    assert "mini-vgg: epoch" not in done.stderr


def test_a_damaged_artifact_is_redone_with_the_same_bytes(
    finished_run: Path, short_recipe: Path, tmp_path: Path
) -> None:
    run = copied(finished_run, tmp_path)
    prediction = run / "predictions" / "mini-vgg" / "test.parquet"
    expected = prediction.read_bytes()
    artifact = next((run / "steps").glob("predict-mini-vgg-*")) / "test.parquet"
    artifact.write_bytes(expected[:-7] + b"damaged")
    plan = fusetune("run", short_recipe, "--out", run, "--dry-run", "--json")
    assert [step for step in json.loads(plan.stdout) if step["state"] != "done"] == [
        {"step": "predict-mini-vgg", "state": "redo", "why": "test.parquet is damaged"}
    ]
    done = fusetune("run", short_recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert artifact.read_bytes() == prediction.read_bytes() == expected
    assert "predict-mini-vgg: made again: test.parquet is damaged" in done.stderr
    assert done.stderr.count("made again") == 1


def test_a_member_dropped_from_the_recipe_is_shown_no_more(
    finished_run: Path, tmp_path: Path
) -> None:
    run, recipe = copied(finished_run, tmp_path), tmp_path / "fewer.yaml"
    recipe.write_text(SHORT.replace("  - mini:resnet\n", ""))
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (run / "predictions").iterdir()} == {*MEMBERS[1:], "ensemble"}
    assert [m["name"] for m in results(run)["members"]] == MEMBERS[1:]


def test_the_resolved_recipe_runs_from_anywhere_to_the_same_predictions(
    finished_run: Path, tmp_path: Path
) -> None:
    done = fusetune("run", finished_run / "recipe.yaml", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in sorted(finished_run.glob("predictions/*/*.parquet")):
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(finished_run)).read_bytes()


def test_a_second_run_in_the_same_folder_is_told_so_and_stops(
    short_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fusetune", "run", str(short_recipe), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while not (out / "log.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # alive and holding the lock, however fast the machine
        second = fusetune("run", short_recipe, "--out", out)
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
    assert second.returncode == 2
    assert f"process {first.pid} is working in" in second.stderr
    done = fusetune("run", short_recipe, "--out", out)
    assert done.returncode == 0, done.stderr


CRASHING = """
import os, resource, signal
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes, way="none"):
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)
        self.way = way

    def forward(self, images):
        if images.shape[0] > 2 and self.training:  # not yet when it is loaded
            if self.way == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.way == "raise":
                raise ValueError("the inputs are not to my taste")
            if self.way == "memory":
                raise MemoryError("40 GB are too much")
            if self.way == "exhaust":  # a limit of the worker's, lifted for the members after it
                limits = resource.getrlimit(resource.RLIMIT_AS)
                resource.setrlimit(resource.RLIMIT_AS, (2**33, limits[1]))
                try:
                    torch.zeros(2**34)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, limits)
            if self.way == "nan":
                return self.fc(images.mean(dim=(2, 3))) * float("nan")
        return self.fc(images.mean(dim=(2, 3)))
"""


def crashing(ways: list[str], *, well: bool) -> str:
    lines = [
        f"  - {{source: module, model: crashing.Net, arguments: {{way: {way}}}, weights: none, name: {way}-net, preprocess: {{size: 8}}}}"
        for way in ways
    ]
    members = lines + ["  - mini:vgg"] * well
    return (
        SHORT[: SHORT.index("members:")]
        + "members:\n"
        + "\n".join(members)
        + "\nmetric: accuracy\n"
    )


def test_members_that_fail_are_recorded_and_the_others_fused(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(crashing(["die", "raise", "memory", "exhaust", "nan", "none"], well=True))
    done = fusetune("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "run")
    errors = {m["name"]: m["error"] for m in found["members"] if m["status"] == "failed"}
    assert "killed by SIGKILL (often: out of memory)" in errors["die-net"]
    assert "ValueError: the inputs are not to my taste (crashing.py:" in errors["raise-net"]
    assert "MemoryError" in errors["memory-net"]
    assert "no longer finite in epoch 1" in errors["nan-net"]
    assert len(errors) == 4
    exhausted = next(m for m in found["members"] if m["name"] == "exhaust-net")
    assert [note for note in exhausted["notes"] if "memory was short" in note]
    fused = {name for f in found["fusions"] for name in f["members"]}
    assert fused <= {"none-net", "exhaust-net", "mini-vgg"}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "the inputs are not to my taste" in report


def test_with_no_member_left_the_run_fails_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(crashing(["raise"], well=False))
    done = fusetune("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "every member failed" in done.stderr
    assert "not to my taste" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "results.json").exists()


def test_new_images_are_predicted_from_the_command_line_and_from_python(
    finished_run: Path, tmp_path: Path
) -> None:
    import fusetune as package
    from fusetune.data.datasets.digits import Digits

    rows = Digits(noise=0.2).read()
    truth = pq.read_table(finished_run / "targets" / "test.parquet").to_pydict()
    position = {name: row for row, name in enumerate(rows.ids.tolist())}
    (tmp_path / "new").mkdir()
    for name in truth["id"][:20]:
        Image.fromarray(rows.images.pixels(position[name])).save(tmp_path / "new" / f"{name}.png")
    out = tmp_path / "predictions.csv"
    done = fusetune("predict", finished_run, tmp_path / "new", "--out", out, "--members")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    expected = pq.read_table(finished_run / "predictions" / "ensemble" / "test.parquet").to_pydict()
    where = {name: row for row, name in enumerate(expected["id"])}
    lines = out.read_text().splitlines()
    assert lines[0].replace('"', "") == "id,0,1,2,3,4,5,6,7,8,9"
    assert len(lines) == 21
    for line in lines[1:]:
        name, *values = line.replace('"', "").split(",")
        row = where[name.removesuffix(".png")]
        assert np.allclose(
            np.array(values, float), [expected[str(c)][row] for c in range(10)], atol=1e-5
        )
    assert len(list(tmp_path.glob("predictions.mini-*.csv"))) == 3

    ensemble = package.load(finished_run)
    pixels = np.stack([rows.images.pixels(position[name]) for name in truth["id"][:20]])
    fused = ensemble.predict(pixels)
    assert np.allclose(
        fused.probs_NC,
        [[expected[str(c)][where[n]] for c in range(10)] for n in truth["id"][:20]],
        atol=1e-5,
    )


def test_the_report_is_drawn_again_to_the_same_bytes(finished_run: Path, tmp_path: Path) -> None:
    done = fusetune("report", finished_run, "--out", tmp_path / "again.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_text() == (finished_run / "report.html").read_text()


def test_init_writes_a_recipe_that_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shade, name in ((60, "dark"), (190, "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.normal(shade, 50, (12, 12, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    recipe = tmp_path / "recipe.yaml"
    done = fusetune("init", tmp_path / "photos", "--out", recipe)
    assert done.returncode == 0, done.stderr
    assert fusetune("init", tmp_path / "photos", "--out", recipe).returncode == 2  # it is there
    assert "#" in recipe.read_text()
    content = yaml.safe_load(recipe.read_text())
    content["finetune"] = {**content.get("finetune", {}), "epochs": 1}
    recipe.write_text(yaml.safe_dump(content))
    done = fusetune("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run")["rows"]["test"] > 0


def test_json_goes_to_stdout_and_progress_to_stderr(
    finished_run: Path, short_recipe: Path, tmp_path: Path
) -> None:
    run = copied(finished_run, tmp_path)
    done = fusetune("run", short_recipe, "--out", run, "--json")
    assert json.loads(done.stdout)["chosen"] == "auto"
    assert "Reading and checking" in done.stderr


@pytest.mark.parametrize("command", ["demo", "init", "run", "fuse", "predict", "report", "list"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = fusetune(command, "--help", NO_COLOR="1", COLUMNS="200")
    assert done.returncode == 0
    assert re.search(rf"Example: +fusetune {command}", done.stdout)


def test_wrong_usage_ends_with_two() -> None:
    assert fusetune("run").returncode == 2
    assert fusetune("no-such-command").returncode == 2
    done = fusetune("run", "recipe.yaml", "--time-limit", "soon")
    assert done.returncode == 2
    assert "the time limit is 'soon'; expected a time above 0 like 90s" in done.stderr
    done = fusetune("list", "metods")
    assert done.returncode == 2
    assert "Did you mean 'methods'?" in done.stderr
