# SPDX-License-Identifier: Apache-2.0
"""From settings as users write them to the plug-ins they name.

Shapes: N rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from fusetune.calibrate.calibrator import Calibrator
from fusetune.calibrate.calibrators.temperature import Temperature
from fusetune.calibrated import with_calibrated_members
from fusetune.choose import AUTO, BEST, BEST_MEMBER, BestMember, Choice, choose
from fusetune.errors import InvalidValue
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.stack import Stack, rows_of
from fusetune.predictions.targets import GroundTruth
from fusetune.sklearn.problems import Problem

__all__ = ["Judged", "Wishes", "fit_fusion", "metric_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Wishes:
    """How to fuse, in the user's words; see `FusionClassifier`."""

    method: Any
    methods: Any
    calibrator: Any
    random_state: Any

    def candidates(self, problem: Problem) -> tuple[str, dict[str, FusionMethod[Any]]]:
        """What `choose` is told to choose, and among which methods."""
        seed = _seed(self.random_state)
        listed = _named(problem.task.methods if self.methods is None else self.methods, seed)
        if self._chooses():
            return self.method, listed
        if isinstance(self.method, str) and self.method == BEST_MEMBER:
            return BEST_MEMBER, {}
        if isinstance(self.method, str) and self.method in listed:
            return self.method, {self.method: listed[self.method]}
        made = _made(self.method, seed)
        return made.name, {made.name: made}

    def _chooses(self) -> bool:
        return isinstance(self.method, str) and self.method in (AUTO, BEST)

    def output_calibrator(self, problem: Problem) -> Calibrator[Any] | None:
        """What calibrates the fusion.

        Raises:
            InvalidValue: It does not calibrate such predictions.
        """
        if isinstance(self.calibrator, str) and self.calibrator == AUTO:
            default = Temperature()
            usable = self._chooses() and problem.task.kind in default.accepts
            return default if usable else None
        if self.calibrator is None:
            return None
        made = find(Calibrator, self.calibrator)() if _is_name(self.calibrator) else self.calibrator
        if not isinstance(made, Calibrator) or problem.task.kind not in made.accepts:
            raise InvalidValue(
                f"the calibrator is {self.calibrator!r}",
                f"the name of one that calibrates {problem.task.kind.__name__}",
                "Write calibrator=None, or choose another.",
            )
        return made


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Rows that trained no member, and by what predictions of them are judged.

    Args:
        stack: The members' predictions.
        truth: The targets, in the same order.
        metric: What decides.
        weights_N: `(N,)` numbers above 0; None: all 1.
    """

    stack: Stack[Any]
    truth: GroundTruth
    metric: Metric[Any]
    weights_N: Floats | None

    def score(self, prediction: Kind) -> float:
        """The metric of a prediction of these rows, in any order."""
        prediction = prediction.take(rows_of(prediction.ids, self.truth.ids))
        return self.metric.value(self.metric.statistics(prediction, self.truth), self.weights_N)


def metric_of(metric: Any, problem: Problem) -> Metric[Any]:  # noqa: ANN401
    """The metric that is named or given; the task's own for None.

    Raises:
        InvalidValue: It judges other predictions.
    """
    metric = problem.task.default_metric if metric is None else metric
    made = find(Metric, metric)() if _is_name(metric) else metric
    if not isinstance(made, Metric) or problem.task.kind not in made.accepts:
        raise InvalidValue(
            f"the metric is {metric!r}",
            f"the name of one that judges {problem.task.kind.__name__}",
            "Leave it out for the default: " + problem.task.default_metric + ".",
        )
    return made


def fit_fusion(
    wishes: Wishes, problem: Problem, judged: Judged, forms: Mapping[str, str]
) -> Choice:
    """Fit and choose on rows that trained no member.

    Args:
        wishes: How.
        problem: What is predicted.
        judged: The rows.
        forms: Member → form of what it gives: scores and labels are calibrated before they are
            fused, cross-fitted.
    """
    how, methods = wishes.candidates(problem)
    calibrators: dict[str, Calibrator[Any]] = {
        name: find(Calibrator, problem.calibrators[form])()
        for name, form in forms.items()
        if form in problem.calibrators
    }
    if calibrators:
        methods = with_calibrated_members({BEST_MEMBER: BestMember(), **methods}, calibrators)
    return choose(
        judged.stack,
        judged.truth,
        judged.metric,
        methods,
        choose=how,
        calibrator=wishes.output_calibrator(problem),
        seed=_seed(wishes.random_state),
        sample_weights_N=judged.weights_N,
    )


def _named(methods: Any, seed: int) -> dict[str, FusionMethod[Any]]:  # noqa: ANN401
    if isinstance(methods, Mapping):
        return {str(name): _made(method, seed) for name, method in methods.items()}
    if _is_name(methods) or isinstance(methods, FusionMethod):
        methods = [methods]
    named: dict[str, FusionMethod[Any]] = {}
    for method in methods:
        made = _made(method, seed)
        if made.name in named:
            raise InvalidValue(
                f"methods names '{made.name}' twice",
                "every method once",
                "Give a mapping from names of your choice to methods.",
            )
        named[made.name] = made
    return named


def _made(method: Any, seed: int) -> FusionMethod[Any]:  # noqa: ANN401
    if isinstance(method, FusionMethod):
        return method
    if not _is_name(method):
        raise InvalidValue(
            f"the method is {method!r}",
            "auto, best, best_member, the name of a fusion method, or a FusionMethod",
            "`fusetune list methods` lists the names.",
        )
    made = find(FusionMethod, method)()
    return dataclasses.replace(made, seed=seed) if hasattr(made, "seed") else made  # type: ignore[type-var]


def _is_name(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str)


def _seed(random_state: Any) -> int:  # noqa: ANN401
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
