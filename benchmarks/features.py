# SPDX-License-Identifier: Apache-2.0
r"""Features computed once, and photos decoded once, beside doing both again whenever they are needed.

    FUSETUNE_DATA=../shared/data PYTHONPATH=src python benchmarks/features.py > page.md

Three comparisons, each in turns within one process, medians of some repeats: a head trained for ten
epochs on cached features or behind its frozen backbone, and solved for; a run that scouts six
candidates and trains the heads of four, with and without features that its steps share; and the
first epoch of a second member on photos, with and without the pixels that the first one left.
"""

import argparse
import datetime
import io
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

import fusetune
from fusetune.data.datasets.table import Table
from fusetune.data.inputs import EncodedImages
from fusetune.data.prepare import Prepared, load_prepared, prepare
from fusetune.data.roles import Roles
from fusetune.entries import MemberEntry
from fusetune.finetune.engine import Plan
from fusetune.finetune.feature_steps import feature_rows
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pixel_cache import Seen
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.finetune.steps import finetune_member
from fusetune.members.member import PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.module import Module
from fusetune.predictions.targets import Targets
from fusetune.recipe import Scout
from fusetune.store.artifact import Step

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SEEN = PreprocessOverride(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NETS = str(Path(__file__).parents[1] / "examples")
PLAIN = FineTune(
    epochs=10,
    train="head",
    optimizer=Optimizer(lr=3e-3),
    augmentation=Augmentation(flip=False),
)


def silent(event: Any) -> None:
    """Progress is not looked at."""


def resnet(depth: int, data: Path) -> Source:
    """A network that was trained on clean CIFAR-10."""
    return Module(
        model=f"my_nets.resnet{depth}",
        weights=data / "weights" / f"resnet{depth}_cifar10.safetensors",
        classes=tuple(CIFAR10),
        head="replace",
        import_from=Path(NETS),
        preprocess=SEEN,
    )


def own_name(scout: Scout, entry: MemberEntry) -> str:
    """In the place of `shared_name`: every candidate is looked at by itself."""
    return entry.name


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds; of the processor, by default: others' work on the machine counts least in them."""
    before = clock()
    work()
    return clock() - before


def medians(works: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of each, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            found[name].append(work())
            print(f"{name}, {repeat + 1}: {found[name][-1]:.2f} s", file=sys.stderr)
    return {name: statistics.median(values) for name, values in found.items()}


def probes(folder: Path, data: Path, rows: int, depths: Sequence[int], repeats: int) -> list[str]:
    """Lines of the first table."""
    table = Table(path=data / "cifar10" / "jpeg_train.parquet")
    fifth = rows // 5
    roles = Roles(train=rows, validation=fifth, holdout=fifth, test=fifth, duplicates="keep_first")
    prepared = prepare({"all": table}, roles)
    stored, count = stored_rows(folder, prepared), iter(range(1000))
    fitted = np.concatenate([prepared.rows(role) for role in ("train", "validation")])

    def head(source: Source, settings: FineTune, cached: bool) -> float:
        place = folder / f"probe-{next(count)}"
        (place / "features").mkdir(parents=True)
        plan = Plan(Classification(), settings, seed=0)

        def work() -> None:
            known = None
            if cached:
                known = place / "features"
                feature_rows(known, source, stored, [fitted], [], silent)
            finetune_member(place, source, stored, plan, silent, known)

        return timed(work)

    lines = []
    for depth in depths:
        source = resnet(depth, data)
        works = {
            "behind": partial(head, source, PLAIN, False),
            "cached": partial(head, source, PLAIN, True),
            "solved": partial(head, source, replace(PLAIN, train="probe"), True),
        }
        found = medians(works, repeats)
        ratios = [found["behind"] / found[name] for name in ("cached", "solved")]
        cells = " | ".join(f"{found[name]:.1f}" for name in works)
        lines.append(f"| ResNet-{depth} | {cells} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
    return lines


def stored_rows(folder: Path, prepared: Prepared) -> Path:
    """An artifact of rows."""
    step = Step(folder / "steps", "data", {"rows": prepared.fingerprint()})
    prepared.save(step.begin())
    return step.finish().folder


def scouted(folder: Path, data: Path, rows: int, repeats: int) -> list[str]:
    """Lines of the second table."""
    finetune = {
        "epochs": 10,
        "train": "head",
        "augmentation": {"flip": False},
        "optimizer": {"lr": 3e-3},
    }
    candidates = [
        {
            "name": f"resnet{depth}-{lr:g}",
            "source": "module",
            "model": f"my_nets.resnet{depth}",
            "weights": str(data / "weights" / f"resnet{depth}_cifar10.safetensors"),
            "classes": CIFAR10,
            "head": "replace",
            "import_from": NETS,
            "preprocess": {"size": 32, "mean": list(SEEN.mean or ()), "std": list(SEEN.std or ())},
            "finetune": {"optimizer": {"lr": lr}},
        }
        for depth in (20, 32, 44)
        for lr in (1e-3, 1e-2)
    ]
    fifth = rows // 5
    recipe = {
        "task": "image_classification",
        "data": {
            "source": "table",
            "path": str(data / "cifar10" / "jpeg_train.parquet"),
            "roles": {
                "train": rows,
                "validation": fifth,
                "holdout": fifth * 2,
                "test": fifth * 2,
                "duplicates": "keep_first",
            },
        },
        "finetune": finetune,
        "members": "scout",
        "scout": {"candidates": candidates, "most": 4},
        "fuse": {"methods": ["mean"]},
    }
    count = iter(range(1000))

    def one() -> float:
        return timed(lambda: fusetune.run(recipe, folder / f"run-{next(count)}"), time.perf_counter)

    def without() -> float:
        with (
            mock.patch("fusetune.stages.features.feature_steps", return_value={}),
            mock.patch("fusetune.stages.scouting.shared_name", own_name),
        ):
            return one()

    found = medians({"without": without, "with": one}, repeats)
    ratio = found["without"] / found["with"]
    return [f"| {found['without']:.1f} | {found['with']:.1f} | {ratio:.2f} |"]


def photos(folder: Path, num: int, repeats: int) -> list[str]:
    """Lines of the third table."""
    random, files = np.random.default_rng(0), []
    for _ in range(num):
        coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
        files.append(file.getvalue())
    ids = np.array([f"photo-{row:04}" for row in range(num)])
    roles = np.array((["train"] * 7 + ["validation", "holdout", "test"]) * (num // 10))
    truth = Targets(ids, ("a", "b"), np.arange(num) % 2)
    prepared = Prepared(EncodedImages.of(files), truth, roles)
    stored = stored_rows(folder / "photos", prepared)
    settings = replace(PLAIN, epochs=1, augmentation=Augmentation(flip=True))
    count, lines = iter(range(1000)), []
    for size in (64, 224):
        first, second = (
            Mini(model=name, preprocess=PreprocessOverride(size=size)) for name in ("vgg", "resnet")
        )

        def member(source: Source) -> float:
            place = folder / f"photo-{next(count)}"
            place.mkdir()
            plan = Plan(Classification(), settings, seed=0)
            return timed(lambda: finetune_member(place, source, stored, plan, silent))

        def alone(second: Source = second, member: Any = member) -> float:
            def as_stored(prepared: Prepared, *_: object) -> Seen:
                return Seen(load_prepared(stored))

            with mock.patch("fusetune.finetune.steps.with_pixels", as_stored):
                return float(member(second))

        member(first)  # leaves the pixels
        works = {"alone": alone, "shared": lambda m=member, s=second: m(s)}
        found = medians(works, repeats)
        ratio = found["alone"] / found["shared"]
        lines.append(f"| {size} | {found['alone']:.2f} | {found['shared']:.2f} | {ratio:.2f} |")
    return lines


def commit() -> str:
    """Of this checkout."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 44], help="of ResNets")
    parser.add_argument("--skip-run", action="store_true", help="leave the second table out")
    options = parser.parse_args()
    data = Path(os.environ["FUSETUNE_DATA"]).resolve()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables = (
            probes(folder, data, options.rows, options.depths, options.repeats),
            [] if options.skip_run else scouted(folder, data, options.rows, options.repeats),
            photos(folder, options.photos, options.repeats),
        )
    rows, fifth = options.rows, options.rows // 5
    print(f"""\
# Features computed once, photos decoded once

{datetime.date.today()}, commit {commit()}, {os.cpu_count()} CPU cores, shared ({platform.machine()}), torch {torch.__version__};
`python {shlex.join(sys.argv)}`, {(time.perf_counter() - began) / 60:.1f} min.

Seconds are medians of {options.repeats} repeats in turns: of the processor, in all threads, in the first and third
table, which run in one process; on the clock in the second. Others worked on the machine at the same time.

## A head on {rows:,} train and {fifth:,} validation rows of CIFAR-10

Ten epochs behind the frozen backbone; the same on features, whose computation counts; and
`train: probe`, which solves for the head on them at seven penalties.

| network | behind the backbone | on features | solved for | ratio | ratio of the solved |
| --- | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(tables[0])}

## A whole run: six candidates scouted, the heads of four trained

`members: scout` on ResNet-20, -32 and -44, each with two learning rates of the head; {rows:,} train,
{fifth:,} validation, {2 * fifth:,} holdout and as many test rows, ten epochs. Start of the processes, checks,
scores of scouting, fusing and the report are in both. *Without*, every candidate is looked at by itself,
and every head is trained and predicts behind its backbone.

| without | with | ratio |
| ---: | ---: | ---: |
{chr(10).join(tables[1])}

## The second member on {options.photos:,} photos of 400×300

Its fine-tuning step with one epoch of the head of `mini:resnet`, flips on, so that nothing but pixels
can be kept. *Alone* it decodes and resizes the photos itself; *shared*, a member before it did.

| size | alone | shared | ratio |
| ---: | ---: | ---: | ---: |
{chr(10).join(tables[2])}""")


if __name__ == "__main__":
    main()
