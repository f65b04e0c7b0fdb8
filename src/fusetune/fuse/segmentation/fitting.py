# SPDX-License-Identifier: Apache-2.0
"""Methods of class probabilities, fitted to pixels of masks.

Shapes: N rows.
"""

from typing import Any

from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.segmentation.fusion import PixelWise
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Array
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pixels import pixel_rows
from fusetune.predictions.stack import Stack
from fusetune.predictions.weights import row_weights

__all__ = ["fit_on_pixels"]


def fit_on_pixels(
    method: FusionMethod[Any],
    stack: Stack[Masks],
    targets: LabelMaps,
    sample_weights_N: Array | None,
) -> Fusion[Any]:
    """Fit a method of class probabilities to chosen pixels, each a row; see `pixel_rows`.

    What it would choose by the user's metric it chooses by the log-loss of pixels: metrics of masks
    have no value for pixels that hang on no image. Weights of members apply to masks as they
    are, and any other fusion pixel by pixel.

    Args:
        method: Accepts `Probabilities`, and gives weights of members or what works row by row.
        stack: Members' masks.
        targets: Their truth.
        sample_weights_N: `(N,)` weights of the rows; None: all 1.

    Raises:
        PredictionError: No pixel has a class, or there is no row.
    """
    weights_N = row_weights(stack.ids, sample_weights_N, "the fusion")
    pixels, truth, weights_K, _ = pixel_rows(stack, targets, weights_N)
    fitted = method.fit(pixels, truth, LogLoss(), sample_weights_N=weights_K)
    return fitted if isinstance(fitted, WeightedAverage) else PixelWise(fusion=fitted)
