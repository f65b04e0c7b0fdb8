# SPDX-License-Identifier: Apache-2.0
"""Kill a run at random moments of every phase, and compare what comes out.

    python scripts/kill_test.py                      # the demo, ten kills
    python scripts/kill_test.py --kills 50 run RECIPE
    python scripts/kill_test.py --kills 20 fuse unet/ deeplab/ --targets label_maps/

The phases of a run take turns: starting, caching (the rows are checked and stored), fine-tuning (predicting
included), fusing, report. Each kill (`kill -9`) comes at a random moment within its phase, as long
as that took in a run in peace; the next one hits the run that goes on. After the last phase the run
is left to end: it has to have the same predictions, the same ensemble and the same files as one that
was never killed, with no process and no temporary file left over; and the next one starts anew. A
run that ends before its kill is compared too, and does not count as hit. A command that logs no
phases, such as `fuse`, is killed at random moments of its whole time.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # equal bytes need equal threads
TIMED = {"seconds", "cost_ratio", "images_per_second", "sentence"}
LOG = "log.jsonl"
PHASES = {
    "store": "caching",
    "begun": "fine-tuning",
    "skipped": "fine-tuning",
    "fuse": "fusing",
    "report": "report",
    "done": "the end",
}
"""Event of the log → phase that it begins."""
TURNS = ("starting", "caching", "fine-tuning", "fine-tuning", "fusing", "report")
NO_PHASES = ("starting",) * 3
"""Turns of a command that logs none: to it, everything is the start."""


def main() -> None:
    """Parse the command line and run the test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="default: demo; without --out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_and_compare(options.command or ["demo"], Path(folder), options.kills, options.seed)


def kill_and_compare(command: Sequence[str], folder: Path, kills: int, seed: int) -> None:
    """Run once in peace, then under fire; raise AssertionError where the outcomes differ.

    Args:
        command: Words behind `fusetune`, without `--out`.
        folder: For the run folders.
        kills: How many kills have to hit.
        seed: Of their moments.
    """
    reference, killed = folder / "reference", folder / "killed"
    before = time.time()
    assert start(command, reference).wait() == 0
    expected, lengths = contents(reference), seconds_of_phases(reference, before)
    turns = TURNS if len(lengths) > 1 else NO_PHASES
    print(
        "unkilled: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in lengths.items()),
        f"{len(expected)} files compared",
        sep="; ",
    )
    moments, hits = random.Random(seed), Counter[str]()
    for turn, phase in itertools.cycle(enumerate(turns)):
        if hits.total() >= kills:
            break
        if turn == 0 and killed.exists():
            end_and_compare(command, killed, expected)
        # The kills of one phase of a run come, all together, before it can end.
        parts = max(2, turns.count(phase)) if turns is TURNS else 1
        found = hit(command, killed, phase, moments.uniform(0, lengths[phase] / parts))
        hits.update(found)
        if not found:
            end_and_compare(command, killed, expected)
    if killed.exists():
        end_and_compare(command, killed, expected)
    told = ", ".join(f"{number} in {phase}" for phase, number in hits.items())
    print(f"{hits.total()} kills of a live process ({told}): all is identical")


def end_and_compare(command: Sequence[str], killed: Path, expected: dict[str, str]) -> None:
    """Let the killed run end, compare it, and remove it."""
    assert start(command, killed).wait() == 0
    compare(expected, contents(killed))
    shutil.rmtree(killed)


def hit(command: Sequence[str], out: Path, phase: str, delay: float) -> list[str]:
    """Start a run and kill it some seconds after a phase began; the phases that were hit."""
    since, before = log_size(out), time.monotonic()
    process = start(command, out)
    while process.poll() is None and not reached(phase, begun(out, since)):
        time.sleep(0.002)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        workers = children(process.pid)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for_end(workers)
        after, found = time.monotonic() - before, begun(out, since)[-1]
        print(f"killed in {found} after {after:.1f} s: {last_event(out, since)}")
        return [found]
    print(f"a run ended before its kill in {phase}")
    return []


def reached(phase: str, begun: list[str]) -> bool:
    """Whether a phase has begun, or one after it."""
    order = [*dict.fromkeys(TURNS), "the end"]
    return max(order.index(one) for one in begun) >= order.index(phase)


def begun(out: Path, since: int) -> list[str]:
    """Phases that the log tells of after some bytes, in their order."""
    told = (PHASES[e["phase"]] for e in events(out, since) if e["phase"] in PHASES)
    return ["starting", *told]


def seconds_of_phases(run: Path, began: float) -> dict[str, float]:
    """Phase → seconds that it took in a run in peace, from the times in its log; all is the start without."""
    if not log_size(run):
        return {"starting": time.time() - began}
    first: dict[str, float] = {"starting": began}
    for event in events(run, 0):
        if event["phase"] in PHASES:
            first.setdefault(PHASES[event["phase"]], event["time"])
    ends = [*list(first.values())[1:], first["the end"]]
    return {name: end - at for (name, at), end in zip(first.items(), ends, strict=True)}


def events(run: Path, since: int) -> list[dict[str, Any]]:
    """The log's events after some bytes; a line that a kill cut is none."""
    found = []
    for line in (run / LOG).read_bytes()[since:].splitlines() if log_size(run) else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def log_size(run: Path) -> int:
    """Bytes in the run's log."""
    log = run / LOG
    return log.stat().st_size if log.exists() else 0


def start(command: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own."""
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
    told = events(run, since)
    if not told:
        return "nothing was logged yet"
    event = told[-1]
    names = ("phase", "member", "step", "epoch", "role")
    return " ".join(str(event[name]) for name in names if name in event)


if __name__ == "__main__":
    main()
