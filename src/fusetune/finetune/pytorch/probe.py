# SPDX-License-Identifier: Apache-2.0
"""Linear probes: a head that is solved for, on the features of a frozen backbone.

With one linear layer on fixed features the loss is convex, so that no learning rate, schedule or
order of rows decides what comes out; the strength of the penalty does, and validation rows choose it.

Shapes: N rows, D features, C outputs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.finetune.engine import History, Plan, Split
from fusetune.finetune.features import no_linear_head
from fusetune.finetune.judging import Judging
from fusetune.finetune.pytorch.features import linear_head
from fusetune.finetune.stopping import diverged
from fusetune.members.member import Member
from fusetune.predictions.kinds import Floats

__all__ = ["Probe", "solve_head"]

PENALTIES = tuple(10.0**power for power in range(0, -7, -1))
"""Of half the squared weights, per row, on features of unit variance. Kornblith et al. 2019 try 45
values over eleven decades of the sum over rows; these seven span where the best lay on our tasks."""
MOST_ITERATIONS = 300
SLOPE = 1e-6
LEFT_OUT = 10
"""One train row of so many chooses the penalty where no rows are set aside for validation."""

Flat = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Probe:
    """A head that was solved for.

    Args:
        penalty: The one that validation rows chose.
        train_loss: Of the train rows, without the penalty.
        figures: Of the validation rows.
    """

    penalty: float
    train_loss: float
    figures: Mapping[str, float]

    @property
    def note(self) -> str:
        """What the user may want to know."""
        loss = self.figures["loss"]
        return f"the head was solved for: L2 penalty {self.penalty:g}, validation loss {loss:.4f}"

    def history(self, num_rows: int, seconds: float) -> History:
        """Of a member that is its probe: one epoch, without a learning rate."""
        epoch = {
            "epoch": 1,
            "lr": 0.0,
            "train_loss": self.train_loss,
            **{f"validation_{name}": value for name, value in self.figures.items()},
            "images_per_second": num_rows / max(seconds, 1e-9),
        }
        return History((epoch,), best_epoch=1, seconds=seconds, notes=(self.note,))


def solve_head(
    member: Member, plan: Plan, splits: tuple[Split, Split], features: tuple[Floats, Floats]
) -> Probe:
    """Put the minimizer of the loss and an L2 penalty into the head's linear layer.

    Biases have no penalty. Features are centered and scaled by one number, as for the probes of
    scouting, which `Probe` and the layer's weights no longer show.

    Args:
        member: Its head is changed in place.
        plan: The objective, with label smoothing and class weights; `stop_by` chooses the penalty.
        splits: Train and validation rows.
        features: Theirs.

    Raises:
        InvalidValue: The head is not one linear layer.
        MemberFailed: No loss is finite.

    Cost:
        Seven solutions by L-BFGS, each begun at the one before, of some tens of passes over (N, D).

    Reference:
        Kornblith, Shlens, Le. "Do better ImageNet models transfer better?" CVPR 2019: logistic
        regression on features, its L2 penalty chosen on validation rows.
    """
    if linear_head(member, features[0].shape[1]) is None:
        raise no_linear_head()
    if plan.only_epochs is not None:  # all rows train: some are left out to choose the penalty
        held = np.arange(len(splits[0].ids)) % LEFT_OUT == LEFT_OUT - 1
        fitted, chooses = (
            replace(splits[0], targets=splits[0].targets.take(some)) for some in (~held, held)
        )
        rehearsal = replace(plan, only_epochs=None)
        rows = (features[0][~held], features[0][held])
        chosen = solve_head(member, rehearsal, (fitted, chooses), rows)
        return _solved(member, plan, splits, features, (chosen.penalty,))
    return _solved(member, plan, splits, features, PENALTIES)


def _solved(
    member: Member,
    plan: Plan,
    splits: tuple[Split, Split],
    features: tuple[Floats, Floats],
    penalties: tuple[float, ...],
) -> Probe:
    """The best of some penalties; the head is its."""
    layer = linear_head(member, features[0].shape[1])
    assert layer is not None
    problem = _Problem.of(layer, plan, splits[0], len(member.classes), features[0])
    validation = torch.from_numpy(np.ascontiguousarray(features[1]))
    judging = Judging(plan.objective, plan.settings.stop_by, splits[1].targets, member.classes)
    found, best, chosen = problem.start(), (-math.inf, -math.inf), None
    for penalty in penalties:
        found, train_loss = problem.solve(penalty, found)
        state = problem.state(found)
        outputs = nn.functional.linear(validation, state["weight"], state.get("bias"))
        figures = judging.figures(outputs.numpy())
        goodness = judging.goodness(figures)
        if math.isfinite(figures["loss"]) and goodness > best:
            best, chosen = goodness, (state, Probe(penalty, train_loss, figures))
    if chosen is None:
        raise diverged("validation", 1)
    layer.load_state_dict(chosen[0])
    return chosen[1]


@dataclass(frozen=True, eq=False)
class _Problem:
    """The loss of the train rows as a function of one flat array of weights, in double precision."""

    plan: Plan
    features_ND: Tensor
    targets: Tensor
    class_weights: Tensor | None
    center_D: Tensor
    scale: float
    shape: tuple[int, int]
    has_bias: bool

    @classmethod
    def of(
        cls, layer: nn.Linear, plan: Plan, split: Split, num_classes: int, features_ND: Floats
    ) -> "_Problem":
        """Of a head's layer and the train rows."""
        targets = plan.objective.collate(split.targets, np.arange(len(split.ids)))
        weights = plan.objective.class_weights(targets, num_classes, plan.settings)
        features = torch.from_numpy(np.asarray(features_ND, dtype=np.float64))
        has_bias = layer.bias is not None  # else nothing makes up for a center
        center = features.mean(dim=0) if has_bias else torch.zeros_like(features[0])
        centered = features - center
        scale = float(centered.square().mean().sqrt()) or 1.0
        floating = torch.from_numpy(targets).double() if targets.dtype.kind == "f" else None
        return cls(
            plan=plan,
            features_ND=centered / scale,
            targets=torch.from_numpy(targets) if floating is None else floating,
            class_weights=None if weights is None else torch.from_numpy(weights).double(),
            center_D=center,
            scale=scale,
            shape=(layer.out_features, layer.in_features),
            has_bias=has_bias,
        )

    def start(self) -> Flat:
        """Zeros: nothing of the head that was there is left."""
        return np.zeros(self.shape[0] * (self.shape[1] + self.has_bias))

    def solve(self, penalty: float, start: Flat) -> tuple[Flat, float]:
        """The minimizer, and the loss without the penalty."""
        from scipy.optimize import minimize

        def value(flat: Flat) -> tuple[float, Flat]:
            variables = torch.from_numpy(flat).requires_grad_()
            weight, bias = self._split(variables)
            loss = self._loss(weight, bias) + penalty / 2 * weight.square().sum()
            (slope,) = torch.autograd.grad(loss, variables)
            return loss.item(), slope.numpy()

        found = minimize(
            value,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MOST_ITERATIONS, "gtol": SLOPE, "ftol": 1e-12},
        ).x
        with torch.no_grad():
            return found, float(self._loss(*self._split(torch.from_numpy(found))))

    def state(self, flat: Flat) -> dict[str, Tensor]:
        """The layer's weights, for features that are neither centered nor scaled."""
        weight, bias = self._split(torch.from_numpy(flat))
        weight = weight / self.scale
        state = {"weight": weight.float()}
        return state if bias is None else {**state, "bias": (bias - weight @ self.center_D).float()}

    def _loss(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        outputs = nn.functional.linear(self.features_ND, weight, bias)
        plan = self.plan
        loss: Tensor = plan.objective.loss(outputs, self.targets, plan.settings, self.class_weights)
        return loss

    def _split(self, flat: Tensor) -> tuple[Tensor, Tensor | None]:
        num = self.shape[0] * self.shape[1]
        return flat[:num].view(self.shape), flat[num:] if self.has_bias else None
