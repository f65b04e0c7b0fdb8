# SPDX-License-Identifier: Apache-2.0
"""Soups of fine-tunings of one pretrained network, beside their members and the members' fusion.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/soups.py [--seeds N]

Three mini ResNets, which differ in the order of rows, the augmentation and one setting each, are
fine-tuned on 260 digits under noise; every soup is made of them, with its defaults, on 300 holdout
rows. The first table has, on test, accuracy and log-loss, the gain over the member that is best on
the holdout (paired over seeds), by how much the holdout flatters, and how often the soup fell back.
The second compares what is done with the batch-norm statistics of the plain average.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fusetune import run
from fusetune.data.prepare import load_prepared
from fusetune.finetune.batches import PixelStore, augmented
from fusetune.finetune.engine import Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch import statistics as torch_statistics
from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation
from fusetune.finetune.steps import member_with
from fusetune.fuse.soup import Candidate, Ingredients, Soup
from fusetune.fuse.state_dicts import averaged
from fusetune.members.sources.mini import Mini
from fusetune.plugins import plugin_names

NAMES = ["a", "b", "c"]
STATISTICS = ["averaged", "re-estimated as predicted", "re-estimated with augmentation"]
RECIPE = {
    "task": "image_classification",
    "data": {
        "source": "digits",
        "noise": 0.2,
        "roles": {"train": 260, "validation": 40, "holdout": 300, "test": 1197},
    },
    "finetune": {
        "epochs": 20,
        "batch_size": 32,
        "label_smoothing": 0.1,
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "augmentation": {"flip": False, "crop_padding": 1},
    },
    "fuse": {"methods": ["mean"], "choose": "mean"},
}
MEMBERS = [
    {"name": "a", "source": "mini", "model": "resnet"},
    {"name": "b", "source": "mini", "model": "resnet", "finetune": {"label_smoothing": 0.0}},
    {"name": "c", "source": "mini", "model": "resnet", "finetune": {"optimizer": {"lr": 1.5e-3}}},
]
Figures = tuple[float, float, float]


def main() -> None:
    """Run the seeds and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    seeds = parser.parse_args().seeds
    rows: dict[str, list[Figures]] = {}
    fell_back = dict.fromkeys(plugin_names(Soup), 0)
    members = [*MEMBERS, *({"name": name, "soup": name, "of": NAMES} for name in fell_back)]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            out = Path(folder) / str(seed)
            results = run({**RECIPE, "members": members}, out, seed=seed).results
            made = {entry["name"]: entry for entry in results["members"]}
            best = max(NAMES, key=lambda name: _rank(made[name]))
            several = np.mean([_of(made[name]) for name in NAMES], axis=0)
            seen = {"best member": _of(made[best]), "mean of the members": tuple(several.tolist())}
            seen["mean of their predictions"] = _mean_of_predictions(out)
            for name in fell_back:
                seen[name] = _of(made[name])
                fell_back[name] += made[name]["soup"]["fell_back"]
            for name, figures in {**seen, **_statistics(out)}.items():
                rows.setdefault(name, []).append(figures)
    base = np.array(rows["best member"])
    print("| | accuracy | over the best member | log-loss | holdout over test | fell back |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in (name for name in rows if name not in STATISTICS):
        times = f"{fell_back[name]} of {seeds}" if name in fell_back else ""
        optimism = 100 * (np.array(rows[name])[:, 2] - np.array(rows[name])[:, 0]).mean()
        print(f"{_cells(name, rows[name], base)} | {optimism:+.2f} | {times} |")
    print("\n| statistics of `uniform_soup` | accuracy | over averaged | log-loss |")
    print("| --- | ---: | ---: | ---: |")
    for name in STATISTICS:
        print(f"{_cells(name, rows[name], np.array(rows['averaged']))} |")


def _cells(name: str, values: list[Figures], base: np.ndarray) -> str:
    figures = np.array(values)
    gains = 100 * (figures[:, 0] - base[:, 0])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    return (
        f"| {name} | {100 * figures[:, 0].mean():.2f} | {gains.mean():+.2f} ± {error:.2f} "
        f"| {figures[:, 1].mean():.3f}"
    )


def _rank(entry: dict) -> tuple[float, float]:
    """What the holdout says of a member."""
    scores = entry["scores"]["holdout"]
    return scores["accuracy"], -scores["log_loss"]


def _of(entry: dict) -> Figures:
    """Test accuracy and log-loss, and holdout accuracy."""
    test, holdout = entry["scores"]["test"], entry["scores"]["holdout"]
    return test["accuracy"], test["log_loss"], holdout["accuracy"]


def _mean_of_predictions(out: Path) -> Figures:
    """What running all members and averaging their probabilities gives."""
    found = []
    for role in ("test", "holdout"):
        tables = [pq.read_table(out / f"predictions/{name}/{role}.parquet") for name in NAMES]
        probs = np.mean([_columns(table) for table in tables], axis=0)
        truth = pq.read_table(out / f"targets/{role}.parquet").column("target").to_pylist()
        labels = np.array([int(name) for name in truth])
        accuracy = float((probs.argmax(axis=1) == labels).mean())
        loss = float(-np.log(probs[np.arange(len(labels)), labels]).mean())
        found.append((accuracy, loss))
    return found[0][0], found[0][1], found[1][0]


def _columns(table: object) -> np.ndarray:
    return np.stack([table.column(str(c)).to_numpy() for c in range(10)], axis=1)


class _Augmented(PixelStore):
    """Batches as training sees them."""

    def __init__(self, images: object, preprocess: object) -> None:
        super().__init__(images, preprocess)
        self.keys = row_keys([str(row) for row in range(len(images))])

    def batch(self, rows: np.ndarray) -> np.ndarray:
        augmentation = Augmentation(flip=False, crop_padding=1)
        return augmented(super().batch(rows), self.keys[rows], augmentation, seed=1, epoch=0)


def _statistics(out: Path) -> dict[str, Figures]:
    """The plain average with its statistics averaged, and re-estimated in two ways."""
    prepared = load_prepared(next((out / "steps").glob("data-*")))
    engine, source = Torch(), Mini(model="resnet")
    states = {}
    for name in NAMES:
        weights = next((out / "steps").glob(f"finetune-{name}-*")) / "weights.safetensors"
        member = member_with(source, prepared.classes, weights)
        states[name] = Candidate(state=engine.state(member), score=0.0, loss=0.0)
    train, test = (
        Split(prepared.images.take(prepared.rows(role)), prepared.targets(role))
        for role in ("train", "test")
    )
    found = {}
    for how, store in zip(STATISTICS, (None, PixelStore, _Augmented), strict=True):
        engine.set_state(member, averaged(Ingredients(members=states)))
        if store is not None:
            torch_statistics.PixelStore = store
            engine.refresh_statistics(member, train)
        outputs = engine.outputs(member, test.images, lambda event: None)
        scores = Classification().scores(outputs, test.targets.labels_N)
        found[how] = (scores["accuracy"], scores["loss"], np.nan)
    torch_statistics.PixelStore = PixelStore
    return found


if __name__ == "__main__":
    main()
