# SPDX-License-Identifier: Apache-2.0
"""One class per row: cross-entropy on logits.

Shapes: B rows of a batch, N rows, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.finetune.auxiliary import AUXILIARY_WEIGHT, with_auxiliary
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.predictions.kinds import Array, Ids, Kind, Probabilities
from fusetune.predictions.targets import Targets

__all__ = ["Classification"]

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Classification(Objective[Probabilities]):
    """Cross-entropy with label smoothing, on the main head and any auxiliary heads.

    Args:
        auxiliary_weight: Of every auxiliary head's loss; see `auxiliary.AUXILIARY_WEIGHT`.
    """

    auxiliary_weight: float = AUXILIARY_WEIGHT

    figures: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    usual_smoothing: ClassVar[float] = 0.1
    judged: ClassVar[type[Kind] | None] = Probabilities

    def collate(self, targets: Targets, rows: Array) -> Array:
        """`(B,)` class indices."""
        return targets.labels_N[rows]

    def mixed(self, targets: Tensor, others: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
        """`(B, C)` probabilities."""
        from torch.nn.functional import one_hot

        first_BC, second_BC = (one_hot(labels, num_classes) for labels in (targets, others))
        return second_BC + (first_BC - second_BC) * shares_B[:, None]

    def class_weights(self, targets: Array, num_classes: int, settings: FineTune) -> Array | None:
        """Rows per class on average, per rows of the class; 0 for classes without rows."""
        if settings.class_weights == "none":
            return None
        counts_C = np.bincount(targets, minlength=num_classes)
        mean = len(targets) / np.count_nonzero(counts_C)
        return np.where(counts_C, mean / np.maximum(counts_C, 1), 0).astype(np.float32)

    def strata(self, targets: Array, settings: FineTune) -> Array | None:
        """The classes."""
        return targets if settings.sampling == "balanced" else None

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of `(B, C)` logits, or of a tuple of them (main head first).

        Targets are `(B,)` class indices or `(B, C)` probabilities.
        """
        from torch.nn.functional import cross_entropy

        smoothing = settings.label_smoothing or 0.0

        def loss_of(logits: Tensor) -> Tensor:
            if weights_C is None:
                return cross_entropy(logits, targets, label_smoothing=smoothing)
            # PyTorch's own mean would divide by the batch's weights: a rare class alone weighs nothing.
            losses_B = cross_entropy(
                logits, targets, weights_C, label_smoothing=smoothing, reduction="none"
            )
            return losses_B.mean()

        return with_auxiliary(outputs, loss_of, self.auxiliary_weight)

    def soft_targets(self, outputs: Array, temperature: float) -> Array:
        """`(N, C)` probabilities at the temperature, from logits."""
        logits_NC = outputs.astype(np.float64) / temperature
        exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return (exp_NC / exp_NC.sum(axis=1, keepdims=True)).astype(np.float32)

    def teaching_loss(self, outputs: Tensor, soft_BD: Tensor, temperature: float) -> Tensor:
        """Mean Kullback-Leibler divergence of the softened logits from `(B, C)` probabilities, times T²."""
        from torch.nn.functional import kl_div, log_softmax

        def loss_of(logits: Tensor) -> Tensor:
            log_probs = log_softmax(logits / temperature, dim=1)
            return temperature**2 * kl_div(log_probs, soft_BD, reduction="batchmean")

        return with_auxiliary(outputs, loss_of, self.auxiliary_weight)

    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Log-loss and accuracy of `(N, C)` logits."""
        shifted_NC = outputs - outputs.max(axis=1, keepdims=True)
        log_sums_N = np.log(np.exp(shifted_NC).sum(axis=1))
        losses_N = log_sums_N - shifted_NC[np.arange(len(targets)), targets]
        accuracy = float((outputs.argmax(axis=1) == targets).mean())
        return {"loss": float(losses_N.mean()), "accuracy": accuracy}

    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> Probabilities:
        """Softmax of `(N, C)` logits."""
        return Probabilities.from_logits(ids, columns, outputs)
