# SPDX-License-Identifier: Apache-2.0
"""What stops a run stops it cleanly: a message, an exit code, and nothing finished is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fusetune as package
from fusetune.errors import DataError
from support import SHORT, fusetune

pytestmark = pytest.mark.slow


def predictions(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.glob("predictions/*/*.parquet")
    }


def stopped(recipe: Path, out: Path, number: int) -> tuple[int, str]:
    """Exit code and stderr of a run that gets a signal after its first epoch from now."""
    log = out / "log.jsonl"
    before = log.read_text().count("end_of_epoch") if log.exists() else 0
    command = [sys.executable, "-m", "fusetune", "run", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_text().count("end_of_epoch") <= before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = listed.read_text().split() if listed.exists() else []
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    return process.returncode, errors


def test_signals_stop_a_run_with_its_worker_and_it_goes_on_to_the_same_bytes(
    finished_run: Path, short_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for number, code, word in (
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGTERM, 143, "Terminated"),
    ):
        found, errors = stopped(short_recipe, out, number)
        assert found == code
        assert f"{word}. The same command goes on where it was." in errors
        assert "Traceback" not in errors
        assert not list(out.rglob("results.json"))
    done = fusetune("run", short_recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    assert predictions(out) == predictions(finished_run)


def test_a_signal_stops_members_that_are_made_side_by_side(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SHORT + "parallel: 2\n")
    out = tmp_path / "run"
    code, errors = stopped(recipe, out, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in errors
    assert "failed" not in (out / "log.jsonl").read_text()


class Disk:
    """A file system of its own in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mount("size=300k", "tmpfs")

    def mount(self, options: str, *source: str) -> None:
        kind = ["-t", "tmpfs"] if source else []
        done = subprocess.run(
            ["mount", *kind, "-o", options, *source, str(self.folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip("needs the right to mount a tmpfs")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_and_a_read_only_one_are_told_and_lose_nothing(
    finished_run: Path, disk: Disk
) -> None:
    recipe, run = disk.folder.with_name("recipe.yaml"), disk.folder / "run"
    others = ("  - mini:resnet\n", "  - {source: mini, model: inception")
    recipe.write_text("".join(x for x in SHORT.splitlines(True) if not x.startswith(others)))
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 1
    assert "FileFailed: the system refused: [Errno 28] No space left on device" in done.stderr
    assert "what was finished stays" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "results.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in run.glob("steps/*/manifest.json")}
    assert any(path.parent.name.startswith("data-") for path in finished)
    disk.mount("remount,size=100m")
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    member = {name: content for name, content in predictions(run).items() if "mini-vgg" in name}
    assert member.items() <= predictions(finished_run).items()
    disk.mount("remount,ro")
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 2
    assert f"the run folder '{run}' cannot be written (Read-only file system)" in done.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of two classes and of different sizes, so that they are not held decoded."""
    rng = np.random.default_rng(0)
    for shade, name in ((60, "dark"), (190, "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.normal(shade, 50, (12 + i % 3, 12, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i:02}.png")
    return tmp_path / "photos"


def test_a_data_file_deleted_under_way_is_named_or_needed_no_more(photos: Path) -> None:
    recipe = {
        "task": "image_classification",
        "data": {"source": "folder", "path": str(photos)},
        "members": ["mini:vgg"],
        "finetune": {"epochs": 1},
    }
    gone, changed = photos / "light" / "39.png", photos / "light" / "38.png"

    def delete_in(phase: str) -> Any:
        def listen(event: Mapping[str, Any]) -> None:
            if event["phase"] == phase:
                gone.unlink(missing_ok=True)

        return listen

    out = photos.parent / "run"
    content = gone.read_bytes()
    with pytest.raises(DataError, match=r"light/39.png' cannot be read any more \(No such file"):
        package.run(recipe, out, listen=delete_in("check"))
    assert not out.exists()
    gone.write_bytes(content)

    def darken(event: Mapping[str, Any]) -> None:
        if event["phase"] == "check":
            changed.write_bytes(changed.read_bytes()[:-1] + b"!")

    with pytest.raises(DataError, match="the images changed while they were stored"):
        package.run(recipe, out, listen=darken)
    run = package.run(recipe, out, listen=delete_in("finetune"))
    assert run.report.exists()
    assert not gone.exists()
