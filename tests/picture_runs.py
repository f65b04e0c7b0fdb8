# SPDX-License-Identifier: Apache-2.0
"""Run folders of detection and segmentation with pictures, for tests of the report."""

import json

import numpy as np

from box_pools import SIDE, box_pool
from fusetune.evaluate.per_class import class_results
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.segmentation.writing import write_masks
from fusetune.stages.box_pictures import save_box_pictures
from fusetune.stages.mask_pictures import save_mask_pictures
from mask_pools import mask_pool


def fused_by(method, stack, truth, metric):
    return method.fit(stack, truth, find(Metric, metric)())(stack)


def write_results(folder, task, metric, parts, truth, *, judged="test"):
    """results.json of members and, last of the parts, the chosen fusion; the best member is the first."""
    judge = find(Metric, metric)()
    scored = {
        name: {"name": name, "scores": {"test": {metric: judge.value(judge.statistics(p, truth))}}}
        for name, p in parts.items()
    }
    *members, chosen = parts
    found = {
        "task": task,
        "metric": metric,
        "judged": judged,
        "rows": {"test": len(truth)},
        "members": [scored[name] for name in members],
        "fusions": [scored[chosen]],
        "chosen": chosen,
        "best_member": members[0],
        **class_results(parts, truth, members[0], chosen, seed=0),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def boxes_run(folder, *, images=True, members=3, rows=20, **looks):
    """A detection run; without images as after fusing files."""
    stack, truth = box_pool(members, rows, **looks)
    fused = fused_by(WeightedBoxes(), stack, truth, "coco_map")
    parts = {**dict(zip(stack.members, stack.parts, strict=True)), "weighted_boxes": fused}
    write_results(folder, "object_detection", "coco_map", parts, truth)
    if images:
        chosen = ("weighted_boxes", fused)
        save_box_pictures(folder, stack, truth, chosen, stack.members[0], picture)
    return folder


def masks_run(folder, *, images=True, rows=8, **looks):
    """A segmentation run; without images as after fusing folders."""
    stack, truth = mask_pool(rows=rows, **looks)
    fused = fused_by(Mean(), stack, truth, "mean_iou")
    parts = {**dict(zip(stack.members, stack.parts, strict=True)), "mean": fused}
    write_results(folder, "semantic_segmentation", "mean_iou", parts, truth)
    write_masks(folder / "predictions" / "ensemble" / "test", fused)
    written = folder / "predictions" / "ensemble" / "test"
    save_mask_pictures(folder, stack, truth, written, picture if images else None)
    return folder


def picture(name):
    """A ramp of colors, of a side that makes JPEG of it."""
    side = int(SIDE)
    ramp = np.linspace(0, 255, side)
    layers = np.broadcast_arrays(ramp[:, None], ramp[None], float(len(name)))
    return np.stack(layers, axis=-1).astype(np.uint8)
