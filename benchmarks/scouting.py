# SPDX-License-Identifier: Apache-2.0
"""Scouting beside fine-tuning everything: do scores rank candidates, and does the subset fuse well?

    FUSETUNE_DATA=../shared/data python benchmarks/scouting.py [--seeds 3] [--only digits]

Two tasks: noisy digits with six mini networks (pretrained, and random as controls) in two sizes of
image, and JPEG-compressed CIFAR-10 with three ResNets trained on clean CIFAR-10, a SqueezeNet with
ImageNet features, mini networks, and random controls. Every candidate is scouted, then fine-tuned.
Prints Markdown: for each score its Spearman correlation with the accuracy on test after fine-tuning,
what scouting cost, and the test accuracy of the plain mean over three candidates: the proposed ones,
the best by each single score, the best on the holdout after fine-tuning, and the best three of all on
test, which nobody could know.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import fusetune
from fusetune.predictions.files import read_probabilities

MOST = 3
MINI = ("resnet", "vgg", "inception")
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def digits() -> dict[str, Any]:
    """The demo's rows and settings, fewer epochs; twelve candidates."""
    candidates = [
        {
            "source": "mini",
            "model": net,
            "weights": weights,
            "name": f"{net}-{weights}-{size}",
            "preprocess": {"size": size},
        }
        for net, weights, size in itertools.product(MINI, ("default", "none"), (16, 8))
    ]
    return {
        "task": "image_classification",
        "data": {
            "source": "digits",
            "noise": 0.2,
            "roles": {"train": 260, "validation": 40, "holdout": 300, "test": 1197},
        },
        "finetune": {
            "epochs": 15,
            "batch_size": 16,
            "label_smoothing": 0.1,
            "optimizer": {"name": "adamw", "lr": 1.5e-3, "weight_decay": 0.05},
            "augmentation": {"flip": False, "crop_padding": 1},
        },
        "members": candidates,
    }


def cifar10(data: Path) -> dict[str, Any]:
    """1,000 train rows of JPEG CIFAR-10; thirteen candidates."""
    nets = str(Path(__file__).parents[1] / "examples")
    candidates: list[dict[str, Any]] = []
    for depth, weights in itertools.product((20, 32, 44), ("pretrained", "none")):
        file = str(data / "weights" / f"resnet{depth}_cifar10.safetensors")
        trained = {"weights": file, "classes": CIFAR10, "head": "replace"}
        candidates.append(
            {
                "name": f"resnet{depth}-{weights}",
                "source": "module",
                "model": f"my_nets.resnet{depth}",
                "import_from": nets,
                "preprocess": {"size": 32, **IMAGENET},
                **({"weights": "none"} if weights == "none" else trained),
            }
        )
    for weights in (str(data / "weights" / "squeezenet1_1_imagenet_features.safetensors"), "none"):
        name = "squeezenet-none" if weights == "none" else "squeezenet-imagenet"
        squeeze = {"source": "torchvision", "model": "squeezenet1_1", "weights": weights}
        candidates.append({"name": name, **squeeze, "preprocess": {"size": 64}})
    for net, weights in itertools.product(MINI, ("default", "none")):
        mini = {"source": "mini", "model": net, "weights": weights, "preprocess": {"size": 32}}
        candidates.append({"name": f"mini-{net}-{weights}", **mini})
    return {
        "task": "image_classification",
        "data": {
            "train": {
                "source": "table",
                "path": str(data / "cifar10" / "jpeg_train.parquet"),
                "limit": 1700,
            },
            "test": {"source": "table", "path": str(data / "cifar10" / "jpeg_test.parquet")},
            "roles": {"validation": 200, "holdout": 500, "duplicates": "keep_first"},
        },
        "finetune": {
            "epochs": 5,
            "batch_size": 32,
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "augmentation": {"flip": True, "crop_padding": 4},
        },
        "members": candidates,
    }


def measured(recipe: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Scout all, fine-tune all, and compare."""
    recipe = {**recipe, "seed": seed, "fuse": {"methods": ["mean"], "choose": "mean"}}
    scouting = {**recipe, "scout": {"candidates": recipe["members"], "most": MOST}}
    start = time.perf_counter()
    table = fusetune.scout_models(scouting, out=folder / "scout").table
    scout_seconds = time.perf_counter() - start
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
        "scout_seconds": scout_seconds,
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
    print("<details><summary>Every candidate, first seed</summary>\n")
    scores = list(found[0]["correlations"])
    print(f"| candidate | {' | '.join(scores)} | after fine-tuning, % |")
    print(f"| --- |{' ---: |' * (len(scores) + 1)}")
    for name, (values, final) in sorted(found[0]["table"].items(), key=lambda item: -item[1][1]):
        cells = ["–" if values[s] is None else f"{values[s]:.3f}" for s in scores]
        print(f"| {name} | {' | '.join(cells)} | {100 * final:.2f} |")
    print("\n</details>")
    print(f"<!-- {json.dumps([one['subsets'] for one in found])} -->")


def main() -> None:
    """Both tasks, seed by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["digits", "cifar10"])
    options = parser.parse_args()
    tasks = {"digits": digits()}
    if "FUSETUNE_DATA" in os.environ:
        tasks["cifar10"] = cifar10(Path(os.environ["FUSETUNE_DATA"]).absolute())
    found = defaultdict(list)
    for seed in range(options.seeds):
        for task, recipe in tasks.items():
            if options.only in (None, task):
                with tempfile.TemporaryDirectory() as folder:
                    found[task].append(measured(recipe, seed, Path(folder)))
    for task, outcomes in found.items():
        show(task, outcomes)


if __name__ == "__main__":
    main()
