# SPDX-License-Identifier: Apache-2.0
"""The demo over ten seeds: is the chosen predictor at or above the best member on test?

    python benchmarks/demo_seeds.py [--seeds 10]

A seed decides which rows train, the heads, the order of rows and the augmentation. Prints a
Markdown table: test accuracy of every member and of the chosen predictor, its gain over the member
that is best on *test* (which nobody could have known), the verdict, and the seconds of the run.
"""

import argparse
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import fusetune


def main() -> None:
    """Run the demo once per seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print("| seed | resnet | vgg | inception | chosen | over the best member | verdict | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    gains, lowest = [], 1.0
    for seed in range(options.seeds):
        with (
            tempfile.TemporaryDirectory() as folder,
            as_file(files("fusetune.cli") / "demo.yaml") as recipe,
        ):
            before = time.perf_counter()
            results = fusetune.run(recipe, Path(folder) / "run", seed=seed).results
            seconds = time.perf_counter() - before
        members = [m["scores"]["test"]["accuracy"] for m in results["members"]]
        chosen = next(f for f in results["fusions"] if f["name"] == results["chosen"])
        accuracy = chosen["scores"]["test"]["accuracy"]
        gains.append(accuracy - max(members))
        lowest = min(lowest, *members)
        cells = [f"{100 * value:.2f}" for value in (*members, accuracy)]
        decision = results["verdict"]["decision"]
        print(
            f"| {seed} | {' | '.join(cells)} | {100 * gains[-1]:+.2f} | {decision} | {seconds:.1f} |",
            flush=True,
        )
    at_least = sum(gain >= 0 for gain in gains)
    print(f"\nAt or above the best member on test: {at_least} of {len(gains)}.", end=" ")
    print(
        f"Mean gain {100 * sum(gains) / len(gains):+.2f} points; weakest member {100 * lowest:.2f} %."
    )


if __name__ == "__main__":
    main()
