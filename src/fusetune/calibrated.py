# SPDX-License-Identifier: Apache-2.0
"""Members calibrated before they are fused, and the fusion calibrated after.

Shapes: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.fuse.forms import fit_weights
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metric import Metric
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["CalibratedFusion", "CalibratedMembers", "with_calibrated_members"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibratedFusion(Fusion[Any]):
    """Member calibrations → fusion → output calibration.

    Args:
        names: Members that are calibrated; others pass through.
        calibrations: One for each of them.
        fusion: Of the calibrated members.
        output: Calibrates what the fusion gives; None: nothing does.
    """

    names: tuple[str, ...] = ()
    calibrations: tuple[Calibration[Any], ...] = ()
    fusion: Fusion[Any]
    output: Calibration[Any] | None = None
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.fusion.members)
        assert len(self.names) == len(self.calibrations)

    def __call__(self, stack: Stack[Any]) -> Kind:
        """Calibrate, fuse, calibrate."""
        fused = self.before_output(stack)
        return fused if self.output is None else self.output(fused)

    def before_output(self, stack: Stack[Any]) -> Kind:
        """What the fusion gives before it is calibrated."""
        calibrations = dict(zip(self.names, self.calibrations, strict=True))
        return self.fusion(_replaced(stack.select(self.members), calibrations))

    def weights(self) -> dict[str, float] | None:
        """The fusion's."""
        return self.fusion.weights()


@dataclass(frozen=True, kw_only=True)
class CalibratedMembers(FusionMethod[Any]):
    """A fusion method on calibrated members: no row's target calibrates what weighs it.

    Calibrations are cross-fitted: each fold is calibrated by the rows of the others, the method is
    fitted on all folds so calibrated, and the calibrations that are kept are fitted on all rows.

    Args:
        method: The fusion method.
        calibrators: Pairs of a member and its calibrator; other members stay as they are.
        folds: Folds of the cross-fitting; 5 as in scikit-learn.
        seed: Deals the rows to the folds.
    """

    method: FusionMethod[Any]
    calibrators: tuple[tuple[str, Calibrator[Any]], ...]
    folds: int = 5
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values})

    @property
    def name(self) -> str:
        """The wrapped method's."""
        return self.method.name

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> CalibratedFusion:
        """Cross-fit the calibrations, fit the method on what they give."""
        weights_N = fit_weights(stack, targets, sample_weights_N)
        calibrators = {name: one for name, one in self.calibrators if name in stack.members}
        folds_N = stratified_folds(targets, max(1, min(self.folds, len(targets))), self.seed)
        parts, rows = [], []
        for fold in range(int(folds_N.max()) + 1):
            judge = np.flatnonzero(folds_N == fold)
            fit = np.flatnonzero(folds_N != fold)
            fit = fit if weights_N[fit].any() else judge  # one row has to serve both
            calibrations = _fitted(calibrators, stack.take(fit), targets.take(fit), weights_N[fit])
            parts.append(_replaced(stack.take(judge), calibrations))
            rows.append(judge)
        back = np.argsort(np.concatenate(rows))
        crossed = tuple(
            type(stack.parts[0]).concat([part.parts[m] for part in parts]).take(back)
            for m in range(len(stack.members))
        )
        calibrated = type(stack)(stack.members, crossed, stack.classes, stack.features)
        fusion = self.method.fit(calibrated, targets, metric, sample_weights_N=sample_weights_N)
        kept = _fitted(
            {name: one for name, one in calibrators.items() if name in fusion.members},
            stack,
            targets,
            weights_N,
        )
        return CalibratedFusion(names=tuple(kept), calibrations=tuple(kept.values()), fusion=fusion)


def with_calibrated_members(
    methods: Mapping[str, FusionMethod[Any]], calibrators: Mapping[str, Calibrator[Any]]
) -> dict[str, FusionMethod[Any]]:
    """The methods on calibrated members; those that read labels alone see them as they are.

    Args:
        methods: Name → method.
        calibrators: Member → calibrator; with none the methods are given back.
    """
    pairs = tuple(calibrators.items())
    return {
        name: method
        if method.reads_labels or not pairs
        else CalibratedMembers(method=method, calibrators=pairs)
        for name, method in methods.items()
    }


def _fitted(
    calibrators: Mapping[str, Calibrator[Any]],
    stack: Stack[Any],
    targets: AnyTargets,
    weights_N: Array,
) -> dict[str, Calibration[Any]]:
    return {
        name: calibrator.fit(stack[name], targets, sample_weights_N=weights_N)
        for name, calibrator in calibrators.items()
    }


def _replaced(stack: Stack[Any], calibrations: Mapping[str, Calibration[Any]]) -> Stack[Any]:
    parts = tuple(
        calibrations[name](part) if name in calibrations else part
        for name, part in zip(stack.members, stack.parts, strict=True)
    )
    return type(stack)(stack.members, parts, stack.classes, stack.features)
