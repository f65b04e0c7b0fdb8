# SPDX-License-Identifier: Apache-2.0
"""Kill a run at random moments until it has been hit often enough, and compare what comes out.

    python scripts/kill_test.py                      # the demo, ten kills
    python scripts/kill_test.py RECIPE --kills 50

A run that was killed (`kill -9`) and started again has to end with the same predictions, the same
ensemble and the same files as one that was never killed, with no process and no temporary file left
over. A run that ends before its kill is compared too, does not count as hit, and starts anew.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # equal bytes need equal threads
TIMED = {"seconds", "cost_ratio", "images_per_second", "sentence"}
LOG = "log.jsonl"


def main() -> None:
    """Parse the command line and run the test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", type=Path, nargs="?", help="default: the demo's")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_and_compare(options.recipe, Path(folder), options.kills, options.seed)


def kill_and_compare(recipe: Path | None, folder: Path, kills: int, seed: int) -> None:
    """Run once in peace, then under fire; raise AssertionError where the outcomes differ."""
    reference, killed = folder / "reference", folder / "killed"
    process, before = start(recipe, reference), time.monotonic()
    wait_for_work(process, reference, since=0)
    startup = time.monotonic() - before
    assert process.wait() == 0
    work = time.monotonic() - before - startup
    expected = contents(reference)
    print(
        f"unkilled: {startup:.1f} s to start, {work:.1f} s of work; {len(expected)} files compared"
    )
    moments = random.Random(seed)
    hits = 0
    while hits < kills:
        since = log_size(killed)
        process, before = start(recipe, killed), time.monotonic()
        if hits % 4 == 3:  # now and then before the work begins
            delay = moments.uniform(0, startup)
        else:
            wait_for_work(process, killed, since)
            delay = moments.uniform(0, 0.5 * work)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            workers = children(process.pid)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += 1
            wait_for_end(workers)
            print(
                f"kill {hits} after {time.monotonic() - before:.1f} s: {last_event(killed, since)}"
            )
        else:
            compare(expected, contents(killed))
            print("a run ended before its kill, equal; the next one starts anew")
            shutil.rmtree(killed)
    assert start(recipe, killed).wait() == 0
    compare(expected, contents(killed))
    print(f"{hits} kills of a live process: predictions, ensemble and files are identical")


def wait_for_work(process: "subprocess.Popen[bytes]", run: Path, since: int) -> None:
    """Wait until the run's log grows: everything before it leaves no trace."""
    while process.poll() is None and log_size(run) <= since:
        time.sleep(0.01)


def log_size(run: Path) -> int:
    """Bytes in the run's log."""
    log = run / LOG
    return log.stat().st_size if log.exists() else 0


def start(recipe: Path | None, out: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own."""
    command = ["demo"] if recipe is None else ["run", str(recipe)]
    return subprocess.Popen(
        [sys.executable, "-m", "fusetune", *command, "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )


def contents(run: Path) -> dict[str, str]:
    """Relative path → checksum of what has to be equal, or "" for what holds timings."""
    found = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        published = name.startswith(("predictions/", "targets/", "ensemble/", "images/"))
        weights = path.suffix in (".safetensors", ".npy", ".parquet")
        equal = published or weights or name == "recipe.yaml"
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if equal else ""
    untimed = without_timings(json.loads((run / "results.json").read_text()))
    found["results.json"] = json.dumps(untimed, sort_keys=True)
    return found


def without_timings(value: object) -> object:
    """A copy without the keys that hold measured times."""
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMED}
    if isinstance(value, list):
        return [without_timings(item) for item in value]
    return value


def compare(expected: dict[str, str], found: dict[str, str]) -> None:
    """Name every file that is missing, left over or different."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    differ = sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])
    assert not (missing or extra or differ), f"{missing=} {extra=} {differ=}"


def children(process: int) -> list[int]:
    """Processes that a process started (Linux)."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def wait_for_end(processes: list[int], timeout_s: float = 5.0) -> None:
    """Wait until the processes have gone; none may outlive its killed parent."""
    deadline = time.monotonic() + timeout_s
    while alive := [p for p in processes if Path(f"/proc/{p}").exists()]:
        assert time.monotonic() < deadline, f"processes {alive} are left over"
        time.sleep(0.02)


def last_event(run: Path, since: int) -> str:
    """What the killed process last wrote to the log."""
    written = (run / LOG).read_bytes()[since:] if log_size(run) else b""
    lines = written.decode().splitlines()
    if not lines:
        return "it was starting"
    event = json.loads(lines[-1])
    names = ("phase", "member", "step", "epoch", "role")
    return " ".join(str(event[name]) for name in names if name in event)


if __name__ == "__main__":
    main()
