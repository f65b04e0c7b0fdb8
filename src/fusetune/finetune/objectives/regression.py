# SPDX-License-Identifier: Apache-2.0
"""Numbers: squared error in units of their own spread.

Shapes: B rows of a batch, N rows, D numbers.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from fusetune.finetune.auxiliary import AUXILIARY_WEIGHT, with_auxiliary
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.predictions.kinds import Array, Ids, Kind, Values
from fusetune.predictions.targets import Numbers

__all__ = ["Regression"]

Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Regression(Objective[Values]):
    """Mean squared error of standardized numbers, on the main head and any auxiliary heads.

    The model learns numbers of mean 0 and standard deviation 1 over the train rows, so that the
    learning rates of classification fit whatever the unit is, and several numbers count alike;
    predictions are in the numbers' own unit. A new head starts near 0: at the train rows' mean.

    Args:
        mean: Of each number over the train rows; `fitted` finds it.
        deviation: Its standard deviation; 1 where all are equal.
        auxiliary_weight: Of every auxiliary head's loss; see `auxiliary.AUXILIARY_WEIGHT`.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    auxiliary_weight: float = AUXILIARY_WEIGHT

    judged: ClassVar[type[Kind] | None] = Values
    keeps_heads: ClassVar[bool] = False  # a checkpoint's head gives numbers in a unit of its own
    softens: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights", "sampling")

    def metrics(self) -> tuple[str, ...]:
        """All but that of quantiles, which are not learned here."""
        return tuple(name for name in super().metrics() if name != "pinball")

    def fitted(self, targets: Numbers) -> Self:
        """With the mean and the standard deviation of the train rows' numbers."""
        deviation_D = targets.values_ND.std(axis=0)
        return replace(
            self,
            mean=tuple(targets.values_ND.mean(axis=0).tolist()),
            deviation=tuple(np.where(deviation_D > 0, deviation_D, 1.0).tolist()),
        )

    def collate(self, targets: Numbers, rows: Array) -> Array:
        """`(B, D)` standardized numbers."""
        standardized_BD = (targets.values_ND[rows] - self.mean) / self.deviation
        return standardized_BD.astype(np.float32)

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        settings: FineTune,
        weights_C: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of `(B, D)` outputs, or of a tuple of them (main head first)."""
        from torch.nn.functional import mse_loss

        return with_auxiliary(
            outputs, lambda values: mse_loss(values, targets), self.auxiliary_weight
        )

    def soft_targets(self, outputs: Array, temperature: float) -> Array:
        """`(N, D)` standardized numbers: the outputs."""
        return outputs.astype(np.float32)

    def teaching_loss(self, outputs: Tensor, soft_BD: Tensor, temperature: float) -> Tensor:
        """Mean squared distance from the teacher's `(B, D)` standardized numbers."""
        from torch.nn.functional import mse_loss

        return with_auxiliary(
            outputs, lambda values: mse_loss(values, soft_BD), self.auxiliary_weight
        )

    def scores(self, outputs: Array, targets: Array) -> dict[str, float]:
        """Mean squared error of `(N, D)` standardized numbers: 1 is as good as the train mean."""
        return {"loss": float(np.square(outputs - targets).mean(dtype=np.float64))}

    def to_prediction(self, ids: Ids, columns: tuple[str, ...], outputs: Array) -> Values:
        """`(N, D)` numbers in their own unit, in double precision."""
        values_ND = outputs.astype(np.float64) * self.deviation + self.mean
        return Values(ids, columns, values_ND)
