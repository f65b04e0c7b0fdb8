# SPDX-License-Identifier: Apache-2.0
"""What a cluster of boxes shows: features for its score, differences for its place.

Shapes: M members, C classes, K boxes, L clusters, F features.
"""

import numpy as np

from fusetune.fuse.detection.fusion import Clusters, confidences
from fusetune.fuse.detection.pool import Pooled
from fusetune.fuse.detection.scores import logits_of
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Floats

__all__ = ["cluster_features", "moved", "place_coefficients", "prediction_of"]

SIDES = 4


def prediction_of(pool: Pooled, boxes_L4: Floats, scores_L: Floats, groups_L: Array) -> Boxes:
    """Clusters as a prediction, in their own order, which is that of the rows."""
    found = (boxes_L4, np.clip(scores_L, 0, 1), pool.labels_G[groups_L])
    stack = pool.stack
    return Boxes.from_entries(stack.ids, stack.classes, pool.rows_G[groups_L], found)


def cluster_features(pool: Pooled, found: Clusters, weights_MC: Floats) -> Floats:
    """`(L, 2 M + 5)` numbers by which a cluster's score is learned.

    For each member the logit of its best score, 0 where it has no box there, and whether it has one;
    for a member that does not know the class, the mean of those that do. Then the logit of the mean
    score that counts absent members, the share of members, boxes per member, the mean overlap with
    the mean box, and the logarithm of its size.
    """
    num_members, num_clusters = len(pool.stack.members), len(found.groups_L)
    best_LM = np.full((num_clusters, num_members), -np.inf)
    np.maximum.at(best_LM, (found.cluster_K, pool.members_K), logits_of(pool.scores_K))
    there_LM = np.isfinite(best_LM)
    know_LM = (weights_MC > 0).T[pool.labels_G[found.groups_L]]
    mean_L = np.where(there_LM, best_LM, 0).sum(axis=1) / there_LM.sum(axis=1)
    share_L = there_LM.sum(axis=1) / know_LM.sum(axis=1)
    best_LM = np.where(there_LM, best_LM, np.where(know_LM, 0, mean_L[:, None]))
    seen_LM = np.where(know_LM, there_LM, share_L[:, None])
    counts_L = found.sums_L6[:, 2]
    overlap_K = _overlaps(pool.boxes_K4, found.boxes_L4[found.cluster_K])
    overlap_L = np.bincount(found.cluster_K, overlap_K, num_clusters) / counts_L
    scores_L = confidences("box_and_model_avg", found, pool, weights_MC)
    area_L = np.maximum(_areas(found.boxes_L4), 1e-12)
    own = (
        logits_of(scores_L),
        share_L,
        counts_L / there_LM.sum(axis=1),
        overlap_L,
        np.log(area_L) / 2,
    )
    return np.concatenate([best_LM, seen_LM, np.stack(own, axis=1)], axis=1)


def place_coefficients(
    pool: Pooled, found: Clusters, targets: Objects, weights_L: Floats, penalty: float
) -> Floats:
    """`(M,)` by how much of its difference from the mean each member's box moves the cluster's.

    Least squares over the clusters that overlap an object of their class by half at least, in
    shares of the box's sides, with a ridge penalty that draws to no move.
    """
    from fusetune.predictions.detection.numba_matches import nearest

    keys_L = (pool.rows_G * len(targets.classes) + _labels_G(pool, targets))[found.groups_L]
    keys_G = targets.rows_K * len(targets.classes) + targets.labels_K
    order_G = np.argsort(keys_G, kind="stable")
    begin_L = np.searchsorted(keys_G[order_G], keys_L)
    end_L = np.searchsorted(keys_G[order_G], keys_L, side="right")
    at_L, overlap_L = nearest(found.boxes_L4, begin_L, end_L, targets.boxes_K4[order_G])
    near = (overlap_L >= 0.5) & (weights_L > 0)
    num_members = len(pool.stack.members)
    if not near.any():
        return np.zeros(num_members)
    sides_L4 = _sides(found.boxes_L4[near])
    aims_L4 = (targets.boxes_K4[order_G][at_L[near]] - found.boxes_L4[near]) / sides_L4
    differences = _differences(pool, found)[near] / sides_L4[:, None, :]
    root_L = np.sqrt(weights_L[near])
    design = (differences * root_L[:, None, None]).transpose(0, 2, 1).reshape(-1, num_members)
    aims = (aims_L4 * root_L[:, None]).ravel()
    gram_MM = design.T @ design
    held_M = np.full(num_members, penalty * np.trace(gram_MM) / num_members + 1e-12)
    coefficients_M: Floats = np.linalg.solve(gram_MM + np.diag(held_M), design.T @ aims)
    return coefficients_M


def moved(pool: Pooled, found: Clusters, coefficients_M: Floats) -> Floats:
    """`(L, 4)` the clusters' boxes after the members' pulls; sides stay positive."""
    boxes_L4 = found.boxes_L4 + np.einsum("lms,m->ls", _differences(pool, found), coefficients_M)
    upright = (boxes_L4[:, 2:] > boxes_L4[:, :2]).all(axis=1)
    return np.where(upright[:, None], boxes_L4, found.boxes_L4)


def _labels_G(pool: Pooled, targets: Objects) -> Array:
    """`(G,)` the groups' classes among the targets', one that is not there if they have no such."""
    place = {name: index for index, name in enumerate(targets.classes)}
    absent = len(targets.classes) * (1 + len(targets))
    classes_C = np.array([place.get(name, absent) for name in pool.stack.classes] or [absent])
    return classes_C[pool.labels_G]


def _differences(pool: Pooled, found: Clusters) -> Floats:
    """`(L, M, 4)` each member's mean box in a cluster less the cluster's; 0 where it has none."""
    shape = (len(found.groups_L), len(pool.stack.members))
    flat_K = found.cluster_K * shape[1] + pool.members_K
    counts = np.bincount(flat_K, minlength=shape[0] * shape[1])
    sums = [np.bincount(flat_K, side_K, len(counts)) for side_K in pool.boxes_K4.T]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    means = means.reshape(*shape, SIDES)
    there = (counts > 0).reshape(*shape, 1)
    return np.where(there, means - found.boxes_L4[:, None, :], 0.0)


def _sides(boxes_L4: Floats) -> Floats:
    """`(L, 4)` widths and heights, in the places of left, top, right and bottom."""
    return np.tile(boxes_L4[:, 2:] - boxes_L4[:, :2], 2)


def _areas(boxes_L4: Floats) -> Floats:
    areas_L: Floats = (boxes_L4[:, 2:] - boxes_L4[:, :2]).prod(axis=1)
    return areas_L


def _overlaps(one_K4: Floats, other_K4: Floats) -> Floats:
    """`(K,)` intersections over unions, pair by pair."""
    low = np.maximum(one_K4[:, :2], other_K4[:, :2])
    both_K = np.maximum(np.minimum(one_K4[:, 2:], other_K4[:, 2:]) - low, 0).prod(axis=1)
    whole_K = _areas(one_K4) + _areas(other_K4) - both_K
    return np.divide(both_K, whole_K, out=np.zeros_like(both_K), where=whole_K > 0)
