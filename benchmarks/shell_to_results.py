# SPDX-License-Identifier: Apache-2.0
"""From the shell to results.json: `fusetune fuse` on three files of 10,000 rows and 10 classes.

    python benchmarks/shell_to_results.py [--repeats 7]

Every run is a process of its own, started as a shell starts it, in an empty folder. Prints the
median, the fastest and the slowest run of each command in seconds, as a Markdown table. Modules are
compiled beforehand (Python does so at the first run where it may write), so that is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

SIMPLE = ("vote", "mean", "median", "geometric_mean")
LEARNED = ("weighted_mean", "greedy_selection")
RUNS = {
    "fixed methods": (*SIMPLE,),
    "log-loss weights": ("weighted_mean",),
    "greedy selection": ("greedy_selection",),
    "all of these": (*SIMPLE, *LEARNED),
}


def write_pool(folder: Path, rows: int, classes: int) -> tuple[list[Path], Path]:
    """Three members of different skill, and the truth."""
    random = np.random.default_rng(0)
    truth_N = random.integers(classes, size=rows)
    ids = [f"row{index:06d}" for index in range(rows)]
    names = [f"class{c}" for c in range(classes)]
    paths = []
    for skill in (1.6, 2.0, 2.4):
        logits_NC = random.normal(size=(rows, classes))
        logits_NC[np.arange(rows), truth_N] += skill
        probs_NC = np.exp(logits_NC)
        probs_NC /= probs_NC.sum(axis=1, keepdims=True)
        columns = {name: probs_NC[:, c].astype(np.float32) for c, name in enumerate(names)}
        paths.append(folder / f"skill{skill:.1f}.parquet")
        pyarrow.parquet.write_table(pa.table({"id": ids, **columns}), paths[-1])
    targets = folder / "targets.parquet"
    pyarrow.parquet.write_table(
        pa.table({"id": ids, "target": [names[c] for c in truth_N]}), targets
    )
    return paths, targets


def seconds_of(command: list[str], folder: Path) -> float:
    """One run, to the end of its process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        subprocess.run(
            [*command, "--out", str(Path(out) / "run")], check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - start


def main() -> None:
    """Run the commands in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    fusetune = str(Path(sys.executable).parent / "fusetune")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, targets = write_pool(folder, options.rows, 10)
        start = [fusetune, "fuse", *map(str, paths), "--targets", str(targets)]
        commands = {}
        for metric in ("accuracy", "log_loss"):
            for title, methods in RUNS.items():
                chosen = [text for method in methods for text in ("--method", method)]
                whole = [*start, "--metric", metric, *chosen]
                commands[f"{title}, --no-report", metric] = [*whole, "--no-report"]
                commands[f"{title}, with report", metric] = whole
            commands["auto, with report", metric] = [*start, "--metric", metric]
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in commands}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for command in commands.values():
            seconds_of(command, folder)
        for _ in range(options.repeats):
            for key, command in commands.items():
                taken[key].append(seconds_of(command, folder))
    print("| command | metric | median, s | fastest | slowest |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (title, metric), seconds in sorted(taken.items()):
        figures = statistics.median(seconds), min(seconds), max(seconds)
        print(f"| {title} | {metric} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
