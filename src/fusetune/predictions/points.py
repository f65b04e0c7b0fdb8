# SPDX-License-Identifier: Apache-2.0
"""Predicted numbers beside true ones, columns matched by name.

Shapes: N rows, D numbers.
"""

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.kinds import Floats, Values
from fusetune.predictions.targets import Numbers

__all__ = ["MEDIAN", "point_errors", "quantile_errors"]

MEDIAN = 0.5


def point_errors(prediction: Values, targets: Numbers) -> Floats:
    """`(N, D)` predicted minus true numbers, in double precision, in the targets' order of columns.

    One column predicts one number whatever their names. Of quantiles the median is judged, on the
    straight line between the two levels next to 0.5 where none is exactly there.

    Raises:
        PredictionError: The prediction lacks a column of the targets, or its quantiles lie all on
            one side of the median.
    """
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    if prediction.levels:
        return _medians(prediction)[:, None] - _one_number(targets)
    if len(prediction.names) == len(targets.names) == 1:
        return prediction.values_ND.astype(np.float64) - targets.values_ND
    absent = [name for name in targets.names if name not in prediction.names]
    if absent:
        raise PredictionError(
            f"the prediction has no column for {name_some(absent)}",
            f"the columns {name_some(targets.names)}",
            "Rename its columns, or give targets for the numbers that it predicts.",
        )
    order = [prediction.names.index(name) for name in targets.names]
    return np.take(prediction.values_ND, order, axis=1).astype(np.float64) - targets.values_ND


def quantile_errors(prediction: Values, targets: Numbers) -> Floats:
    """`(N, D)` predicted quantiles minus the true number, in double precision.

    Raises:
        PredictionError: The prediction holds no quantiles, or the targets several numbers.
    """
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    if not prediction.levels:
        raise PredictionError(
            f"the columns {name_some(prediction.names)} have no quantile levels",
            "quantiles, each with its level between 0 and 1",
            "Give the levels of the columns, or judge the numbers by rmse or mae.",
        )
    return prediction.values_ND.astype(np.float64) - _one_number(targets)


def _one_number(targets: Numbers) -> Floats:
    if len(targets.names) > 1:
        raise PredictionError(
            f"the targets hold the numbers {name_some(targets.names)}",
            "one number per row, whose quantiles are predicted",
            "Give the targets one column.",
        )
    return targets.values_ND


def _medians(prediction: Values) -> Floats:
    levels = np.array(prediction.levels)
    values_ND = prediction.values_ND.astype(np.float64)
    upper = int(np.searchsorted(levels, MEDIAN))
    if upper < len(levels) and levels[upper] == MEDIAN:
        return values_ND[:, upper]
    if upper in (0, len(levels)):
        raise PredictionError(
            f"the quantile levels are {name_some([f'{level:g}' for level in levels])}",
            "levels on both sides of the median, or 0.5 itself",
            "Judge these quantiles by pinball, or predict the median as well.",
        )
    share = (MEDIAN - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    medians_N: Floats = (1 - share) * values_ND[:, upper - 1] + share * values_ND[:, upper]
    return medians_N
