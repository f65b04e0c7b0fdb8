# SPDX-License-Identifier: Apache-2.0
"""Which fine-tuning recipe is good on several data sets: what the defaults are chosen by.

    FUSETUNE_DATA=../shared/data python benchmarks/recipes.py --work FOLDER [--seeds 2] [--only digits]

On every task of `real_images.py`, each of its networks is fine-tuned by every recipe; these differ from
one base in what stands in their name (augmentation that keeps classes apart is on everywhere). Prints
Markdown: the accuracy and the log-loss on test of every recipe on every task, means over seeds and
networks, and by how many points each recipe misses the best where it misses most. A run that is stopped goes
on where it was.
"""

import argparse
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_images import TASKS, ImageTask

import fusetune

BASE = {"epochs": 20, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 1e-3}}
RECIPES: dict[str, dict[str, Any]] = {
    "10 epochs, batches of 64, lr 3e-4": {"epochs": 10, "batch_size": 64, "lr": 3e-4},
    "base": {},
    "40 epochs": {"epochs": 40},
    "one cycle": {"schedule": {"name": "one_cycle"}},
    "40 epochs, one cycle": {"epochs": 40, "schedule": {"name": "one_cycle"}},
    "lr 3e-3": {"lr": 3e-3},
    "range test": {"lr": "range_test"},
    "smoothing 0.1": {"label_smoothing": 0.1},
    "ema 0.98": {"ema": 0.98},
    "head first": {"train": "head_then_full", "head_epochs": 3},
    "layer decay 0.8": {"layer_decay": 0.8},
    "weight decay 0.05": {"weight_decay": 0.05},
    "batches of 16": {"batch_size": 16},
    "sgd, range test": {"optimizer": {"name": "sgd", "lr": "range_test"}},
}
"""Name → what differs from the base; `lr` and `weight_decay` are the optimizer's."""


def main() -> None:
    """Run what is not done yet, and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in [options.only] if options.only else TASKS:
        task = TASKS[name](options.work)
        found[name] = defaultdict(list)
        for seed in range(options.seeds):
            folder = options.work / f"{name}-{seed}"
            for recipe, scores in scored(task, options.recipes, seed, folder).items():
                found[name][recipe] += scores
    show(found)


def scored(
    task: ImageTask, recipes: Sequence[str], seed: int, folder: Path
) -> dict[str, list[tuple[float, float]]]:
    """Recipe → accuracy and log-loss on test of every network that it fine-tuned."""
    members, recipe_of = [], {}
    for member in task.members:
        for recipe in recipes:
            name = f"{member['name']}-{re.sub('[^a-z0-9.]+', '-', recipe)}"
            members.append({**member, "name": name, "finetune": finetune_of(recipe)})
            recipe_of[name] = recipe
    run = fusetune.run(
        {
            "task": "image_classification",
            "data": task.data,
            "finetune": {"augmentation": task.augmentation},
            "members": members,
            "fuse": {"methods": ["mean"], "choose": "mean"},
            "seed": seed,
        },
        out=folder,
    )
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for member in run.results["members"]:
        test = member["scores"]["test"]
        scores[recipe_of[member["name"]]].append((test["accuracy"], test["log_loss"]))
    return scores


def finetune_of(recipe: str) -> dict[str, Any]:
    """The `finetune:` block of a recipe."""
    differs = dict(RECIPES[recipe])
    optimizer = {key: differs.pop(key) for key in ("lr", "weight_decay") if key in differs}
    block = {**BASE, **differs}
    return {**block, "optimizer": {**block["optimizer"], **optimizer}}


def show(found: Mapping[str, Mapping[str, list[tuple[float, float]]]]) -> None:
    """The page's tables."""
    accuracy = {
        task: {name: 100 * statistics.mean(a for a, _ in scores) for name, scores in rows.items()}
        for task, rows in found.items()
    }
    losses = {
        task: {name: statistics.mean(loss for _, loss in scores) for name, scores in rows.items()}
        for task, rows in found.items()
    }
    miss = {
        name: max(max(accuracy[task].values()) - accuracy[task][name] for task in found)
        for name in next(iter(found.values()))
    }
    print(f"| recipe | {' | '.join(found)} | mean | most it misses the best by | log-loss, mean |")
    print(f"| --- |{' ---: |' * (len(found) + 3)}")
    for name in sorted(miss, key=lambda name: miss[name]):
        row = [accuracy[task][name] for task in found]
        cells = " | ".join(f"{value:.2f}" for value in [*row, statistics.mean(row), miss[name]])
        print(f"| {name} | {cells} | {statistics.mean(losses[task][name] for task in found):.3f} |")


if __name__ == "__main__":
    main()
