# SPDX-License-Identifier: Apache-2.0
"""How much memory and time fusing takes that is bounded by --memory, on pools larger than it.

Makes a seeded pool of Parquet files (row groups of 65,536 rows), runs `fusetune fuse` on growing
parts of it in processes of their own, and measures each one's peak resident memory as the kernel
counts it. The largest pool takes 4 GB of disk. Shapes: M members, N rows, C classes.

    python benchmarks/memory.py /tmp/fusetune_memory --rows 125000 250000 500000 1000000
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 2**16
METHODS = ("mean", "weighted_mean", "vote", "greedy_selection", "geometric_mean", "stacking")


def ids_of(start: int, stop: int) -> list[str]:
    """Names of rows as data sets have them."""
    return [f"image_{row:08d}.jpg" for row in range(start, stop)]


def member_probs(member: int, start: int, labels_N: np.ndarray, classes: int) -> np.ndarray:
    """A member's probabilities of a row group: its own noise on what all members see."""
    common, own = np.random.default_rng([1, start]), np.random.default_rng([2, member, start])
    skill = np.random.default_rng([3, member]).uniform(0.5, 2.0)
    logits_NC = common.standard_normal((len(labels_N), classes), dtype=np.float32)
    logits_NC += 1.5 * own.standard_normal((len(labels_N), classes), dtype=np.float32)
    logits_NC[np.arange(len(labels_N)), labels_N] += np.float32(skill)
    exp_NC = np.exp(logits_NC)
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def labels_of(start: int, rows: int, classes: int) -> np.ndarray:
    """True classes of a row group."""
    return np.random.default_rng([0, start]).integers(classes, size=rows)


def make_pool(folder: Path, members: int, rows: int, classes: int) -> None:
    """Write the files, row group by row group."""
    folder.mkdir(parents=True)
    names = [f"class_{column}" for column in range(classes)]
    blocks = [(start, min(start + GROUP, rows)) for start in range(0, rows, GROUP)]
    fields = [("id", pa.string()), *((name, pa.float32()) for name in names)]
    for member in range(members):
        path = folder / f"member_{member:03d}.parquet"
        with pq.ParquetWriter(path, pa.schema(fields), use_dictionary=False) as writer:
            for start, stop in blocks:
                labels_N = labels_of(start, stop - start, classes)
                probs_NC = member_probs(member, start, labels_N, classes)
                columns = dict(zip(names, np.ascontiguousarray(probs_NC.T), strict=True))
                writer.write_table(pa.table({"id": ids_of(start, stop), **columns}))
    targets = [labels_of(start, stop - start, classes) for start, stop in blocks]
    names_N = np.array(names)[np.concatenate(targets)]
    pq.write_table(pa.table({"id": ids_of(0, rows), "target": names_N}), folder / "targets.parquet")


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command."""
    before = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ... ended with {child.returncode}")
    return time.perf_counter() - before, usage.ru_maxrss * 1024 / 1e6


def fuse(folder: Path, methods: list[str], memory: str, metric: str) -> dict[str, object]:
    """One run of the command, and what it says."""
    out = folder / "run"
    command = [
        sys.executable,
        "-m",
        "fusetune",
        "fuse",
        *map(str, sorted(folder.glob("m*.parquet"))),
    ]
    command += ["--targets", str(folder / "targets.parquet"), "--memory", memory]
    command += ["--holdout", "0.5", "--out", str(out), "--metric", metric]
    for method in methods:
        command += ["--method", method]
    seconds, megabytes = measured(command)
    results = json.loads((out / "results.json").read_text())
    scores = {f["name"]: f["scores"]["test"] for f in results["fusions"]}
    shutil.rmtree(out)
    return {"seconds": seconds, "megabytes": megabytes, "scores": scores, "notes": results["notes"]}


def size_of(folder: Path) -> float:
    """Megabytes of the members' files."""
    return sum(path.stat().st_size for path in folder.glob("m*.parquet")) / 1e6


def line(rows: int, size: float, methods: str, run: dict[str, object]) -> str:
    """A row of the table."""
    return (
        f"| {rows:,} | {size:,.0f} | {methods} | {run['megabytes']:,.0f} "
        f"| {run['seconds']:.1f} | {1e6 * run['seconds'] / rows:.0f} |"
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/tmp/fusetune_memory"))
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[125_000, 250_000, 500_000, 1_000_000]
    )
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--each", type=int, default=0, help="rows on which each method runs alone")
    asked = parser.parse_args()
    needed = 4.6 * asked.members * max(asked.rows) * asked.classes
    free = shutil.disk_usage(asked.folder.parent).free
    if needed > free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    print(
        f"{date.today()}, {os.cpu_count()} cores of a {platform.machine()} machine, "
        f"numpy {np.__version__}, pyarrow {pa.__version__}; `python {' '.join(sys.argv)}`\n"
    )
    print("| rows | MB on disk | methods | peak MB | seconds | µs a row |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for rows in asked.rows:
        folder = asked.folder / str(rows)
        make_pool(folder, asked.members, rows, asked.classes)
        try:
            size = size_of(folder)
            run = fuse(folder, list(METHODS[:5]), asked.memory, asked.metric)
            print(line(rows, size, "five, blended by `auto`", run), flush=True)
            if rows == asked.each:
                for method in METHODS:
                    run = fuse(folder, [method], asked.memory, asked.metric)
                    print(line(rows, size, method, run), flush=True)
                    print(f"<!-- {run['scores'][method]} {run['notes']} -->", flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
