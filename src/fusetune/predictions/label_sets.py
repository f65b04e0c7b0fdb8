# SPDX-License-Identifier: Apache-2.0
"""Multi-label predictions beside the true label sets, classes matched by name.

Shapes: N rows, C classes (those of the targets).
"""

import numpy as np

from fusetune.predictions.kinds import Floats, Marginals
from fusetune.predictions.targets import LabelSets

__all__ = ["said"]


def said(prediction: Marginals, targets: LabelSets) -> Floats:
    """`(N, C)` probabilities over the targets' classes, 0 where the member does not know one.

    Classes that the targets do not have cannot be judged, and are left out.
    """
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    position = {name: index for index, name in enumerate(prediction.classes)}
    wider_NC = np.pad(prediction.probs_NC, ((0, 0), (0, 1)))
    order = [position.get(name, len(position)) for name in targets.classes]
    return np.take(wider_NC, order, axis=1)
