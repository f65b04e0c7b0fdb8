# SPDX-License-Identifier: Apache-2.0
"""Trackers: real ones where they are installed, refused before any work where they are not."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fusetune.errors import InvalidValue, MissingExtra, UnknownName
from fusetune.stages.tracking import TRACKERS, check_tracker, listening, log_scores, tracking

RESULTS = {
    "members": [
        {"name": "net", "scores": {"test": {"accuracy": 0.75}}},
        {"name": "failed", "scores": {}},
    ],
    "fusions": [{"name": "mean", "scores": {"test": {"accuracy": 0.875}}}],
}
EPOCH = {
    "phase": "finetune",
    "member": "net",
    "epochs": 2,
    "end_of_epoch": True,
    "epoch": 2,
    "validation_loss": 0.5,
}


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'tensorboard'"):
        check_tracker("tensorbord")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install mlflow"):
        check_tracker("mlflow")


def test_learning_curves_and_scores_are_logged_and_events_still_heard() -> None:
    logged: list[Any] = []
    heard: list[Any] = []
    listen = listening(heard.append, lambda values, epoch: logged.append((values, epoch)))
    for event in ({"phase": "fuse"}, EPOCH):
        listen(event)
    assert heard == [{"phase": "fuse"}, EPOCH]
    assert [epoch for _, epoch in logged] == [2]
    assert logged[0][0]["net/validation_loss"] == 0.5
    assert "net/member" not in logged[0][0]
    log_scores(lambda values, epoch: logged.append((values, epoch)), RESULTS)
    assert logged[1:] == [
        ({"net/test_accuracy": 0.75}, None),
        ({"mean/test_accuracy": 0.875}, None),
    ]


class Failing:
    """An accelerator whose tracker's server goes away."""

    def __init__(self, **_: object) -> None:
        self.calls = 0

    def init_trackers(self, *_: object, **__: object) -> None:
        pass

    def log(self, *_: object, **__: object) -> None:
        self.calls += 1
        raise ConnectionError("no route to host\nand more")

    def end_training(self) -> None:
        raise AssertionError("it gets no more")


def test_a_tracker_that_fails_is_left_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    failing = Failing()
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: failing)
    with tracking("tensorboard", tmp_path, heard.append) as log:
        log({"a": 1.0}, 1)
        log({"a": 2.0}, 2)
    assert failing.calls == 1
    error = "ConnectionError: no route to host"
    assert heard == [{"phase": "untracked", "tracker": "tensorboard", "error": error}]


def test_a_tracker_that_would_not_begin_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("no API key")

    monkeypatch.setattr("accelerate.Accelerator", refuse)
    with (
        pytest.raises(InvalidValue, match=r"wandb would not begin \(ValueError: no API key\)"),
        tracking("wandb", tmp_path),
    ):
        raise AssertionError("nothing runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.filterwarnings("default")  # of the trackers' own
def test_a_tracker_writes_below_the_run_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracking(name, tmp_path / "run") as log:
        listening(lambda event: None, log)(EPOCH)
        log_scores(log, RESULTS)
    written = [path for path in (tmp_path / "run" / "tracking").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) > 0
