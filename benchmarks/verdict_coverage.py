# SPDX-License-Identifier: Apache-2.0
"""How often the verdict's interval holds the true gain, and how often "worth it" is false.

Simulated runs: two predictors are right or wrong on N test rows; on a given share of the rows
exactly one of them is right. The interval of `bootstrap_gain` stands beside the percentile
bootstrap without its guard, on the same runs. Writes the table of docs/results/verdict.md to the
standard output:

    python benchmarks/verdict_coverage.py --runs 2000 > docs/results/verdict.md
"""

import argparse
import datetime
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from fusetune.evaluate import compare
from fusetune.metric import Metric
from fusetune.plugins import find

FEW_ROWS = compare.FEW_ROWS

HEAD = """\
# How far the verdict can be trusted

{date}, {machine}, numpy {numpy}; `python benchmarks/verdict_coverage.py --runs {runs}`, {minutes:.1f} min.

{runs:,} simulated runs per line; the 95 % interval of the paired gain in accuracy. *Coverage* is the
share of intervals that hold the true gain, where 95 % is the aim, more is cautious, and a figure is
sure to about {error:.1f} points. *Worth it* is the share of intervals above 0: false alarms where the
true gain is 0 (2.5 % is the aim, less is cautious), power elsewhere. "Plain" is the percentile
bootstrap alone, "fusetune" the same widened by the mid-p interval and by Bonett and Price's where at
most {few} rows differ; "theory" is the power of a normal distribution with the true standard error.

What this part does not show: rows that depend on each other (several pictures of one object),
metrics other than accuracy, and test sets of fewer than 200 rows.

| test rows | rows that differ | true gain | coverage plain | coverage fusetune | worth it plain | worth it fusetune | worth it, theory |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def settings() -> Iterator[tuple[int, float, float]]:
    """Rows, share of rows that differ, true gain."""
    for num_rows in (200, 500, 2000):
        for differ in (0.01, 0.02, 0.05, 0.10):
            yield num_rows, differ, 0.0
    for num_rows in (500, 2000):
        for differ in (0.04, 0.07, 0.10):
            yield num_rows, differ, 0.02
    for num_rows, differ in ((500, 0.002), (2000, 0.001), (2000, 0.005)):
        yield num_rows, differ, 0.9 * differ  # hardly a row differs, and nearly all for one side


def theory(num_rows: int, differ: float, gain: float) -> float:
    """Power in percent if the measured gain were normal around the true one."""
    normal = NormalDist()
    error = math.sqrt((differ - gain**2) / num_rows)
    return 100 * normal.cdf(gain / error - normal.inv_cdf(0.975))


def simulate(num_rows: int, differ: float, gain: float, runs: int) -> list[float]:
    """Shares in percent: coverage plain, coverage guarded, worth it plain, worth it guarded."""
    metric = find(Metric, "accuracy")()
    random = np.random.default_rng([num_rows, round(1e4 * differ), round(1e4 * gain)])
    shares = [(differ + gain) / 2, (differ - gain) / 2, 0.9 - differ, 0.1]
    outcomes = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=float)
    found = []
    for run in range(runs):
        pair_N2 = outcomes[random.choice(4, p=shares, size=num_rows)]
        a, b = pair_N2[:, :1], pair_N2[:, 1:]
        intervals = []
        for compare.FEW_ROWS in (-1, FEW_ROWS):  # without and with the guard
            intervals.append(compare.bootstrap_gain(metric, a, b, seed=run))
        found.append([one.covers(gain) for one in intervals] + [one.low > 0 for one in intervals])
    return (100 * np.mean(found, axis=0)).tolist()


def main() -> None:
    """Print the table; progress goes to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs per line")
    runs = parser.parse_args().runs
    start, lines = time.perf_counter(), []
    for num_rows, differ, gain in settings():
        found = [*simulate(num_rows, differ, gain, runs), theory(num_rows, differ, gain)]
        shares = " | ".join(f"{share:.1f} %" for share in found)
        lines.append(f"| {num_rows:,} | {100 * differ:g} % | {100 * gain:.3g} points | {shares} |")
        print(lines[-1], file=sys.stderr, flush=True)
    head = HEAD.format(
        date=datetime.date.today().isoformat(),
        machine=f"{os.cpu_count()} cores of a {platform.machine()} machine",
        numpy=np.__version__,
        runs=runs,
        minutes=(time.perf_counter() - start) / 60,
        error=100 * (0.95 * 0.05 / runs) ** 0.5,
        few=FEW_ROWS,
    )
    print(head, *lines, sep="\n")


if __name__ == "__main__":
    main()
