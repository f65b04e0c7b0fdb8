# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights that training passes through, validated and kept in their place.

Kept in step with the model outside of recorded steps, on the same stream: nothing here waits for
the device but a first look at what is trained, and the model's tensors stay where they are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.finetune.settings import FineTune

__all__ = ["Averages"]

EVERY = 4
"""Steps from one look at the weights to the next; torchvision's references take 32."""


class Averages:
    """Running means of a model's weights and batch statistics; none unless the settings ask.

    With `ema` they approach the weights, `a += (1 - d**s) * (w - a)` after every s = 4 steps and at
    the end of an epoch, where d is the smaller of the decay and `(1 + steps) / (10 + steps)`, so
    that short runs do not stay where they began. With `swa` they are the mean over the ends of the
    last epochs; before these there is no average. What is frozen is its own mean, and costs nothing.

    Args:
        settings: `ema`, `swa` and `epochs` count.

    Reference:
        Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992;
        Tarvainen & Valpola, "Mean teachers are better role models", 2017. Izmailov, Podoprikhin,
        Garipov, Vetrov & Wilson, "Averaging weights leads to wider optima and better
        generalization", UAI 2018, who gather batch statistics anew in one more pass over the train
        rows; here these are averaged like weights.
    """

    def __init__(self, settings: FineTune) -> None:
        self.decay = settings.ema_decay
        self.swa_from = int(settings.num_epochs * (1 - settings.swa)) if settings.swa else None
        self.means = dict[str, Tensor]()
        self.followed: list[tuple[Tensor, Tensor]] = []
        self.count, self.steps = 0, 0

    def follow(self, model: nn.Module) -> None:
        """Follow from here on what the model trains now, and what it trained before.

        Args:
            model: On its device, what it trains in training mode; it trains no less than before.
        """
        if self.decay or self.swa_from is not None:
            tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name in _trained(model):
                if name not in self.means and _has_mean(tensors[name]):
                    self.means[name] = tensors[name].detach().clone()
            for name, mean in self.means.items():  # a checkpoint's are on the host
                self.means[name] = mean.to(tensors[name].device)
            self.followed = [(mean, tensors[name]) for name, mean in self.means.items()]

    def after_step(self) -> None:
        """Count one more step of the weights."""
        if self.decay:
            self.steps += 1
            if self.steps == EVERY:
                self._decay()

    def after_epoch(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, counted from 0."""
        if self.steps:
            self._decay()
        if self.swa_from is not None and epoch >= self.swa_from:
            self.count += 1
            self._approach(1 / self.count)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The model holds the averages, if there are any yet, and then its own weights again."""
        if not self.count:
            yield
            return
        means, weights = self._pairs()
        own = [tensor.detach().clone() for tensor in weights]
        _put(means, weights)
        try:
            yield
        finally:
            _put(own, weights)

    def notes(self, best_epoch: int) -> tuple[str, ...]:
        """What the user has to know where `swa` was asked for and no average was kept."""
        if self.swa_from is None or best_epoch > self.swa_from:
            return ()
        return (
            f"the weights of epoch {best_epoch} were kept, which are no average: swa averages those "
            f"of epoch {self.swa_from + 1} and after",
        )

    def _decay(self) -> None:
        """Take in the weights after some steps without."""
        self.count += self.steps
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self._approach(1 - decay**self.steps)
        self.steps = 0

    def _approach(self, share: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(*self._pairs(), share)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        return [mean for mean, _ in self.followed], [weight for _, weight in self.followed]

    def state_dict(self) -> dict[str, Any]:
        """The averages and what they hold."""
        return {"means": self.means, "count": self.count, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.means = state_dict["means"]
        self.count, self.steps = state_dict["count"], state_dict["steps"]


def _put(values: list[Tensor], into: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(into, values)


def _trained(model: nn.Module) -> Iterator[str]:
    """Names of the weights and buffers that the next step may change."""
    yield from (name for name, weight in model.named_parameters() if weight.requires_grad)
    for prefix, module in model.named_modules():
        if module.training:
            yield from (name for name, _ in module.named_buffers(prefix, recurse=False))


def _has_mean(tensor: Tensor) -> bool:
    """False for counters, and for masks of infinities."""
    return tensor.is_floating_point() and bool(tensor.isfinite().all())
