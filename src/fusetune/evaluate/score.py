# SPDX-License-Identifier: Apache-2.0
"""Scores of one prediction.

Shapes: N rows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusetune.metric import Metric
from fusetune.predictions.kinds import Kind, Probabilities
from fusetune.predictions.targets import GroundTruth, Targets

__all__ = ["correct", "scores"]


def scores(
    prediction: Kind, targets: GroundTruth, metrics: Sequence[Metric[Kind]]
) -> dict[str, float]:
    """Value of every metric, by the metric's name and in the order given.

    Args:
        prediction: Of the same rows as the targets, in the same order.
        targets: Their truth, of the form that the kind demands.
        metrics: What to compute; none gives an empty dictionary.
    """
    return {metric.name: metric.value(metric.statistics(prediction, targets)) for metric in metrics}


def correct(prediction: Probabilities, targets: Targets) -> npt.NDArray[np.bool_]:
    """`(N,)` booleans: is the most probable class the true one? Compared by class **name**.

    A row whose true class the member does not know is wrong. The earlier class wins an exact tie.
    """
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    top_N = prediction.probs_NC.argmax(axis=1)
    right_N: npt.NDArray[np.bool_] = top_N == targets.columns(prediction.classes)
    return right_N
