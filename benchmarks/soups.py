# SPDX-License-Identifier: Apache-2.0
"""Soups of fine-tunings of one pretrained network, beside their members and the members' fusion.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/soups.py [--seeds N]

Three mini ResNets, which differ in the order of rows, the augmentation and one setting each, are
fine-tuned on 260 digits under noise; every soup is made of them, with its defaults, on 300 holdout
rows. Prints, per soup, test accuracy and log-loss against the member that is best on the holdout
(paired over seeds), how often it fell back to that member, and the optimism of its holdout score.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from fusetune import run
from fusetune.fuse.soup import Soup
from fusetune.plugins import plugin_names

NAMES = ["a", "b", "c"]
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


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    seeds = parser.parse_args().seeds
    soups = plugin_names(Soup)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    fell_back = dict.fromkeys(soups, 0)
    members = [*MEMBERS, *({"name": name, "soup": name, "of": NAMES} for name in soups)]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            out = Path(folder) / str(seed)
            results = run({**RECIPE, "members": members}, out, seed=seed).results
            made = {entry["name"]: entry for entry in results["members"]}
            best = max(NAMES, key=lambda name: rank(made[name]))
            for name in soups:
                fell_back[name] += made[name]["soup"]["fell_back"]
                rows.setdefault(name, []).append(row(made[name]))
            rows.setdefault("best member", []).append(row(made[best]))
            rows.setdefault("mean member", []).append(
                tuple(np.mean([row(made[name]) for name in NAMES], axis=0).tolist())
            )
            plain = run({**RECIPE, "members": MEMBERS}, Path(folder) / f"{seed}m", seed=seed)
            fused = next(f for f in plain.results["fusions"] if f["name"] == "mean")
            rows.setdefault("mean of predictions", []).append(row(fused))
    print("| | accuracy | over the best member | log-loss | holdout over test | fell back |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    base = np.array(rows["best member"])
    for name, values in rows.items():
        figures = np.array(values)
        gains = 100 * (figures[:, 0] - base[:, 0])
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        optimism = 100 * (figures[:, 2] - figures[:, 0]).mean()
        times = f"{fell_back[name]} of {seeds}" if name in fell_back else ""
        print(
            f"| {name} | {100 * figures[:, 0].mean():.2f} | {gains.mean():+.2f} ± {error:.2f} "
            f"| {figures[:, 1].mean():.3f} | {optimism:+.2f} | {times} |"
        )


def rank(entry: dict) -> tuple[float, float]:
    """What the holdout says of a member."""
    scores = entry["scores"]["holdout"]
    return scores["accuracy"], -scores["log_loss"]


def row(entry: dict) -> tuple[float, float, float]:
    """Test accuracy, test log-loss, holdout accuracy (the test's where a fusion has none)."""
    test = entry["scores"]["test"]
    holdout = entry["scores"].get("holdout", test)
    return test["accuracy"], test["log_loss"], holdout["accuracy"]


if __name__ == "__main__":
    main()
