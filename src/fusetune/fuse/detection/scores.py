# SPDX-License-Identifier: Apache-2.0
"""How likely a detection is right: learned from its score, for each member and class.

Shapes: M members, C classes, K boxes, F features.
"""

from collections.abc import Sequence

import numpy as np

from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import matched_bits
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.ragged import Offsets
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import replaced

__all__ = [
    "calibrated_stack",
    "class_curves",
    "curved",
    "fit_logistic",
    "logits_of",
    "member_curves",
    "ordered",
    "quality_of",
    "squashed",
]

OVERLAPS = 10  # bits of one range of areas
MOST_STEPS = 30  # of Newton's method: a dozen suffice
LEAST_SLOPE = 0.05  # a member's own order of its boxes is kept
FARTHEST = 12.0  # logits: scores of 1 and 0 are within 1e-5 of what they say


def quality_of(prediction: Boxes, targets: Objects) -> tuple[Floats, Array]:
    """How good each detection is: the share of COCO's ten overlaps at which it finds an object.

    Returns:
        `(K,)` shares, and `(K,)` whether it can be judged: not so what matches an ignored object,
        is of another class, or comes after the hundred best of its row and class.
    """
    order, bits_K2, _ = matched_bits(prediction, targets)
    right_K, known_K = np.zeros(len(prediction.scores_K)), np.zeros(len(prediction.scores_K), bool)
    counted = bits_K2[:, 0] & ~bits_K2[:, 1]
    matched = [counted >> bit & 1 for bit in range(OVERLAPS)]
    right_K[order] = np.mean(matched, axis=0)
    known_K[order] = bits_K2[:, 1] & 1 == 0
    return right_K, known_K


def class_curves(
    scores_K: Floats,
    right_K: Floats,
    weights_K: Floats,
    labels_K: Offsets,
    prior: tuple[int, float],
) -> Floats:
    """`(C + 1, 2)` slope and offset of each class's logit; the last of all classes together.

    P(right) = sigmoid(slope logit(score) + offset): Platt's scaling, where a class's two numbers
    are drawn to those of all classes as if so many of its boxes had said these.

    Args:
        scores_K: `(K,)` scores.
        right_K: `(K,)` targets from 0 to 1.
        weights_K: `(K,)` weights.
        labels_K: `(K,)` classes.
        prior: Number of classes C, and how many boxes the prior counts.

    Reference: Platt, Probabilistic outputs for support vector machines, 1999.
    """
    num_classes, boxes = prior
    logits_K = logits_of(scores_K)
    design_K2 = np.stack([logits_K, np.ones_like(logits_K)], axis=1)
    little_2 = np.full(2, 1e-3 * weights_K.sum() + 1e-9)
    whole_2 = fit_logistic(design_K2, right_K, weights_K, little_2, np.array([1.0, 0]))
    curves = np.tile(whole_2, (num_classes + 1, 1))
    for label in np.unique(labels_K):
        own = labels_K == label
        mean_2 = weights_K[own] @ design_K2[own] ** 2 / max(1e-9, weights_K[own].sum())
        spread_2 = np.maximum(mean_2, 1e-3)
        penalty_2 = boxes / 4 * spread_2  # a box says at most a quarter of its squared inputs
        curves[label] = fit_logistic(
            design_K2[own], right_K[own], weights_K[own], penalty_2, whole_2
        )
    curves[:, 0] = np.maximum(curves[:, 0], LEAST_SLOPE)
    return curves


def member_curves(
    stack: Stack[Boxes], targets: Objects, weights_N: Floats, prior_boxes: float
) -> Floats:
    """`(M, C + 1, 2)` each member's `class_curves`, of the share of overlaps at which a box is right."""
    place = {name: index for index, name in enumerate(stack.classes)}
    curves = np.empty((len(stack.members), len(place) + 1, 2))
    for index, part in enumerate(stack.parts):
        right_K, known_K = quality_of(part, targets)
        labels_K = np.array([place[name] for name in part.classes] or [0])[part.labels_K]
        curves[index] = class_curves(
            part.scores_K[known_K],
            right_K[known_K],
            weights_N[part.rows_K][known_K],
            labels_K[known_K],
            (len(place), prior_boxes),
        )
    return curves


def ordered(stack: Stack[Boxes], targets: Objects) -> tuple[Stack[Boxes], Objects, Offsets]:
    """Members by name and rows by id, so that what is fitted depends on neither order; the rows."""
    order = np.argsort(stack.ids)
    return stack.select(sorted(stack.members)).take(order), targets.take(order), order


def fit_logistic(
    design_KF: Floats, right_K: Floats, weights_K: Floats, penalty_F: Floats, center_F: Floats
) -> Floats:
    """`(F,)` coefficients: weighted cross-entropy plus penalty (coefficient - center)² / 2, least.

    Newton's method, with steps halved until the loss falls: targets may be any share.
    """
    coefficients_F = center_F.astype(np.float64).copy()

    def loss(at_F: Floats) -> float:
        z_K = design_KF @ at_F
        cross = np.logaddexp(0, z_K) - right_K * z_K
        return float(weights_K @ cross + penalty_F @ (at_F - center_F) ** 2 / 2)

    current = loss(coefficients_F)
    for _ in range(MOST_STEPS):
        probs_K = squashed(design_KF @ coefficients_F)
        slope_F = design_KF.T @ (weights_K * (probs_K - right_K))
        slope_F += penalty_F * (coefficients_F - center_F)
        curve_K = weights_K * probs_K * (1 - probs_K)
        curve_FF = (design_KF * curve_K[:, None]).T @ design_KF + np.diag(penalty_F)
        step_F = np.linalg.solve(curve_FF, slope_F)
        scale = 1.0
        while (tried := loss(coefficients_F - scale * step_F)) > current and scale > 1e-6:
            scale /= 2
        if not tried < current:
            break
        coefficients_F = coefficients_F - scale * step_F
        done, current = current - tried <= 1e-12 * max(1.0, abs(tried)), tried
        if done:
            break
    return coefficients_F


def calibrated_stack(stack: Stack[Boxes], classes: Sequence[str], curves: Floats) -> Stack[Boxes]:
    """The same boxes with scores that say how likely they are right, in double precision.

    Args:
        stack: M members' boxes.
        classes: C classes that the curves are of; others have the curve of all.
        curves: `(M, C + 1, 2)`; see `class_curves`.
    """
    place = {name: index for index, name in enumerate(classes)}
    parts = []
    for part, own in zip(stack.parts, curves, strict=True):
        classes_C = np.array([place.get(name, len(place)) for name in part.classes] or [0])
        scores_K = curved(part.scores_K, classes_C[part.labels_K], own)
        parts.append(replaced(part, scores_K=scores_K))
    return replaced(stack, parts=tuple(parts))


def curved(scores_K: Floats, labels_K: Offsets, curves: Floats) -> Floats:
    """`(K,)` calibrated scores."""
    slopes_K, offsets_K = curves[labels_K].T
    return squashed(slopes_K * logits_of(scores_K) + offsets_K)


def logits_of(scores_K: Floats) -> Floats:
    """`(K,)` logits in double precision; those of 0 and 1 are finite."""
    scores_K = scores_K.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(scores_K) - np.log1p(-scores_K), -FARTHEST, FARTHEST)


def squashed(logits_K: Floats) -> Floats:
    """`(K,)` sigmoids."""
    small_K = np.exp(-np.abs(logits_K))
    return np.where(logits_K >= 0, 1, small_K) / (1 + small_K)
