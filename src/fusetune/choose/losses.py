# SPDX-License-Identifier: Apache-2.0
"""The loss of each row that says how good a prediction is, whatever the user is judged by.

Shapes: N rows, C classes or columns, D values.
"""

import numpy as np

from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Floats, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pixels import pixel_rows
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["row_losses"]


def row_losses(prediction: Kind, targets: AnyTargets) -> Floats:
    """`(N,)` losses; lower is better.

    Log-loss for `Probabilities`, mean binary log-loss of the classes for `Marginals`; for `Values`
    the mean squared error, or for quantiles the mean pinball loss. For `Masks` the mean log-loss of
    each row's chosen pixels, 0 where none has a class.
    """
    if isinstance(prediction, Masks):
        return _mask_losses(prediction, targets)
    if isinstance(prediction, Probabilities):
        losses_NC = LogLoss().statistics(prediction, targets)
    elif isinstance(prediction, Marginals):
        eps = np.finfo(prediction.probs_NC.dtype).eps
        probs_NC = np.clip(prediction.probs_NC, eps, 1 - eps).astype(np.float64)
        present_NC = targets.over(prediction.classes)
        losses_NC = -np.log(np.where(present_NC, probs_NC, 1 - probs_NC))
    else:
        assert isinstance(prediction, Values)
        values_ND, levels_D = prediction.values_ND.astype(np.float64), np.array(prediction.levels)
        if len(levels_D):
            off_ND = targets.values_ND[:, :1] - values_ND
            losses_NC = np.maximum(levels_D * off_ND, (levels_D - 1) * off_ND)
        else:
            columns = [targets.names.index(name) for name in prediction.names]
            losses_NC = (targets.values_ND[:, columns] - values_ND) ** 2
    losses_N: Floats = losses_NC.mean(axis=1)
    return losses_N


def _mask_losses(masks: Masks, targets: AnyTargets) -> Floats:
    alone: Stack[Masks] = Stack(("",), (masks,), masks.classes)
    pixels, truth, shares_K, rows_K = pixel_rows(alone, targets, np.ones(len(masks)))
    losses_K = LogLoss().statistics(pixels.parts[0], truth)[:, 0]
    lost_K: Floats = losses_K * shares_K
    return np.bincount(rows_K, lost_K, minlength=len(masks)).astype(np.float64)
