# SPDX-License-Identifier: Apache-2.0
"""Members one after another beside `parallel: auto`, on the same recipe, in turns.

    python benchmarks/parallel.py [--members 6] [--epochs 40] [--repeats 3]

Mini networks on the digits, each command in a process of its own, OMP_NUM_THREADS not set: one after another
uses all cores for each member, `auto` one core for each. Prints Markdown: seconds from the shell to the end,
and the ratio of the medians.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
task: image_classification
data:
  source: digits
  noise: 0.2
  roles: {{train: 600, validation: 100, holdout: 300, test: 700}}
finetune:
  epochs: {epochs}
  batch_size: 32
  augmentation: {{flip: false, crop_padding: 1}}
members: [{members}]
parallel: {parallel}
"""


def main() -> None:
    """Run in turns and print the page's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    nets = itertools.islice(
        itertools.cycle(("mini:resnet", "mini:vgg", "mini:inception")), options.members
    )
    members, seconds = ", ".join(nets), {"1": [], "auto": []}
    for _ in range(options.repeats):
        for parallel, taken in seconds.items():
            text = RECIPE.format(epochs=options.epochs, members=members, parallel=parallel)
            taken.append(run(text))
    medians = {parallel: statistics.median(taken) for parallel, taken in seconds.items()}
    print(f"{options.members} members, {options.epochs} epochs, {os.cpu_count()} cores\n")
    print("| `parallel` | seconds | median |\n| --- | --- | ---: |")
    for parallel, taken in seconds.items():
        told = ", ".join(f"{value:.1f}" for value in taken)
        print(f"| {parallel} | {told} | {medians[parallel]:.1f} |")
    print(f"\nRatio of the medians: {medians['1'] / medians['auto']:.2f}")


def run(recipe: str) -> float:
    """Seconds that one run takes."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe)
        command = [sys.executable, "-m", "fusetune", "run", str(path), "--out", f"{folder}/run"]
        before = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return time.perf_counter() - before


if __name__ == "__main__":
    main()
