# SPDX-License-Identifier: Apache-2.0
"""Scouting beside fine-tuning everything: do scores rank candidates, and does the subset fuse well?

    FUSETUNE_DATA=../shared/data python benchmarks/scouting.py --work FOLDER [--seeds 3] [--only digits]

Four tasks of `real_images.py`. Digits, twelve candidates: three mini networks, pretrained and (as controls)
of random weights, in two sizes of image. The others, eleven: two ResNets trained on clean CIFAR-10, SqueezeNet with
ImageNet features in two sizes of image and with random weights, and the mini networks. Every candidate is scouted, then fine-tuned. Prints Markdown: for each score its Spearman
correlation with the accuracy on test after fine-tuning, what scouting cost, and the test accuracy of the
plain mean over three candidates: the proposed ones, the best by each single score, the best on the holdout
after fine-tuning, and the best three of all on test, which nobody could know. As there are few tasks, ways to choose are
also compared on 300 pools of seven candidates each, drawn from all of them; and for every three candidates the accuracy of
their mean is compared with what could be known before. A run that is stopped goes on where it was.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from real_images import CIFAR10, EXAMPLES, IMAGENET, TASKS
from scipy.stats import rankdata, spearmanr

import fusetune
from fusetune.data.prepare import prepare
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.files import read_probabilities
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from fusetune.recipe import load_recipe
from fusetune.runtime.runners.local import Local
from fusetune.scout.probe import probe_probs
from fusetune.scout.subset import propose
from fusetune.stages.members import Context
from fusetune.stages.scouting import ROLES, Looked, looked_at, view_step
from fusetune.store.experiment import Experiment

MOST, POOL, POOLS = 3, 7, 300
RANKED = ("log_me", "h_score", "linear_probe", "knn")
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
    scores = {line["name"]: line["scores"] for line in table["candidates"]}
    final = {name: m["scores"]["test"]["accuracy"] for name, m in members.items()}
    correlations = {}
    for score in next(iter(scores.values())):
        known = [name for name in scores if scores[name][score] is not None]
        values = [scores[name][score] for name in known]
        correlations[score] = (spearmanr(values, [final[n] for n in known])[0], len(known))
    accuracy_of = means_on_test(run, list(members))
    probes, targets = probes_of({**scouting, "members": "scout"}, folder / "scout")
    ways = {
        "proposed": lambda pool: (
            propose({name: probes[name] for name in pool}, targets, LogLoss(), most=MOST).weights
        ),
        **{f"best {MOST} by {score}": best_by(scores, [score]) for score in RANKED},
        f"best {MOST} by mean rank in {', '.join(RANKED)}": best_by(scores, RANKED),
        f"best {MOST} by the probe's log-loss": lambda pool: top(
            pool, {name: -loss_of([probes[name]], targets) for name in pool}
        ),
    }
    every = list(members)
    holdout = {name: m["scores"]["holdout"]["accuracy"] for name, m in members.items()}
    ways |= {
        f"best {MOST} on the holdout after fine-tuning": lambda pool: top(pool, holdout),
        f"best {MOST} of all on test": lambda pool: max(
            itertools.combinations(pool, MOST), key=accuracy_of
        ),
        "best single one on test": lambda pool: top(pool, final)[:1],
    }
    return {
        "correlations": correlations,
        "errors": errors_alike(run, probes, targets),
        "triples": triples(every, final, probes, targets, accuracy_of),
        "subsets": {name: accuracy_of(choose(every)) for name, choose in ways.items()},
        "pools": {
            name: statistics.mean(accuracy_of(choose(pool)) for pool in pools(every))
            for name, choose in ways.items()
        },
        "scout_seconds": json.loads(timing.read_text(encoding="utf-8")),
        "finetune_seconds": sum(m["seconds"]["finetune"] for m in members.values()),
        "table": {name: (scores[name], final[name]) for name in scores},
    }


def best_by(scores: Mapping[str, Any], some: Sequence[str]) -> Any:
    """A function: pool → the best by their mean rank in some scores."""

    def choose(pool: Sequence[str]) -> list[str]:
        ranks = [rankdata([scores[name][score] for name in pool]) for score in some]
        return top(pool, dict(zip(pool, np.sum(ranks, axis=0), strict=True)))

    return choose


def pools(names: Sequence[str]) -> list[list[str]]:
    """Seven candidates each."""
    rng = np.random.default_rng(0)
    drawn = [set(rng.choice(names, POOL, replace=False).tolist()) for _ in range(POOLS)]
    return [[name for name in names if name in some] for some in drawn]


def triples(
    names: Sequence[str],
    final: Mapping[str, float],
    probes: Mapping[str, Probabilities],
    targets: Targets,
    accuracy_of: Any,
) -> dict[str, float]:
    """Spearman's ρ over all three candidates: accuracy of their mean with what is known of them."""
    every = list(itertools.combinations(names, MOST))
    known = {
        "mean accuracy after fine-tuning": [np.mean([final[n] for n in some]) for some in every],
        "mean loss of their probes": [
            -np.mean([loss_of([probes[name]], targets) for name in some]) for some in every
        ],
        "loss of the mean of their probes": [
            -loss_of([probes[name] for name in some], targets) for some in every
        ],
    }
    reached = [accuracy_of(some) for some in every]
    return {name: float(spearmanr(values, reached)[0]) for name, values in known.items()}


def probes_of(
    scouting: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Probabilities], Targets]:
    """Each candidate's probe's predictions of holdout rows, from what scouting has looked at."""
    recipe = load_recipe(scouting)
    data, scout = recipe.data, recipe.scout
    prepared = prepare(data.datasets, data.roles, data.limit, recipe.seed, recipe.task.kind)
    with Local() as runner:
        context = Context(recipe, prepared, Experiment(folder), runner, lambda event: None)
    rows = looked_at(context, scout)
    train, holdout = (prepared.truth.take(rows[role]) for role in ROLES)
    probes = {}
    for entry in scout.candidates:
        looked = Looked(entry, view_step(context, entry, rows).finished())
        new_ND = looked.view("holdout", holdout).features_ND
        probs_NC = probe_probs(looked.view("train", train), new_ND)
        probes[entry.name] = Probabilities(holdout.ids, holdout.classes, probs_NC)
    return probes, holdout


def loss_of(probes: Sequence[Probabilities], targets: Targets) -> float:
    """Log-loss of their mean."""
    mean_NC = np.mean([probe.probs_NC for probe in probes], axis=0)
    mean = Probabilities(targets.ids, targets.classes, mean_NC)
    return float(LogLoss().statistics(mean, targets)[:, 0].mean())


def predicted_on_test(run: Any, names: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """Name → probabilities of the test rows, and their true classes."""
    import pyarrow.parquet

    folder = run.folder
    held = {n: read_probabilities(folder / "predictions" / n / "test.parquet") for n in names}
    targets = pyarrow.parquet.ParquetFile(folder / "targets" / "test.parquet").read()
    truth = dict(zip(*(targets[c].to_pylist() for c in ("id", "target")), strict=True))
    first = held[names[0]]
    labels_N = np.array([first.classes.index(truth[str(i)]) for i in first.ids])
    return {name: one.probs_NC for name, one in held.items()}, labels_N


def means_on_test(run: Any, names: Sequence[str]) -> Any:
    """A function: subset → accuracy of the plain mean of its predictions on test."""
    held, labels_N = predicted_on_test(run, names)

    @cache
    def accuracy(some: frozenset[str]) -> float:
        mean_NC = sum(held[name] for name in sorted(some))
        return float((mean_NC.argmax(axis=1) == labels_N).mean())

    return lambda some: accuracy(frozenset(some))


def errors_alike(run: Any, probes: Mapping[str, Probabilities], targets: Targets) -> float:
    """Spearman's ρ, over all pairs, of how probes' errors correlate with how fine-tuned ones' do."""
    held, labels_N = predicted_on_test(run, list(probes))
    before = {name: probe.probs_NC.argmax(axis=1) for name, probe in probes.items()}
    after = {name: probs_NC.argmax(axis=1) for name, probs_NC in held.items()}
    alike = [
        (
            np.corrcoef(before[one] != targets.labels_N, before[other] != targets.labels_N)[0, 1],
            np.corrcoef(after[one] != labels_N, after[other] != labels_N)[0, 1],
        )
        for one, other in itertools.combinations(probes, 2)
    ]
    return float(spearmanr(*zip(*alike, strict=True))[0])


def top(pool: Sequence[str], values: Mapping[str, float]) -> list[str]:
    """Those of a pool with the highest values."""
    return sorted(pool, key=lambda name: -values[name])[:MOST]


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
    print("\n| three candidates' | Spearman's ρ with the accuracy of their mean |\n| --- | ---: |")
    for name in found[0]["triples"]:
        rho = statistics.mean(one["triples"][name] for one in found)
        print(f"| {name} | {rho:.2f} |")
    per_seed = ", ".join(f"{one['errors']:.2f}" for one in found)
    print(f"\nCorrelations of two candidates' errors, of probes and fine-tuned: ρ = {per_seed}.")
    pooled = f"test accuracy in pools of {POOL}"
    print(f"\n| mean of | test accuracy, % | per seed | {pooled} | per seed |")
    print("| --- | ---: | --- | ---: | --- |")
    for name in found[0]["subsets"]:
        cells = []
        for part in ("subsets", "pools"):
            values = [100 * one[part][name] for one in found]
            per_seed = ", ".join(f"{value:.2f}" for value in values)
            cells.append(f"{statistics.mean(values):.2f} | {per_seed}")
        print(f"| {name} | {' | '.join(cells)} |")
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
