# SPDX-License-Identifier: Apache-2.0
"""Scouting beside fine-tuning everything: do scores rank candidates, and does the subset fuse well?

    FUSETUNE_DATA=../shared/data python benchmarks/scouting.py --work FOLDER [--seeds 3] [--only digits]

Four tasks of `real_images.py`. Digits, twelve candidates: three mini networks, pretrained and (as controls)
of random weights, in two sizes of image. The others, eleven: two ResNets trained on clean CIFAR-10, SqueezeNet with
ImageNet features in two sizes of image and with random weights, and the mini networks. Every candidate is scouted, then fine-tuned. Prints Markdown: for each score its Spearman
correlation with the accuracy on test after fine-tuning, what scouting cost, and the test accuracy of the
plain mean over three candidates: the proposed ones, the best by each single score, the best on the holdout
after fine-tuning, and the best three of all on test, which nobody could know. A run that is stopped goes on
where it was.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_images import CIFAR10, EXAMPLES, IMAGENET, TASKS
from scipy.stats import spearmanr

import fusetune
from fusetune.predictions.files import read_probabilities

MOST = 3
MINI = ("resnet", "vgg", "inception")
EPOCHS = {"digits": 20, "spoken": 20, "camvid": 12, "cifar10": 8}


def digits_nets() -> list[dict[str, Any]]:
    """The mini networks, pretrained and not, on images of 16 pixels and of 8."""
    return [
        {
            "source": "mini",
            "model": net,
            "weights": weights,
            "name": f"{net}-{weights}-{size}",
            "preprocess": {"size": size},
        }
        for net, weights, size in itertools.product(MINI, ("default", "none"), (16, 8))
    ]


def nets() -> list[dict[str, Any]]:
    """Networks of four families, pretrained on other images than a task's, or not at all."""
    weights = Path(os.environ["FUSETUNE_DATA"]).resolve() / "weights"
    members: list[dict[str, Any]] = []
    for depth in (20, 32):
        members.append(
            {
                "name": f"resnet{depth}-cifar10",
                "source": "module",
                "model": f"my_nets.resnet{depth}",
                "import_from": EXAMPLES,
                "weights": str(weights / f"resnet{depth}_cifar10.safetensors"),
                "classes": CIFAR10,
                "head": "replace",
                "preprocess": {"size": 32, **IMAGENET},
            }
        )
    features = str(weights / "squeezenet1_1_imagenet_features.safetensors")
    for name, file, size in (
        ("squeezenet-imagenet-48", features, 48),
        ("squeezenet-imagenet-32", features, 32),
        ("squeezenet-none-48", "none", 48),
    ):
        squeeze = {"source": "torchvision", "model": "squeezenet1_1", "weights": file}
        members.append({"name": name, **squeeze, "preprocess": {"size": size}})
    for net, file in itertools.product(MINI, ("default", "none")):
        mini = {"source": "mini", "model": net, "weights": file, "preprocess": {"size": 32}}
        members.append({"name": f"mini-{net}-{file}", **mini})
    return members


def recipe_of(name: str, work: Path) -> dict[str, Any]:
    """A task's rows, its candidates, and half as long a fine-tuning as is usual."""
    task = TASKS[name](work)
    return {
        "task": "image_classification",
        "data": task.data,
        "finetune": {"epochs": EPOCHS[name], "augmentation": task.augmentation},
        "members": digits_nets() if name == "digits" else nets(),
        "fuse": {"methods": ["mean"], "choose": "mean"},
    }


def measured(recipe: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Scout all, fine-tune all, and compare."""
    recipe = {**recipe, "seed": seed}
    scouting = {**recipe, "scout": {"candidates": recipe["members"], "most": MOST}}
    start = time.perf_counter()
    table = fusetune.scout_models(scouting, out=folder / "scout").table
    timing = folder / "scout_seconds.json"  # of the first time: later on there is little to do
    if not timing.exists():
        timing.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
    run = fusetune.run(recipe, folder / "run")
    members = {m["name"]: m for m in run.results["members"]}
    lines = {line["name"]: line for line in table["candidates"]}
    final = {name: m["scores"]["test"]["accuracy"] for name, m in members.items()}
    correlations = {}
    for score in next(iter(lines.values()))["scores"]:
        known = [name for name in lines if lines[name]["scores"][score] is not None]
        values = [lines[name]["scores"][score] for name in known]
        correlations[score] = (spearmanr(values, [final[n] for n in known])[0], len(known))
    accuracy_of = means_on_test(run, list(members))
    subsets = {"proposed": list(table["proposed"])}
    for score in ("log_me", "h_score", "linear_probe"):
        subsets[f"best {MOST} by {score}"] = top(
            {n: line["scores"][score] for n, line in lines.items()}
        )
    holdout = {name: m["scores"]["holdout"]["accuracy"] for name, m in members.items()}
    subsets[f"best {MOST} on the holdout after fine-tuning"] = top(holdout)
    every = itertools.combinations(members, MOST)
    subsets[f"best {MOST} of all on test"] = list(max(every, key=accuracy_of))
    subsets["best single one on test"] = top(final)[:1]
    return {
        "correlations": correlations,
        "subsets": {name: (accuracy_of(some), some) for name, some in subsets.items()},
        "scout_seconds": json.loads(timing.read_text(encoding="utf-8")),
        "finetune_seconds": sum(m["seconds"]["finetune"] for m in members.values()),
        "table": {name: (lines[name]["scores"], final[name]) for name in lines},
    }


def means_on_test(run: Any, names: Sequence[str]) -> Any:
    """A function: subset → accuracy of the plain mean of its predictions on test."""
    import pyarrow.parquet

    folder = run.folder
    held = {n: read_probabilities(folder / "predictions" / n / "test.parquet") for n in names}
    targets = pyarrow.parquet.ParquetFile(folder / "targets" / "test.parquet").read()
    truth = dict(zip(*(targets[c].to_pylist() for c in ("id", "target")), strict=True))
    first = held[names[0]]
    labels_N = np.array([first.classes.index(truth[str(i)]) for i in first.ids])

    def accuracy(some: Sequence[str]) -> float:
        mean_NC = sum(held[name].probs_NC for name in some)
        return float((mean_NC.argmax(axis=1) == labels_N).mean())

    return accuracy


def top(values: Mapping[str, float]) -> list[str]:
    """The names with the highest values."""
    return sorted(values, key=lambda name: -values[name])[:MOST]


def show(task: str, found: Sequence[Mapping[str, Any]]) -> None:
    """The part of the page on one task."""
    number = len(found[0]["table"])
    print(f"\n## {task}, {number} candidates, {len(found)} seeds\n")
    print("| score | candidates | Spearman's ρ with the accuracy after fine-tuning | per seed |")
    print("| --- | ---: | ---: | --- |")
    for score, (_, known) in found[0]["correlations"].items():
        values = [one["correlations"][score][0] for one in found]
        per_seed = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {score} | {known} | {statistics.mean(values):.2f} | {per_seed} |")
    print("\n| mean of | test accuracy, % | per seed |\n| --- | ---: | --- |")
    for name in found[0]["subsets"]:
        values = [100 * one["subsets"][name][0] for one in found]
        per_seed = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {statistics.mean(values):.2f} | {per_seed} |")
    shares = [one["scout_seconds"] / one["finetune_seconds"] for one in found]
    pairs = [f"{one['scout_seconds']:.0f} of {one['finetune_seconds']:.0f} s" for one in found]
    share = statistics.median(shares)
    print(f"\nScouting took {share:.1%} of the time of fine-tuning all ({', '.join(pairs)}).\n")
    print("<details><summary>Every candidate, means over seeds</summary>\n")
    scores = list(found[0]["correlations"])
    print(f"| candidate | {' | '.join(scores)} | after fine-tuning, % |")
    print(f"| --- |{' ---: |' * (len(scores) + 1)}")
    tables = [one["table"] for one in found]
    final = {name: statistics.mean(table[name][1] for table in tables) for name in tables[0]}
    for name in sorted(final, key=lambda name: -final[name]):
        columns = [[table[name][0][score] for table in tables] for score in scores]
        cells = ["–" if None in some else f"{statistics.mean(some):.3f}" for some in columns]
        print(f"| {name} | {' | '.join(cells)} | {100 * final[name]:.2f} |")
    print("\n</details>")


def main() -> None:
    """Task by task, seed by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--seeds", type=int, default=3)
    known = list(EPOCHS) if "FUSETUNE_DATA" in os.environ else ["digits"]
    parser.add_argument("--only", nargs="+", choices=known, default=known)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for task in options.only:
        recipe, found = recipe_of(task, options.work), []
        for seed in range(options.seeds):
            found.append(measured(recipe, seed, options.work / f"{task}-{seed}"))
        show(task, found)


if __name__ == "__main__":
    main()
