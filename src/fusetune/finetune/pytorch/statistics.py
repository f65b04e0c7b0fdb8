# SPDX-License-Identifier: Apache-2.0
"""Batch-norm statistics of averaged weights: re-estimated, since averages of statistics do not fit.

Shapes: B rows of a batch, N rows.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fusetune.finetune.batches import PixelStore, epoch_order
from fusetune.finetune.engine import Split
from fusetune.finetune.pytorch.inputs import Feed, ModelInput
from fusetune.finetune.randomness import row_keys
from fusetune.members.member import Preprocess

__all__ = ["reestimate", "statistics_names"]

BATCH = 256  # rows


def statistics_names(model: nn.Module) -> frozenset[str]:
    """Names in the state dict of the running means and variances."""
    return frozenset(
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules(remove_duplicate=False)
        if _keeps_statistics(module)
        for buffer in ("running_mean", "running_var")
    )


def reestimate(model: nn.Module, split: Split, preprocess: Preprocess) -> None:
    """Set running means and variances, in place, to their averages over one pass of batches.

    Everything but the batch-norm layers is in evaluation mode, so that nothing is drawn at random;
    modes, momenta and counters of batches are the same afterwards. Rows are mixed, so that batches
    resemble each other however the data are sorted.

    Args:
        model: Changed in place; without batch-norm statistics nothing happens.
        split: N train rows.
        preprocess: The member's own.

    Reference:
        Izmailov et al. "Averaging weights leads to wider optima and better generalization". UAI
        2018, whose pass this is; there with training augmentation, here as images are predicted.
    """
    layers = [module for module in model.modules() if _keeps_statistics(module)]
    if not layers:
        return
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    modes = {module: module.training for module in model.modules()}
    device = next(iter(layers)).running_mean.device
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the cumulative average
        layer.train()
    feed = Feed(PixelStore(split.images, preprocess), device)
    model_input = ModelInput(preprocess, device)
    try:
        with torch.no_grad():
            for pixels in feed.batches(_equal_batches(split)):
                model(model_input(pixels))
    finally:
        for layer, (momentum, num_batches) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(num_batches)
        for module, training in modes.items():
            module.training = training


def _equal_batches(split: Split) -> list[np.ndarray]:
    """Batches of like size, 256 to 511 rows where there are so many: each counts alike."""
    order = epoch_order(row_keys(split.ids), seed=0, epoch=0)
    return np.array_split(order, max(1, len(order) // BATCH))


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None
