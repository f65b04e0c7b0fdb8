# SPDX-License-Identifier: Apache-2.0
"""What fusing small detectors gains on drawn scenes: `examples/detection_scenes.yaml`, by seeds.

    python benchmarks/detection_scenes.py [--seeds 0,1] [--out FOLDER] > docs/results/detection_scenes.md

Every seed draws its own division, heads, weights and order of rows; a run that is there goes on.
"""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fusetune import run

RECIPE = Path(__file__).parents[1] / "examples" / "detection_scenes.yaml"


def main() -> None:
    """Run every seed and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=Path("runs/detection_scenes"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = {seed: run(RECIPE, options.out / f"seed{seed}", seed=seed).results for seed in seeds}
    print("# Detectors fine-tuned and fused on drawn scenes\n")
    print(f"`python benchmarks/detection_scenes.py --seeds {options.seeds}`, {_today()}, ", end="")
    print(f"{os.cpu_count()} CPU cores, shared. The recipe:\n")
    print(f"```yaml\n{yaml.safe_dump(yaml.safe_load(RECIPE.read_text()), sort_keys=False)}```\n")
    for seed, results in runs.items():
        print(f"## Seed {seed}\n\n{_table(results)}\n")
        print(f"{results['verdict']['sentence']}\n")


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _table(results: dict[str, Any]) -> str:
    """Scores of members and fusions on test rows, in percent."""
    names = ("coco_map", "coco_map50", "coco_map75")
    lines = ["| on test rows | mAP | mAP50 | mAP75 | minutes of fine-tuning |", "| --- " * 5 + "|"]
    for entry in (*results["members"], *results["fusions"]):
        scores = entry["scores"]["test"]
        shown = " | ".join(f"{100 * scores[name]:.1f}" for name in names)
        seconds = entry["seconds"].get("finetune")
        minutes = "" if seconds is None else f"{seconds / 60:.1f}"
        mark = " (chosen)" if entry["name"] == results["chosen"] else ""
        lines.append(f"| {entry['name']}{mark} | {shown} | {minutes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
