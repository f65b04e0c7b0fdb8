# SPDX-License-Identifier: Apache-2.0
"""Fusion without targets, against the plain mean, the vote and the best member.

Every method sees half of the rows that fitted no member, without their targets, and is judged on
the other half. Writes the tables of docs/results/no_targets.md to the standard output:

    python benchmarks/no_targets.py > docs/results/no_targets.md

Shapes: M members, N rows, C classes.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pool_sources import DATA
from pools_of_members import Predicted, predicted

from fusetune.fuse.latent_classes import Voters, fit_latent_classes, vote_matrix
from fusetune.fuse.method import FusionMethod
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import find
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

HEAD = """\
# Fusion without targets

{date}, {machine}, numpy {numpy}; `python benchmarks/no_targets.py --seeds {seeds}`, {minutes:.1f} min.

Half of the rows that fitted no member go to the methods, without their targets; accuracy and
log-loss are of the other half, in the mean over {seeds} seeds (of the members' fits and of the
halves). *Best member* and `weighted_mean` are what targets would buy: the member with the highest
accuracy on the first half, and weights fitted there. The pools are those of
`benchmarks/pools_of_members.py`; *+ random, constant* adds a member that draws its class and one
that always names the first. Bold: the best of the methods without targets.

How to read it: `agreement` is for pools that may hold members that are much worse than the rest,
and costs little elsewhere. `dawid_skene` decides well where members err in ways of their own, and
worse than the mean where they err alike (networks of one kind); as it takes them for independent
everywhere, its probabilities are not to be trusted, split votes or not.
"""
CROWD = """
## Votes of simulated crowds

Share of items decided rightly by the Dawid-Skene core on the items it was fitted on, by crowd-kit
1.4.2's `DawidSkene(n_iter=100)` and by its majority vote (stored outputs, `conformance/crowd-kit`).
"multi_missing" has workers who label some items only.

| set | items | workers | classes | vote (crowd-kit) | Dawid-Skene (crowd-kit) | ours, smoothing 0 | ours, smoothing 1 |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
POOLS = (
    "cifar10",
    "cifar10 + random, constant",
    "digits",
    "digits_harmful",
    "digits_quarters",
    "spoken_by_speaker",
    "shoppers",
    "shoppers_forests",
    "sentences",
    "liked_harmful",
    "photographs",
    "photographs_networks",
)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "vote": ("vote", {}),
    "agreement": ("agreement", {}),
    "dawid_skene": ("dawid_skene", {}),
    "dawid_skene soft": ("dawid_skene", {"soft": True}),
    "weighted_mean": ("weighted_mean", {}),
}
COLUMNS = ("mean member", "best member", *METHODS)


def pool_of(name: str, seed: int, cache: Path) -> tuple[Stack[Probabilities], Targets]:
    """The members' predictions of rows that fitted none of them, and the truth."""
    made: Predicted = predicted(name.partition(" ")[0], seed, cache)
    array_MNC, members = made.array_MNC, made.members
    if "random" in name:
        random = np.random.default_rng(seed)
        num_rows, num_classes = array_MNC.shape[1:]
        drawn_N = random.integers(num_classes, size=num_rows)
        votes_MN = np.stack([drawn_N, np.zeros(num_rows, dtype=int)])
        bad_MNC = 0.05 / num_classes + 0.95 * np.eye(num_classes)[votes_MN]
        array_MNC = np.concatenate([array_MNC, bad_MNC])
        members = (*members, "random", "constant")
    ids = np.array([f"row{n}" for n in range(array_MNC.shape[1])])
    parts = {
        member: Probabilities(ids, made.classes, probs_NC)
        for member, probs_NC in zip(members, array_MNC, strict=True)
    }
    return Stack.align(parts, classes=made.classes), Targets(ids, made.classes, made.targets_N)


def judged(name: str, seed: int, cache: Path) -> np.ndarray[Any, Any]:
    """`(2, columns)` accuracies and log-losses on the second half of the rows."""
    stack, targets = pool_of(name, seed, cache)
    order = np.random.default_rng(seed).permutation(len(stack))
    fit, judge = np.array_split(order, 2)
    accuracy, log_loss = Accuracy(), LogLoss()

    def scored(prediction: Probabilities, rows: Any) -> list[float]:
        truth = targets.take(rows)
        return [one.value(one.statistics(prediction, truth)) for one in (accuracy, log_loss)]

    before = [scored(part.take(fit), fit)[0] for part in stack.parts]
    alone = [scored(part.take(judge), judge) for part in stack.parts]
    columns = [np.mean(alone, axis=0).tolist(), alone[int(np.argmax(before))]]
    for method, options in METHODS.values():
        made = find(FusionMethod, method)(**options)
        truth = targets.take(fit) if made.needs_targets else None
        fusion = made.fit(stack.take(fit), truth, log_loss)
        columns.append(scored(fusion(stack.take(judge)), judge))
    return np.array(columns).T


def crowds() -> Iterator[str]:
    """Lines of the table of simulated crowds."""
    path = DATA.parent / "conformance" / "crowd-kit" / "categorical.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name, given in stored["inputs"].items():
        tasks, workers, classes = (
            list(dict.fromkeys(r[i] for r in given["rows"])) for i in range(3)
        )
        columns_NM = np.full((len(tasks), len(workers)), -1)
        for task, worker, label in given["rows"]:
            column = workers.index(worker) * len(classes) + classes.index(label)
            columns_NM[tasks.index(task), workers.index(worker)] = column
        voters = Voters.of([range(len(classes))] * len(workers), len(classes))
        votes_NV = vote_matrix(columns_NM, len(workers) * len(classes))
        truth = [classes.index(given["truth"][task]) for task in tasks]
        shares = [
            case["accuracy"]
            for method in ("MajorityVote", "DawidSkene")
            for case in stored["cases"]
            if case["input"] == name and case["method"] == method
        ]
        for smoothing in (0.0, 1.0):
            model = fit_latent_classes(votes_NV, np.ones(len(tasks)), voters, smoothing=smoothing)
            shares.append((model.posterior_NC(votes_NV).argmax(axis=1) == truth).mean())
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        yield f"| {name} | {len(tasks)} | {len(workers)} | {len(classes)} | {cells} |"


def table(title: str, rows: dict[str, Any], cell: str) -> Iterator[str]:
    """A table with the best of the methods without targets in bold."""
    yield f"\n## {title}\n"
    yield f"| pool | {' | '.join(f'`{c}`' if c in METHODS else c for c in COLUMNS)} |"
    yield "| --- |" + " ---: |" * len(COLUMNS)
    free = [i for i, c in enumerate(COLUMNS) if c in METHODS and c != "weighted_mean"]
    for name, values in rows.items():
        shown = [cell.format(value) for value in values]
        pick = max if cell.endswith("%") else min
        best = pick(float(shown[i].rstrip(" %")) for i in free)
        cells = [
            f"**{text}**" if i in free and float(text.rstrip(" %")) == best else text
            for i, text in enumerate(shown)
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables; progress goes to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="fits of the members, and halves")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "fusetune_pools",
        help="folder that keeps the members' predictions",
    )
    options = parser.parse_args()
    start, found = time.perf_counter(), {}
    for name in POOLS:
        seeds = [judged(name, seed, options.cache) for seed in range(options.seeds)]
        found[name] = np.mean(seeds, axis=0)
        print(f"{time.perf_counter() - start:5.0f} s {name}", file=sys.stderr, flush=True)
    head = HEAD.format(
        date=datetime.date.today().isoformat(),
        machine=f"{os.cpu_count()} cores of a {platform.machine()} machine",
        numpy=np.__version__,
        seeds=options.seeds,
        minutes=(time.perf_counter() - start) / 60,
    )
    print(head, end="")
    gains = {
        column: np.array(
            [values[0, COLUMNS.index(column)] - values[0, 2] for values in found.values()]
        )
        for column in ("agreement", "dawid_skene", "dawid_skene soft")
    }
    counts = {column: ((gain > 5e-4).sum(), (gain < -5e-4).sum()) for column, gain in gains.items()}
    print("\nPools in which it decides better / worse than the plain mean, by 0.05 points or more:")
    print(
        ", ".join(f"`{c}` {won} / {lost}" for c, (won, lost) in counts.items()), f"of {len(found)}."
    )
    accuracies = {name: 100 * values[0] for name, values in found.items()}
    print(*table("Accuracy", accuracies, "{:.1f} %"), sep="\n")
    print(*table("Log-loss, in nats", {n: v[1] for n, v in found.items()}, "{:.3f}"), sep="\n")
    print(CROWD, *crowds(), sep="\n")


if __name__ == "__main__":
    main()
