# SPDX-License-Identifier: Apache-2.0
"""Weighted boxes fusion beside ensemble-boxes: the same boxes, and how much faster.

    python benchmarks/box_fusing.py > docs/results/box_fusing.md

Needs `pip install ensemble-boxes==1.0.9`, which the project itself does not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np

from fusetune import fuse_files
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.metric import Metric
from fusetune.metrics.coco_map import CocoMap
from fusetune.plugins import discover
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.detections import write_boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.stack import Stack

METHOD = WeightedBoxes(iou_threshold=0.55, confidence="avg")
SIDE = 1000
ONCE = """
import time; begun = time.perf_counter(), time.process_time()
import numpy as np
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.stack import Stack
one = Boxes(["a"], ("x",), [0, 1], np.array([[0.0, 0.0, 1.0, 1.0]]), [0.5], [0])
stack = Stack.align({"one": one, "two": one})
WeightedBoxes().fit(stack, None, None)(stack)
print(time.perf_counter() - begun[0], time.process_time() - begun[1])
"""


def detectors(random, images, members, boxes, classes):
    """Members that see the same objects, each a little differently; relative boxes of double precision."""
    ids = np.array([f"{n:06}" for n in range(images)])
    names = tuple(map(str, range(classes)))
    objects = max(1, boxes * 2 // 3)
    sides = random.uniform(0.05, 0.4, size=(images, objects, 2))
    low = random.uniform(0, 1, size=sides.shape) * (1 - sides)
    truth = np.concatenate([low, low + sides], axis=2)
    labels = random.integers(classes, size=(images, objects))
    parts = {}
    for m in range(members):
        which = random.integers(objects, size=(images, boxes))
        seen = np.take_along_axis(truth, which[:, :, None], axis=1)
        seen = np.clip(seen + random.normal(size=seen.shape) * 0.01, 0, 1)
        low, high = (
            np.minimum(seen[..., :2], seen[..., 2:]),
            np.maximum(seen[..., :2], seen[..., 2:]),
        )
        corners = np.concatenate([low, np.maximum(high, low + 1e-3)], axis=2).reshape(-1, 4)
        scores = random.uniform(0.01, 1, size=images * boxes)
        own = np.take_along_axis(labels, which, axis=1).ravel()
        offsets = offsets_of(np.full(images, boxes))
        parts[f"m{m}"] = Boxes(
            ids, names, offsets, np.minimum(corners, 1), scores, own, relative=True
        )
    flat = truth.reshape(-1, 4)
    areas = np.full(len(flat), 50.0**2)
    told = Objects(
        ids,
        names,
        offsets_of(np.full(images, objects)),
        flat,
        labels.ravel(),
        areas_K=areas,
        relative=True,
    )
    return Stack.align(parts, classes=names), told


def lists_of(stack, row):
    """What ensemble-boxes takes."""
    parts = [part.take(np.array([row])) for part in stack.parts]
    return (
        [part.boxes_K4.tolist() for part in parts],
        [part.scores_K.tolist() for part in parts],
        [part.labels_K.tolist() for part in parts],
    )


def same(fused, row, peer):
    """Largest difference of boxes and scores, matched by class and score; inf if they differ in number."""
    one = fused.take(np.array([row]))
    boxes, scores, labels = peer
    if len(scores) != len(one.scores_K):
        return np.inf
    mine = np.lexsort((one.boxes_K4[:, 0].round(5), one.scores_K.round(5), one.labels_K))
    theirs = np.lexsort((boxes[:, 0].round(5), np.minimum(scores, 1).round(5), labels))
    return max(
        float(np.abs(one.boxes_K4[mine] - boxes[theirs]).max(initial=0)),
        float(np.abs(one.scores_K[mine] - np.minimum(scores, 1)[theirs]).max(initial=0)),
        float((one.labels_K[mine] != labels[theirs]).any()),
    )


def against_peer(classes, images=40):
    """Milliseconds per image of either, interleaved, and the largest difference."""
    from ensemble_boxes import weighted_boxes_fusion

    stack, _ = detectors(np.random.default_rng(classes), images, 3, 300, classes)
    fusion = METHOD.fit(stack, None, CocoMap())
    fusion(stack)
    lists = [lists_of(stack, row) for row in range(images)]
    single = [stack.take(np.array([row])) for row in range(images)]
    ours, alone, theirs, differ = [], [], [], 0.0
    for row in range(images):
        begun = time.perf_counter()
        fused = fusion(stack)
        ours.append((time.perf_counter() - begun) / images)
        begun = time.perf_counter()
        fusion(single[row])
        alone.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        peer = weighted_boxes_fusion(*lists[row], iou_thr=0.55)
        theirs.append(time.perf_counter() - begun)
        differ = max(differ, same(fused, row, peer))
    return *(1000 * statistics.median(times) for times in (ours, alone, theirs)), differ


def growth():
    """Milliseconds of one image whose boxes are all of one class, by their number."""
    found = []
    for boxes in (250, 500, 1000, 2000, 4000):
        stack, _ = detectors(np.random.default_rng(0), 1, 1, boxes, 1)
        fusion = METHOD.fit(stack, None, CocoMap())
        times = []
        for _ in range(15):
            begun = time.perf_counter()
            fusion(stack)
            times.append(time.perf_counter() - begun)
        found.append((boxes, 1000 * min(times)))  # what others do on the machine only adds
    return found


def evaluation(images, members):
    """Seconds of fusing and of COCO's twelve statistics, of so many images."""
    stack, truth = detectors(np.random.default_rng(1), images, members, 100, 80)
    begun = time.perf_counter()
    fused = METHOD.fit(stack, None, CocoMap())(stack)
    fusing = time.perf_counter() - begun
    metrics = [one() for one in discover(Metric).values() if Boxes in one.accepts]
    begun = time.perf_counter()
    for metric in metrics:
        metric.value(metric.statistics(fused, truth))
    return fusing, time.perf_counter() - begun, len(metrics)


def whole(images, members):
    """Seconds of `fuse_files` on so many images: all methods fitted on a fifth, the others judged."""
    stack, truth = detectors(np.random.default_rng(2), images, members, 30, 80)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{member}.parquet" for member in stack.members]
        for file, part in zip(files, stack.parts, strict=True):
            write_boxes(file, part)
        corners = truth.boxes_K4 * SIDE
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        owners = zip(truth.rows_K, truth.labels_K, boxes, strict=True)
        content = {
            "images": [{"id": one, "width": SIDE, "height": SIDE} for one in truth.ids.tolist()],
            "categories": [{"id": c, "name": name} for c, name in enumerate(truth.classes)],
            "annotations": [
                {"id": n, "image_id": str(truth.ids[row]), "category_id": int(label), "bbox": box}
                for n, (row, label, box) in enumerate(owners)
            ],
        }
        (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        begun = time.perf_counter(), time.process_time()
        fuse_files(files, folder / "annotations.json", out=folder / "run", holdout=0.2)
        return time.perf_counter() - begun[0], time.process_time() - begun[1]


def cold(kept):
    """Seconds from a process's first import to its first fused image: by the clock, and of a core."""
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ) if kept else {**os.environ, "NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-c", ONCE]
            run = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            )
        found.append(tuple(map(float, run.stdout.split())))
    return min(found)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--members", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print("# Fusing boxes\n")
    print(f"`python benchmarks/box_fusing.py`, {date.today()}, {os.cpu_count()} CPU cores, shared;")
    print("ensemble-boxes 1.0.9 in the same process, its calls between ours; medians.\n")
    print("## Weighted boxes fusion, 3 members of 300 boxes per image\n")
    print(
        "| classes | ours, of 40 images (ms/image) | ours, one at a time (ms) | ensemble-boxes (ms) "
        "| times faster, of 40 | one at a time | largest difference |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for classes in (80, 20, 5):
        ours, alone, theirs, differ = against_peer(classes)
        print(
            f"| {classes} | {ours:.2f} | {alone:.2f} | {theirs:.1f} | {theirs / ours:.0f} "
            f"| {theirs / alone:.0f} | {differ:.0e} |"
        )
    print("\n## How cost grows within one class\n\n| boxes | ms | times that of half as many |")
    print("| --- | --- | --- |")
    before = None
    for boxes, taken in growth():
        print(f"| {boxes:,} | {taken:.2f} | {'' if before is None else f'{taken / before:.1f}'} |")
        before = taken
    print("\n## A process's first fused image\n\nFrom the first import, the best of three:\n")
    print("| compiled code | by the clock (s) | of a core (s) |\n| --- | --- | --- |")
    for kept, words in ((True, "kept from an earlier process"), (False, "made anew")):
        clock, core = cold(kept)
        print(f"| {words} | {clock:.1f} | {core:.1f} |")
    print()
    fusing, judging, number = evaluation(given.images, given.members)
    print(
        f"## {given.images:,} images of {given.members} members with 100 boxes each, 80 classes\n"
    )
    print(
        f"Fusing {fusing:.1f} s, COCO's {number} statistics of the fused boxes {judging:.1f} s.\n"
    )
    clock, core = whole(given.images, given.members)
    print(
        "`fusetune fuse` with 30 boxes per image and member: all methods fitted on a fifth of the"
    )
    print("images, the others judged with intervals of every member and fusion, and the report:")
    print(f"{clock / 60:.1f} minutes by the clock, {core / 60:.1f} of a core.")


if __name__ == "__main__":
    main()
