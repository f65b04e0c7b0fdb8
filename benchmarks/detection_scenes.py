# SPDX-License-Identifier: Apache-2.0
"""What fusing small detectors gains on drawn scenes: `examples/detection_scenes.yaml`, by seeds.

    python benchmarks/detection_scenes.py [--seeds 0,1] [--scene-seed 0] [--out FOLDER] > docs/results/detection_scenes.md

Every seed draws its own division, heads, weights and order of rows, on the scenes of `--scene-seed`; a run
that is there goes on.
"""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fusetune import run
from fusetune.data.prepare import load_prepared
from fusetune.metrics.coco_map import CocoMap
from fusetune.predictions.detection.detections import read_boxes
from fusetune.predictions.stack import rows_of

RESAMPLES = 1000
RECIPE = Path(__file__).parents[1] / "examples" / "detection_scenes.yaml"


def main() -> None:
    """Run every seed and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--scene-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/detection_scenes"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["data"]["scene_seed"] = options.scene_seed
    runs = {seed: run(recipe, options.out / f"seed{seed}", seed=seed).results for seed in seeds}
    print("# Detectors fine-tuned and fused on drawn scenes\n")
    given = f"--seeds {options.seeds} --scene-seed {options.scene_seed}"
    print(f"`python benchmarks/detection_scenes.py {given}`, {_today()}, ", end="")
    print(f"{os.cpu_count()} CPU cores, shared. The recipe:\n")
    print(f"```yaml\n{yaml.safe_dump(yaml.safe_load(RECIPE.read_text()), sort_keys=False)}```\n")
    for seed, results in runs.items():
        print(f"## Seed {seed}\n\n{_table(results)}\n")
        print(f"{results['verdict']['sentence']}\n")
        print(f"{_against_the_best(options.out / f'seed{seed}', results)}\n")


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


def _against_the_best(folder: Path, results: dict[str, Any]) -> str:
    """The gain over the member that is best on the test rows themselves, which nobody could choose."""
    best = max(results["members"], key=lambda entry: entry["scores"]["test"]["coco_map"])["name"]
    ensemble, member = (
        read_boxes(folder / "predictions" / name / "test.parquet") for name in ("ensemble", best)
    )
    (data,) = (folder / "steps").glob("data-*")
    truth = load_prepared(data).targets("test")
    member = member.take(rows_of(member.ids, truth.ids))
    ensemble = ensemble.take(rows_of(ensemble.ids, truth.ids))
    random = np.random.default_rng(0)
    rows = len(truth)
    weights_RN = random.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(float)
    metric = CocoMap()
    whole, resampled = (
        [100 * metric.values(metric.statistics(one, truth), weights) for one in (ensemble, member)]
        for weights in (np.ones((1, rows)), weights_RN)
    )
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
    return (
        f"Against {best}, which is best on the test rows themselves: {whole[0][0] - whole[1][0]:+.2f} "
        f"points (95 % interval {low:+.2f} to {high:+.2f}, {RESAMPLES:,} resamples of the images)."
    )


if __name__ == "__main__":
    main()
