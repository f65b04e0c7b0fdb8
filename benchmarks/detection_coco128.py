# SPDX-License-Identifier: Apache-2.0
"""A published ONNX detector on photos: by input size, and fused with itself: `examples/detection_coco128.yaml`.

    FUSETUNE_DATA=FOLDER python benchmarks/detection_coco128.py [--seeds 0,1,2] [--out FOLDER]

prints docs/results/detection_coco128.md up to how to read it. Every seed draws its own division and
weights; a run that is there goes on.
"""

import argparse
import os
import platform
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusetune import run
from fusetune.data.datasets.boxes import Boxes
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.placing import predicted_pieces
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.onnx import Onnx
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.detection.objects import Objects
from fusetune.recipe import load_recipe

RECIPE = Path(__file__).parents[1] / "examples" / "detection_coco128.yaml"
METRICS = ("coco_map", "coco_map50", "coco_map75")
SIZES = (256, 320, 352, 416, 512, 640)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/detection_coco128"))
    options = parser.parse_args()
    print("# A published detector at several sizes, and fused with itself\n")
    print(f"`python benchmarks/detection_coco128.py --seeds {options.seeds}`, ", end="")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), shared, "
    )
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}.\n")
    print(f"## As it is, on all photos\n\n{_by_size()}\n")
    for seed in map(int, options.seeds.split(",")):
        results = run(RECIPE, options.out / f"seed{seed}", seed=seed).results
        print(f"## The recipe, seed {seed}\n\n{_table(results)}\n")
        print(f"{results['verdict']['sentence']}\n")


def _by_size() -> str:
    """Scores of the network on every photo and class, at several sizes, and with colors swapped."""
    recipe = load_recipe(RECIPE)
    source = recipe.members[0].source
    assert isinstance(source, Onnx)
    photos = recipe.data.datasets["all"]
    assert isinstance(photos, Boxes)
    rows = replace(photos, classes=None).read_as(Objects)
    assert isinstance(rows.truth, Objects)
    lines = [
        f"{len(rows.ids)} photos, {len(rows.classes)} classes, {len(rows.truth.labels_K)} objects.\n"
    ]
    lines += ["| side | colors | mAP | mAP50 | mAP75 |", "| --- " * 5 + "|"]
    for size, channels in [*((size, "bgr") for size in SIZES), (352, "rgb")]:
        at = replace(source, preprocess=PreprocessOverride(size=size), channels=channels)
        member = at.load(rows.classes)
        (boxes,) = predicted_pieces(
            member, rows.ids, (rows.images, rows.images), Detection(), lambda event: None
        )
        metrics = [find(Metric, name)() for name in METRICS]
        scores = [one.value(one.statistics(boxes, rows.truth)) for one in metrics]
        shown = " | ".join(f"{100 * score:.1f}" for score in scores)
        lines.append(f"| {size} | {channels} | {shown} |")
    return "\n".join(lines)


def _table(results: dict[str, Any]) -> str:
    """Scores of members and fusions on test rows, in percent."""
    lines = ["| on test rows | mAP | mAP50 | mAP75 |", "| --- " * 4 + "|"]
    for entry in (*results["members"], *results["fusions"]):
        shown = " | ".join(f"{100 * entry['scores']['test'][name]:.1f}" for name in METRICS)
        mark = " (chosen)" if entry["name"] == results["chosen"] else ""
        lines.append(f"| {entry['name']}{mark} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
