# SPDX-License-Identifier: Apache-2.0
"""Any number of classes per row: binary cross-entropy on each class's logit.

Shapes: B rows of a batch, N rows, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.finetune.auxiliary import AUXILIARY_WEIGHT, with_auxiliary
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.predictions.kinds import Array, Ids, Kind, Marginals
from fusetune.predictions.targets import LabelSets

__all__ = ["Multilabel"]

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Multilabel(Objective[Marginals]):
    """Binary cross-entropy, the mean over rows and classes, on the main and any auxiliary heads.

    Label smoothing moves every target its share of the way to 1/2.

    Args:
        auxiliary_weight: Of every auxiliary head's loss; see `auxiliary.AUXILIARY_WEIGHT`.
    """

    auxiliary_weight: float = AUXILIARY_WEIGHT

    figures: ClassVar[tuple[str, ...]] = ("loss", "hamming_accuracy")
    judged: ClassVar[type[Kind] | None] = Marginals
    unused: ClassVar[tuple[str, ...]] = ("sampling",)

    def collate(self, targets: LabelSets, rows: Array) -> Array:
        """`(B, C)` zeros and ones."""
        return targets.present_NC[rows].astype(np.float32)

    def class_weights(self, targets: Array, num_classes: int, settings: FineTune) -> Array | None:
        """Of a label's presence: rows without it per row with it; 1 where there are none of either."""
        if settings.class_weights == "none":
            return None
        with_C = targets.sum(axis=0, dtype=np.float64)
        without_C = len(targets) - with_C
        known_C = (with_C > 0) & (without_C > 0)
        return np.where(known_C, without_C / np.maximum(with_C, 1), 1).astype(np.float32)

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """Mean binary cross-entropy of `(B, C)` logits, or of a tuple of them (main head first)."""
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        smoothed = targets + (settings.label_smoothing or 0.0) * (0.5 - targets)
        return with_auxiliary(
            outputs,
            lambda logits: cross_entropy(logits, smoothed, pos_weight=weights_C),
            self.auxiliary_weight,
        )

    def soft_targets(self, outputs: Array, temperature: float) -> Array:
        """`(N, C)` probabilities at the temperature, from logits."""
        halves_NC = outputs.astype(np.float64) / (2 * temperature)
        return (0.5 + 0.5 * np.tanh(halves_NC)).astype(np.float32)

    def teaching_loss(self, outputs: Tensor, soft_BD: Tensor, temperature: float) -> Tensor:
        """Mean divergence of every softened logit from its one of `(B, C)` probabilities, times T²."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        rest_BD = 1 - soft_BD
        entropy = -(torch.xlogy(soft_BD, soft_BD) + torch.xlogy(rest_BD, rest_BD)).mean()

        def loss_of(logits: Tensor) -> Tensor:
            return temperature**2 * (cross_entropy(logits / temperature, soft_BD) - entropy)

        return with_auxiliary(outputs, loss_of, self.auxiliary_weight)

    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Binary cross-entropy of `(N, C)` logits, and the share of right decisions at 1/2."""
        losses_NC = np.logaddexp(0, outputs) - targets * outputs
        right_NC = (outputs > 0) == (targets > 0.5)
        return {"loss": float(losses_NC.mean()), "hamming_accuracy": float(right_NC.mean())}

    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> Marginals:
        """Sigmoid of `(N, C)` logits."""
        return Marginals.from_logits(ids, columns, outputs)
