# SPDX-License-Identifier: Apache-2.0
"""Learning from another member: what it says of the train rows, beside their targets.

Shapes: N train rows, B rows of a batch, D numbers that a teacher says of a row.
"""

import numpy as np
import torch
from torch import Tensor

from fusetune.finetune.engine import Plan
from fusetune.finetune.pytorch.augment import partners

__all__ = ["Lessons"]


class Lessons:
    """A teacher's soft targets on the device; nothing at all without a teacher.

    Args:
        plan: `distill` of its settings, and its `teacher`.
        num_rows: N.
        device: Of the model.
    """

    def __init__(self, plan: Plan, num_rows: int, device: torch.device) -> None:
        self.objective, self.distill = plan.objective, plan.settings.distill
        soft_ND = np.zeros((num_rows, 0), dtype=np.float32)
        if self.distill is not None:
            assert plan.teacher is not None
            outputs = np.load(plan.teacher)
            assert len(outputs) == num_rows, (outputs.shape, num_rows)
            soft_ND = self.objective.soft_targets(outputs, self.distill.temperature)
        self.soft_ND = torch.from_numpy(soft_ND).to(device)

    def of(self, rows: Tensor, shares_B: Tensor | None) -> Tensor:
        """`(B, D)` soft targets of some rows, mixed like their images: `shares_B` of the row itself."""
        soft_BD = self.soft_ND[rows]
        if shares_B is None:
            return soft_BD
        others_BD = partners(soft_BD)
        return others_BD + (soft_BD - others_BD) * shares_B[:, None]

    def blended(self, loss: Tensor, outputs: Tensor, soft_BD: Tensor) -> Tensor:
        """The loss of a batch, of which the teacher has its weight."""
        if self.distill is None:
            return loss
        taught = self.objective.teaching_loss(outputs, soft_BD, self.distill.temperature)
        return (1 - self.distill.weight) * loss + self.distill.weight * taught

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user may want to know of them."""
        if self.distill is None:
            return ()
        return (f"it was taught by '{self.distill.teacher}', with weight {self.distill.weight:g}",)
