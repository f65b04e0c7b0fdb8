# SPDX-License-Identifier: Apache-2.0
"""Which fine-tuning recipe is good on several data sets: what the defaults are chosen by.

    FUSETUNE_DATA=../shared/data python benchmarks/recipes.py --work FOLDER [--seeds 5] [--only digits]

On every task of `real_images.py`, each of its networks is fine-tuned by every recipe. `default` sets nothing but
the task's augmentation (what keeps its classes apart), `nothing set` not even that; the others differ from
`default` in what stands in their name. A seed draws the roles, the heads and the order of the rows, the same
ones for every recipe: recipes are compared in pairs. Prints Markdown, for each task: accuracy and log-loss on
test, means over networks and seeds, and by how much each recipe is ahead of the default, with the standard error of
that difference over seeds. The best of many is the luckiest, too: "chosen on the other seeds" is what the recipe
that is best on all seeds but one gains on that one. A run that is stopped goes on where it was.
"""

import argparse
import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_images import TASKS, ImageTask

import fusetune

Scores = tuple[float, float]
OPTIMIZER = ("name", "lr", "weight_decay")
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing set": {"augmentation": {}},
    "10 epochs, batches of 64, lr 3e-4": {"epochs": 10, "batch_size": 64, "lr": 3e-4},
    "20 epochs": {"epochs": 20},
    "40 epochs": {"epochs": 40},
    "warmup 0.05": {"schedule": {"warmup": 0.05}},
    "one cycle": {"schedule": {"name": "one_cycle"}},
    "40 epochs, one cycle": {"epochs": 40, "schedule": {"name": "one_cycle"}},
    "lr 3e-3": {"lr": 3e-3},
    "range test": {"lr": "range_test"},
    "no smoothing": {"label_smoothing": 0},
    "smoothing 0.2": {"label_smoothing": 0.2},
    "defaults before": {"label_smoothing": 0, "ema": 0, "schedule": {"warmup": 0.05}},
    "no averages": {"ema": 0},
    "ema 0.95": {"ema": 0.95},
    "ema 0.99": {"ema": 0.99},
    "head first": {"train": "head_then_full", "head_epochs": 3},
    "layer decay 0.8": {"layer_decay": 0.8},
    "weight decay 0.05": {"weight_decay": 0.05},
    "batches of 16": {"batch_size": 16},
    "sgd, range test": {"name": "sgd", "lr": "range_test"},
}
"""Name → what differs from the defaults; `name`, `lr` and `weight_decay` are the optimizer's."""


def main() -> None:
    """Run what is not done yet, and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        task = TASKS[name](options.work)
        found: dict[str, list[Scores]] = {recipe: [] for recipe in options.recipes}
        for seed, recipe in itertools.product(range(options.seeds), options.recipes):
            found[recipe].append(scored(task, recipe, seed, options.work / f"{name}-{seed}"))
        show(name, found)


def scored(task: ImageTask, recipe: str, seed: int, folder: Path) -> Scores:
    """Accuracy in percent and log-loss on test, means over the networks."""
    run = fusetune.run(
        {
            "task": "image_classification",
            "data": task.data,
            "finetune": finetune_of(recipe, task),
            "members": task.members,
            "fuse": {"methods": ["mean"], "choose": "mean"},
            "seed": seed,
        },
        out=folder / re.sub("[^a-z0-9.]+", "-", recipe),
    )
    tests = [member["scores"]["test"] for member in run.results["members"]]
    accuracy = statistics.mean(test["accuracy"] for test in tests)
    return 100 * accuracy, statistics.mean(test["log_loss"] for test in tests)


def finetune_of(recipe: str, task: ImageTask) -> dict[str, Any]:
    """The `finetune:` block of a recipe."""
    differs = {"augmentation": task.augmentation, **RECIPES[recipe]}
    optimizer = {key: differs.pop(key) for key in OPTIMIZER if key in differs}
    return {**differs, **({"optimizer": optimizer} if optimizer else {})}


def show(task: str, found: Mapping[str, Sequence[Scores]]) -> None:
    """The page's part on one task."""
    accuracy = {name: [accuracy for accuracy, _ in scores] for name, scores in found.items()}
    means = {name: statistics.mean(values) for name, values in accuracy.items()}
    best, num = max(means, key=lambda name: means[name]), len(accuracy["default"])
    print(f"\n## {task}, {num} seeds\n")
    print(
        "| recipe | accuracy, % | ahead of the default | log-loss |\n| --- | ---: | ---: | ---: |"
    )
    for name in sorted(means, key=lambda name: -means[name]):
        loss = statistics.mean(loss for _, loss in found[name])
        ahead = differences(accuracy[name], accuracy["default"])
        print(f"| {name} | {means[name]:.2f} | {with_error(ahead)} | {loss:.3f} |")
    if num < 3:
        return
    chosen = []
    for seed in range(num):
        others = {name: values[:seed] + values[seed + 1 :] for name, values in accuracy.items()}
        winner = max(others, key=lambda name: statistics.mean(others[name]))
        chosen.append(accuracy[winner][seed] - accuracy["default"][seed])
    misses = differences(accuracy["default"], accuracy[best])
    print(f"\nThe default beside the best after the fact ({best}): {with_error(misses)} points;")
    print(f"the best chosen on the other seeds beside the default: {with_error(chosen)} points.")


def differences(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each seed."""
    return [one - other for one, other in zip(some, others, strict=True)]


def with_error(values: Sequence[float]) -> str:
    """The mean and its standard error."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
