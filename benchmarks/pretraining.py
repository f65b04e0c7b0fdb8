# SPDX-License-Identifier: Apache-2.0
"""What pretraining on letters and symbols buys on digits: shipped weights against from scratch.

    python benchmarks/pretraining.py [--seeds 5]

The demo's recipe with every network twice, once with `weights: none`, all else equal. Prints a
Markdown table of test accuracies: mean over the seeds, and the lowest and highest.
"""

import argparse
import tempfile
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import yaml

import fusetune

NETS = ("resnet", "vgg", "inception")


def main() -> None:
    """Run once per seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    recipe = yaml.safe_load((files("fusetune.cli") / "demo.yaml").read_text())
    overrides = {m["model"]: m for m in recipe["members"] if isinstance(m, dict)}
    recipe["members"] = [
        {
            "source": "mini",
            **overrides.get(net, {}),
            "model": net,
            "weights": weights,
            "name": f"{net}-{weights}",
        }
        for net in NETS
        for weights in ("default", "none")
    ]
    recipe["fuse"] = {"methods": ["mean"], "choose": "mean"}
    found = defaultdict(list)
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            results = fusetune.run(recipe, Path(folder) / "run", seed=seed).results
        for member in results["members"]:
            found[member["name"]].append(100 * member["scores"]["test"]["accuracy"])
    print("| network | shipped weights | from scratch | difference |")
    print("| --- | --- | --- | --- |")
    for net in NETS:
        shipped, scratch = found[f"{net}-default"], found[f"{net}-none"]
        difference = sum(shipped) / len(shipped) - sum(scratch) / len(scratch)
        print(f"| {net} | {spread(shipped)} | {spread(scratch)} | {difference:+.2f} |")


def spread(values: list[float]) -> str:
    """Mean, lowest and highest."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
