# SPDX-License-Identifier: Apache-2.0
"""One run folder, one writer; what is published is whole or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.errors import RunLocked, UsageError
from fusetune.store.experiment import Experiment

HOLD = """
import sys, time
from pathlib import Path
from fusetune.store.experiment import Experiment
with Experiment(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_told_so_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with (
            pytest.raises(RunLocked, match=f"process {process.pid} is working in"),
            Experiment(tmp_path),
        ):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with Experiment(tmp_path):
        pass
    with Experiment(tmp_path):  # and an orderly end frees it too
        pass


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".results.123.tmp.json").write_text("{")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / ".ensemble.fresh.tmp").mkdir()
    with Experiment(tmp_path):
        assert {p.name for p in tmp_path.rglob("*")} == {".lock", "predictions"}


def test_a_published_folder_replaces_the_one_before(tmp_path: Path) -> None:
    source, old = tmp_path / "artifact", tmp_path / "run" / "ensemble"
    for folder, name in ((source, "new"), (old, "stale")):
        folder.mkdir(parents=True)
        (folder / name).write_text(name)
    with Experiment(tmp_path / "run") as experiment:
        experiment.publish(source, "ensemble")
        assert [p.name for p in old.iterdir()] == ["new"]
        experiment.publish(source / "new", "predictions/new")
        experiment.publish(source / "new", "predictions/new")  # again: the same file
        assert (tmp_path / "run" / "predictions" / "new").read_text() == "new"
        experiment.withdraw("predictions")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "ensemble"]


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be written"),
        Experiment(tmp_path / "file" / "run"),
    ):
        pass


def end_with(error: Exception, folder: Path, *, finished: bool) -> None:
    """Work in a run folder until an error ends it."""
    with Experiment(folder) as experiment:
        step = experiment.step("one", {})
        step.begin()
        if finished:
            step.finish()
        raise error


WRONG = UsageError("x", "y", "z")


@pytest.mark.parametrize(
    ("error", "there_before", "finished", "stays"),
    [
        (WRONG, False, False, False),
        (WRONG, True, False, True),
        (WRONG, False, True, True),
        (OSError("disk full"), False, False, True),
    ],
)
def test_wrong_input_leaves_no_folder_that_was_not_there(
    error: Exception, there_before: bool, finished: bool, stays: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    if there_before:
        folder.mkdir()
    with pytest.raises(type(error), match=str(error)):
        end_with(error, folder, finished=finished)
    assert folder.exists() == stays
