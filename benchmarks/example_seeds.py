# SPDX-License-Identifier: Apache-2.0
"""What fusing gains in an example, by seeds: members, fusions, and the best member on test itself.

    python benchmarks/example_seeds.py detection_scenes [--seeds 0,1] [--set data.scene_seed=101] [--out FOLDER]
    FUSETUNE_DATA=path/to/data python benchmarks/example_seeds.py segmentation_camvid --seeds 0,1

Prints Markdown. Every seed draws its own division, heads, weights and order of rows; a run that is there
goes on.
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
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.files import read_prediction_of
from fusetune.predictions.kinds import Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.resampled import resampled
from fusetune.predictions.stack import rows_of
from fusetune.recipe import load_recipe
from fusetune.task import Task

RESAMPLES = 1000
EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    """Run every seed and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("example", choices=sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/example_seeds"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    os.chdir(EXAMPLES)  # where the recipe's own folder is importable
    recipe = yaml.safe_load(Path(f"{options.example}.yaml").read_text(encoding="utf-8"))
    for setting in options.set:
        _put(recipe, *setting.split("=", 1))
    folders = {seed: options.out.absolute() / options.example / f"seed{seed}" for seed in seeds}
    runs = {seed: run(recipe, folder, seed=seed).results for seed, folder in folders.items()}
    given = " ".join(
        [options.example, f"--seeds {options.seeds}", *(f"--set {one}" for one in options.set)]
    )
    print(f"`python benchmarks/example_seeds.py {given}`, {datetime.now(UTC):%Y-%m-%d}, ", end="")
    print(f"{os.cpu_count()} CPU cores, shared.\n")
    for seed, results in runs.items():
        print(f"## Seed {seed}\n\n{_table(results)}\n")
        print(f"{results['verdict']['sentence']}\n")
        print(f"{_against_the_best(folders[seed], results)}\n")


def _put(recipe: dict[str, Any], key: str, value: str) -> None:
    *parents, last = key.split(".")
    for name in parents:
        recipe = recipe[name]
    recipe[last] = yaml.safe_load(value)


def _table(results: dict[str, Any]) -> str:
    """Scores of members and fusions on test rows, in percent."""
    names = list(results["members"][0]["scores"]["test"])[:3]
    lines = [
        f"| on test rows | {' | '.join(names)} | minutes of fine-tuning |",
        "| --- " * (len(names) + 2) + "|",
    ]
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
    name, kind = results["metric"], find(Task, results["task"]).kind
    metric = load_recipe(folder / "recipe.yaml").metric
    sign = 1 if find(Metric, name).higher_is_better else -1
    best = max(results["members"], key=lambda entry: sign * entry["scores"]["test"][name])["name"]
    (data,) = (folder / "steps").glob("data-*")
    truth = load_prepared(data).targets("test")
    parts = [
        _of_truth(read_prediction_of(folder / "predictions" / one / "test.parquet", kind), truth)
        for one in ("ensemble", best)
    ]
    rows, random = len(truth), np.random.default_rng(0)
    weights_RN = random.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(float)
    statistics = [metric.statistics(one, truth) for one in parts]
    whole, drawn = (
        [100 * metric.values(one, weights) for one in statistics]
        for weights in (np.ones((1, rows)), weights_RN)
    )
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return (
        f"Against {best}, which is best on the test rows themselves: {whole[0][0] - whole[1][0]:+.2f} "
        f"points (95 % interval {low:+.2f} to {high:+.2f}, {RESAMPLES:,} resamples of the images)."
    )


def _of_truth(prediction: Kind, truth: Any) -> Kind:
    """The truth's rows in its order; masks of its sizes."""
    prediction = prediction.take(rows_of(prediction.ids, truth.ids))
    if isinstance(prediction, Masks):
        assert isinstance(truth, LabelMaps)
        return resampled(prediction, [one.size for one in truth.maps])
    return prediction


if __name__ == "__main__":
    main()
