# SPDX-License-Identifier: Apache-2.0
"""Judging fused masks: fitting and judging eight fusions of three segmenters, and where the time goes.

Images are made up: blobs of classes with boxes on them. The members' masks are half-precision files of a
half and a quarter of the image's height and width, blurred and noisy truth. A process of its own reads
the files, fits and judges as `fusetune fuse` does, cross-fitted, and then takes an image's work
apart: six methods, one after the other. With `--beside`, a process of another source tree
(`git worktree add ../before <commit>`) does the same in turn, and the ratio is that of each round. The peer
is boundary F1 as it is usually written: each class's outline, both ways by a distance transform of
the whole image.

    python benchmarks/mask_judging.py --beside ../before/src > docs/results/mask_judging.md
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom

METHODS = ["mean", "geometric_mean", "label_voting", "staple", "weighted_mean", "stacking"]
CASES = {  # name: images, height, width, classes
    "CamVid": (84, 180, 240, 11),
    "Cityscapes": (3, 1024, 2048, 19),
}
COARSER = {"half": 2, "quarter": 4, "other_quarter": 4}
WHOLE = ("reading and checking", "fitting and judging", "its processor time")
PARTS = (
    "resampling three members",
    "fusing and deciding, each method alone",
    "confusion counts",
    "boundary F1",
    "boundary F1, the peer",
    "intervals",
)


def drawn_map(random: np.random.Generator, height: int, width: int, classes: int) -> np.ndarray:
    """`(H, W)` labels: smooth regions of some classes, boxes of others, an ignored line below."""
    coarse = (classes // 2 + 1, -(-height // 8), -(-width // 8))
    fields = gaussian_filter(random.standard_normal(coarse), (0, 3, 3), mode="nearest")
    labels = zoom(fields, (1, 8, 8), order=1)[:, :height, :width].argmax(axis=0)
    for _ in range(12):
        high, wide = (int(side * random.uniform(0.03, 0.2)) for side in (height, width))
        top, left = int(random.integers(height - high)), int(random.integers(width - wide))
        labels[top : top + high, left : left + wide] = random.integers(classes // 2, classes)
    labels[-height // 20 :] = 255
    return labels.astype(np.uint8)


def predicted(
    random: np.random.Generator, labels: np.ndarray, coarser: int, classes: int
) -> np.ndarray:
    """`(C, H / coarser, W / coarser)` probabilities: the truth, blurred, with smooth and fine noise."""
    small = labels[::coarser, ::coarser]
    hot = np.moveaxis(np.eye(classes, dtype=np.float32)[np.minimum(small, classes - 1)], -1, 0)
    logits = 6 * gaussian_filter(hot, (0, 1.5, 1.5))
    rough = random.standard_normal((classes, -(-small.shape[0] // 8), -(-small.shape[1] // 8)))
    logits += 1.2 * zoom(rough, (1, 8, 8), order=1)[:, : small.shape[0], : small.shape[1]]
    logits += 0.3 * random.standard_normal(logits.shape, dtype=np.float32)
    exp = np.exp(logits - logits.max(axis=0))
    return (exp / exp.sum(axis=0)).astype(np.float16)


def write_pool(folder: Path, case: str) -> None:
    """Write `truth/`, a folder for each member, and `classes.txt`."""
    from PIL import Image

    images, height, width, classes = CASES[case]
    random = np.random.default_rng(0)
    for name in ("truth", *COARSER):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(f"class{c}" for c in range(classes)))
    for number in range(images):
        labels = drawn_map(random, height, width, classes)
        Image.fromarray(labels).save(folder / "truth" / f"{number:03d}.png")
        for name, coarser in COARSER.items():
            np.save(
                folder / name / f"{number:03d}.npy", predicted(random, labels, coarser, classes)
            )


def timed(into: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What the work gives; its seconds are added under a name."""
    begun = time.perf_counter()
    found = work()
    into[name] = into.get(name, 0.0) + time.perf_counter() - begun
    return found


def measured(folder: Path, out: Path) -> dict[str, Any]:
    """Seconds of a run and of its parts, peak memory, and the scores; run in a process of its own."""
    from fusetune.predictions.pool import Reading, read_pool
    from fusetune.stages.files import fuse_settings, judge_of_files, task_of
    from fusetune.stages.fusion import fuse_stage
    from fusetune.store.experiment import Experiment

    seconds: dict[str, float] = {}
    members = [folder / name for name in COARSER]

    def read() -> Any:
        return read_pool(members, folder / "truth", Reading())

    before = peak_bytes()
    pool = timed(seconds, WHOLE[0], read)
    settings = fuse_settings(pool, task_of(pool), METHODS, "temperature", "none")
    with Experiment(out) as experiment:

        def judged() -> Any:
            judge = judge_of_files(pool, task_of(pool), None, None, 0)
            return fuse_stage(experiment, judge, settings, {})

        begun = time.process_time()
        fused = timed(seconds, WHOLE[1], judged)
        seconds[WHOLE[2]] = time.process_time() - begun
    peak = peak_bytes() - before
    entries = json.loads(fused.path("judged.json").read_text())
    shown = {one["name"]: one["scores"]["test"] for one in entries["fusions"]}
    return {"seconds": seconds | parts(read()), "peak": peak, "scores": shown}


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts(pool: Any) -> dict[str, float]:
    """Seconds of the parts of judging one image, each by itself, on fresh masks."""
    from fusetune.evaluate.compare import bootstrap_intervals
    from fusetune.fuse.method import FusionMethod
    from fusetune.metrics.boundary_f1 import BoundaryF1
    from fusetune.metrics.mean_iou import MeanIou
    from fusetune.plugins import find
    from fusetune.predictions.segmentation.tallies import class_tallies, decided_of

    found: dict[str, float] = {}
    row, truth = pool.stack.take(np.array([0])), pool.truth.targets.take(np.array([0]))
    labels, names = truth.maps[0].read(), truth.classes
    for part in row.parts:
        timed(found, PARTS[0], lambda part=part: [None for _ in part.masks[0].bands()])
    for method in METHODS:
        masks = find(FusionMethod, method)().fit(row, truth, MeanIou())(row)
        with keeping():
            one = masks.masks[0], masks.classes, names
            said = timed(found, PARTS[1], lambda one=one: decided_of(*one))
            timed(found, PARTS[2], lambda masks=masks: class_tallies(masks, truth))
            timed(found, PARTS[3], lambda masks=masks: BoundaryF1().statistics(masks, truth))
            timed(found, PARTS[4], lambda said=said: usual_boundary_f1(said, labels))
    tallies = np.random.default_rng(0).integers(1, 1000, (84, 3 * len(names))).astype(np.float64)
    scored = [(MeanIou(), tallies + number) for number in range(len(METHODS))]
    timed(found, PARTS[5], lambda: bootstrap_intervals(scored, seed=0))
    return found


def keeping() -> AbstractContextManager[None]:
    """In which decided classes are kept; trees before it kept them always."""
    try:
        from fusetune.predictions.segmentation.sharing import sharing
    except ModuleNotFoundError:
        return nullcontext()
    return sharing()


def usual_boundary_f1(said_HW: np.ndarray, truth_HW: np.ndarray) -> float:
    """Of one image, class by class, as in published code."""
    near, values = max(1.0, 0.0075 * float(np.hypot(*truth_HW.shape))), []
    judged_HW = truth_HW >= 0
    for label in np.union1d(said_HW[judged_HW], truth_HW[judged_HW]).tolist():
        said, true = (outline(one, label, judged_HW) for one in (said_HW, truth_HW))
        if said.any() and true.any():
            precision = (distance_transform_edt(~true)[said] <= near).mean()
            recall = (distance_transform_edt(~said)[true] <= near).mean()
            values.append(2 * precision * recall / max(precision + recall, 1e-12))
        else:
            values.append(float(said.any() == true.any()))
    return float(np.mean(values))


def outline(labels_HW: np.ndarray, label: int, judged_HW: np.ndarray) -> np.ndarray:
    """`(H, W)` booleans: pixels of the class beside judged ones of another."""
    own, other = (labels_HW == label) & judged_HW, (labels_HW != label) & judged_HW
    beside = np.zeros_like(own)
    beside[1:] |= other[:-1]
    beside[:-1] |= other[1:]
    beside[:, 1:] |= other[:, :-1]
    beside[:, :-1] |= other[:, 1:]
    return own & beside


def of_tree(source: Path, folder: Path) -> dict[str, Any]:
    """What `measured` finds in a process that imports fusetune from a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as out:
        code = [sys.executable, __file__, "--measure", str(folder), f"{out}/run"]
        done = subprocess.run(code, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def rounds(trees: dict[str, Path], case: str, number: int) -> Iterator[dict[str, Any]]:
    """Tree → what was measured, round by round, on the same files."""
    with tempfile.TemporaryDirectory() as name:
        write_pool(Path(name), case)
        for count in range(number):
            order = list(trees) if count % 2 else list(trees)[::-1]
            yield {tree: of_tree(trees[tree], Path(name)) for tree in order}


def table(found: list[dict[str, Any]]) -> list[str]:
    """Rows of seconds, before and after, with the ratio of each round's median."""
    lines = []
    for name in (*WHOLE, *PARTS):
        cells = {tree: [one[tree]["seconds"][name] for one in found] for tree in found[0]}
        now = statistics.median(cells["now"])
        before, ratio = "", ""
        if "before" in cells:
            ratios = [b / n for b, n in zip(cells["before"], cells["now"], strict=True)]
            before = f"{statistics.median(cells['before']):.3f}"
            ratio = f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})"
        lines.append(f"| {name} | {before} | {now:.3f} | {ratio} |")
    return lines


def largest_difference(found: list[dict[str, Any]]) -> float:
    """Between any score before and after."""
    pairs = [(one["before"]["scores"], one["now"]["scores"]) for one in found if "before" in one]
    return max(
        (
            abs(old[name][metric] - new[name][metric])
            for old, new in pairs
            for name in old
            for metric in old[name]
        ),
        default=0.0,
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--beside", type=Path, help="source tree to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    trees = {"now": Path(__file__).parents[1] / "src"}
    if args.beside:
        trees = {"before": args.beside, **trees}
    print("# Judging fused masks\n")
    print(
        f"{date.today()}, {len(os.sched_getaffinity(0))} CPU cores, shared ({platform.machine()}), numpy "
        f"{np.__version__}; `python benchmarks/mask_judging.py --rounds {args.rounds}`. Seconds, medians of "
        "the rounds; how many times faster, the median and the range of the rounds. Parts are of one "
        "image and six methods, on one core."
    )
    for case in args.cases:
        images, height, width, classes = CASES[case]
        found = list(rounds(trees, case, args.rounds))
        memory = {
            tree: statistics.median(one[tree]["peak"] for one in found) / 2**20 for tree in trees
        }
        mask = 4 * classes * height * width / 2**20
        print(f"\n## As {case}: {images} images of {height} × {width}, {classes} classes\n")
        print("| | before | now | times faster |\n| --- | ---: | ---: | --- |")
        print("\n".join(table(found)))
        peaks = ", ".join(f"{tree} {size:.0f} MB" for tree, size in memory.items())
        print(
            f"\nLargest difference of any score: {largest_difference(found):.1g}. Peak memory above what "
            f"the process had before it read: {peaks}; a mask is {mask:.0f} MB."
        )


if __name__ == "__main__":
    main()
