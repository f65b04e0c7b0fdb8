# SPDX-License-Identifier: Apache-2.0
"""Stacking of boxes: clusters are scored and placed by what the members make of them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.detection.fusion import checked_share, clusters_of, confidences
from fusetune.fuse.detection.pool import by_blocks, knows_MC, made_of, pooled
from fusetune.fuse.detection.scores import (
    calibrated_stack,
    class_curves,
    curved,
    fit_logistic,
    member_curves,
    ordered,
    quality_of,
    squashed,
)
from fusetune.fuse.detection.stacking import (
    cluster_features,
    moved,
    place_coefficients,
    prediction_of,
)
from fusetune.fuse.forms import fit_weights
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.stack import Stack

__all__ = ["StackedBoxes", "StackedBoxesFusion"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StackedBoxesFusion(Fusion[Boxes]):
    """Fitted stacking of boxes; see `StackedBoxes`.

    Args:
        members: Names of the members.
        classes: C classes that were fitted; others are scored by the last of each curve.
        curves: `(M, C + 1, 2)` slopes and offsets of the members' scores' logits.
        iou_threshold: What the overlap must exceed.
        coefficients_F: `(F,)` of the standardized features, and a constant.
        spread_2F: `(2, F - 1)` means and spreads of the features.
        output: `(C + 1, 2)` slopes and offsets of the clusters' logits.
        pulls_M: `(M,)` by how much of its difference each member moves a box.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    curves: Floats
    iou_threshold: float
    coefficients_F: Floats
    spread_2F: Floats
    output: Floats
    pulls_M: Floats

    def __call__(self, stack: Stack[Boxes]) -> Boxes:
        """The fused boxes of every row, by falling score."""
        calibrated = calibrated_stack(stack.select(self.members), self.classes, self.curves)
        return by_blocks(calibrated, self._fuse)

    def _fuse(self, stack: Stack[Boxes]) -> Boxes:
        weights_MC = _equal_weights(stack)
        pool = pooled(stack, weights_MC)
        found = clusters_of(pool, self.iou_threshold)
        features_LF = cluster_features(pool, found, weights_MC)
        scores_L = _scored(features_LF, self.coefficients_F, self.spread_2F)
        place = {name: index for index, name in enumerate(self.classes)}
        classes_C = np.array([place.get(name, len(place)) for name in stack.classes] or [0])
        scores_L = curved(scores_L, classes_C[pool.labels_G[found.groups_L]], self.output)
        return made_of(pool, found.groups_L, moved(pool, found, self.pulls_M), scores_L)


@dataclass(frozen=True, kw_only=True)
class StackedBoxes(FusionMethod[Boxes]):
    """A logistic regression scores each cluster of boxes, a linear one places it.

    Members' scores are calibrated and boxes clustered as by `weighted_boxes`. The share of COCO's
    ten overlaps at which a cluster's box finds an object is learned from the logit of each member's
    best score and whether it found anything, the mean score, the share of members, boxes per member,
    their overlap with the mean box and its size; then scaled for each class. The box is moved by a
    share of each member's difference from the mean, by least squares on the true boxes: a member that
    places boxes well pulls. Uses everything that members tell; do not use it with fewer than some
    hundred objects, where `weighted_boxes` has nothing to learn wrong.

    Args:
        iou_threshold: The overlap that a box must exceed to join a cluster; 0.55 as in
            `weighted_boxes`.
        penalty: Of the standardized features' coefficients, per unit of weight of the clusters, and
            of the pulls, as a share of their spread; 1e-3: enough where features are alike.
        prior_boxes: How many boxes of a class its scales are held back by; 20: our choice.

    Cost:
        Two fusions, and Newton steps over (clusters, 2 M + 6) numbers.

    Reference:
        Wolpert. "Stacked generalization". Neural Networks, 1992; for clusters of boxes it is ours.
    """

    iou_threshold: float = 0.55
    penalty: float = 1e-3
    prior_boxes: float = 20.0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})

    def __post_init__(self) -> None:
        checked_share("iou_threshold", self.iou_threshold)
        if not 0 < self.penalty < np.inf or self.prior_boxes < 0:
            raise InvalidValue(
                f"penalty is {self.penalty} and prior_boxes {self.prior_boxes}",
                "a penalty above 0, and a number of boxes",
                "Correct it, or leave it out.",
            )

    def fit(
        self,
        stack: Stack[Boxes],
        targets: Objects,
        metric: Metric[Boxes],
        *,
        sample_weights_N: Array | None = None,
    ) -> StackedBoxesFusion:
        """Calibrations, then the two regressions; the metric is not read."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        stack, targets, order = ordered(stack, targets)
        curves = member_curves(stack, targets, weights_N[order], self.prior_boxes)
        stack = calibrated_stack(stack, stack.classes, curves)
        weights_MC = _equal_weights(stack)
        pool = pooled(stack, weights_MC)
        found = clusters_of(pool, self.iou_threshold)
        weights_L = weights_N[order][pool.rows_G[found.groups_L]]
        pulls_M = place_coefficients(pool, found, targets, weights_L, self.penalty)
        features_LF = cluster_features(pool, found, weights_MC)
        scores_L = confidences("box_and_model_avg", found, pool, weights_MC)
        boxes_L4 = moved(pool, found, pulls_M)
        fused = prediction_of(pool, boxes_L4, scores_L, found.groups_L)
        right_L, known_L = quality_of(fused, targets)
        features_LF, right_L, weights_L = (
            column[known_L] for column in (features_LF, right_L, weights_L)
        )
        coefficients_F, spread_2F = self._regression(features_LF, right_L, weights_L)
        scores_L = _scored(features_LF, coefficients_F, spread_2F)
        labels_L = pool.labels_G[found.groups_L][known_L]
        prior = (len(stack.classes), self.prior_boxes)
        return StackedBoxesFusion(
            members=stack.members,
            classes=stack.classes,
            curves=curves,
            iou_threshold=self.iou_threshold,
            coefficients_F=coefficients_F,
            spread_2F=spread_2F,
            output=class_curves(scores_L, right_L, weights_L, labels_L, prior),
            pulls_M=pulls_M,
        )

    def _regression(
        self, features_LF: Floats, right_L: Floats, weights_L: Floats
    ) -> tuple[Floats, Floats]:
        total = max(1e-9, float(weights_L.sum()))
        mean_F = weights_L @ features_LF / total
        spread_F = np.sqrt(weights_L @ (features_LF - mean_F) ** 2 / total)
        spread_2F = np.stack([mean_F, np.where(spread_F > 1e-9, spread_F, 1.0)])
        penalty_F = np.full(len(mean_F) + 1, self.penalty * total + 1e-9)
        design_LF = _standardized(features_LF, spread_2F)
        zeros_F = np.zeros(len(penalty_F))
        return fit_logistic(design_LF, right_L, weights_L, penalty_F, zeros_F), spread_2F


def _equal_weights(stack: Stack[Boxes]) -> Floats:
    knows: Floats = knows_MC(stack).reshape(len(stack.members), -1) / len(stack.members)
    return knows


def _standardized(features_LF: Floats, spread_2F: Floats) -> Floats:
    design_LF = (features_LF - spread_2F[0]) / spread_2F[1]
    return np.concatenate([design_LF, np.ones((len(design_LF), 1))], axis=1)


def _scored(features_LF: Floats, coefficients_F: Floats, spread_2F: Floats) -> Floats:
    design_LF = _standardized(features_LF, spread_2F)
    return squashed(np.einsum("lf,f->l", design_LF, coefficients_F))  # each row alike, however many
