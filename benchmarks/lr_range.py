# SPDX-License-Identifier: Apache-2.0
"""Which rate to read from a learning-rate range test: rules beside the default and the best of a grid.

    OMP_NUM_THREADS=1 python benchmarks/lr_range.py [--seeds 2] [--epochs 5]

The package's three small networks are fine-tuned on digits (400 train rows, 200 for validation) with
each optimizer, all weights or the head alone, at the rates that four rules read from one curve, at the
optimizer's default and at a grid from 1e-4 to 1. Prints Markdown: by how much the best epoch's validation
loss exceeds the lowest of the grid, in nats, and the rates.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from fusetune.data.datasets.digits import Digits
from fusetune.data.inputs import PixelImages
from fusetune.errors import MemberFailed
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.lr_range import RangeTest, smoothed, suggested
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.members.sources.mini import Mini
from fusetune.predictions.targets import Targets

CLASSES = tuple(map(str, range(10)))
GRID = tuple(float(rate) for rate in np.geomspace(1e-4, 1.0, 9))
Rule = Callable[[Sequence[float], Sequence[float]], float]


def minimum(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate of the lowest smoothed loss (fastai's `minimum`): the package's own."""
    rate = suggested(rates, losses)
    assert rate is not None
    return rate


def third(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A third of that rate."""
    return rates[int(np.argmin(smoothed(losses)))] / 3


def steep(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where the smoothed loss falls most steeply, over the logarithm of the rate (Lightning).

    Of the rates up to the one of the lowest loss.
    """
    smooth = smoothed(losses)
    return rates[int(np.argmin(np.gradient(smooth[: int(np.argmin(smooth)) + 1])))]


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Two thirds of the way down the longest fall (fastai's default)."""
    losses = list(smoothed(losses))
    longest, start, end = [1] * len(losses), 0, 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
            if longest[end] < longest[i]:
                end, start = i, i - longest[i]
    third_of = (end - start) / 3
    return rates[min(len(rates) - 1, start + int(third_of) + int(third_of / 2))]


RULES: dict[str, Rule] = {
    "minimum / 10": minimum,
    "minimum / 3": third,
    "steep": steep,
    "valley": valley,
}


@cache
def splits(seed: int) -> tuple[Split, Split]:
    """Train and validation rows."""
    rows = Digits(noise=0.2).read()
    order = np.random.default_rng(seed).permutation(len(rows.ids))
    labels = np.array([CLASSES.index(str(label)) for label in rows.labels])

    def split(some: np.ndarray) -> Split:
        pixels = np.stack([rows.images.pixels(int(row)) for row in some])
        return Split(PixelImages(pixels), Targets(rows.ids[some], CLASSES, labels[some]))

    return split(order[:400]), split(order[400:600])


def trained(model: str, settings: FineTune, seed: int) -> tuple[float, RangeTest | None]:
    """Lowest validation loss of a run, and its range test."""
    member = Mini(model=model).load(CLASSES, seed=seed)
    plan = Plan(Classification(), settings, seed)
    with tempfile.TemporaryDirectory() as work:
        try:
            history = Torch().finetune(member, plan, splits(seed), Path(work), lambda event: None)
        except MemberFailed:
            return float("inf"), None
    return min(epoch["validation_loss"] for epoch in history.epochs), history.range_test


def main() -> None:
    """Run everything, and print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    excess: dict[str, list[float]] = defaultdict(list)
    lines = []
    for optimizer in ("adamw", "sgd"):
        for train in ("full", "head"):
            for model in ("resnet", "vgg", "inception"):
                for seed in range(options.seeds):
                    base = FineTune(
                        epochs=options.epochs,
                        batch_size=32,
                        train=train,
                        augmentation=Augmentation(flip=False, crop_padding=1),
                        optimizer=Optimizer(name=optimizer),
                    )
                    lines.append(one(base, model, seed, excess))
                    print(lines[-1], flush=True)
    print("\n| rule | mean excess | median | worst |\n| --- | ---: | ---: | ---: |")
    for rule, values in excess.items():
        mean, median = statistics.mean(values), statistics.median(values)
        print(f"| {rule} | {mean:.3f} | {median:.3f} | {max(values):.3f} |")


def one(base: FineTune, model: str, seed: int, excess: dict[str, list[float]]) -> str:
    """Run one network at all rates; a line of the table."""

    def loss_at(rate: float) -> float:
        settings = replace(base, optimizer=replace(base.optimizer, lr=rate))
        return min(trained(model, settings, seed)[0], np.log(10) * 2)

    grid = {rate: loss_at(rate) for rate in GRID}
    best = min(grid, key=lambda rate: grid[rate])
    testing = replace(base, epochs=1, optimizer=replace(base.optimizer, lr="range_test"))
    _, test = trained(model, testing, seed)
    assert test is not None
    cells = []
    for name, rule in RULES.items():
        rate = rule(test.rates, test.losses)
        excess[name].append(loss_at(rate) - grid[best])
        cells.append(f"{rate:.1e} ({excess[name][-1]:.3f})")
    excess["default"].append(loss_at(base.optimizer.peak_lr()) - grid[best])
    named = f"{base.optimizer.name}, {base.train}, {model}, seed {seed}"
    return f"| {named} | {best:.0e} ({grid[best]:.3f}) | {' | '.join(cells)} | {excess['default'][-1]:.3f} |"


if __name__ == "__main__":
    main()
