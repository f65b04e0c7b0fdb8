# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights that training passes through, validated and kept in their place.

Kept in step with the model outside of recorded steps, on the same stream: nothing here waits for
the device, and the model's tensors stay where they are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.finetune.settings import FineTune

__all__ = ["Averages"]


class Averages:
    """Running means of a model's weights and batch statistics; none unless the settings ask.

    With `ema` they follow every step by `a += (1 - d) * (w - a)`, where d is the smaller of `ema`
    and `(1 + steps) / (10 + steps)`, so that short runs do not stay where they began. With `swa`
    they are the mean over the ends of the last epochs; before these there is no average.

    Args:
        model: On its device.
        settings: `ema`, `swa` and `epochs` count.

    Reference:
        Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992;
        Tarvainen & Valpola, "Mean teachers are better role models", 2017. Izmailov, Podoprikhin,
        Garipov, Vetrov & Wilson, "Averaging weights leads to wider optima and better
        generalization", UAI 2018, who gather batch statistics anew in one more pass over the train
        rows; here these are averaged like weights.
    """

    def __init__(self, model: nn.Module, settings: FineTune) -> None:
        self.decay = settings.ema
        self.swa_from = int(settings.num_epochs * (1 - settings.swa)) if settings.swa else None
        self.count = 0
        on = bool(self.decay or self.swa_from is not None)
        self.followed = list(followed(model)) if on else []
        self.means = [tensor.detach().clone() for tensor in self.followed]

    def after_step(self) -> None:
        """Follow the weights of one more step."""
        if self.decay:
            self.count += 1
            decay = min(self.decay, (1 + self.count) / (10 + self.count))
            self._approach(1 - decay)

    def after_epoch(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, counted from 0."""
        if self.swa_from is not None and epoch >= self.swa_from:
            self.count += 1
            self._approach(1 / self.count)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The model holds the averages, if there are any yet, and then its own weights again."""
        if not self.count:
            yield
            return
        own = [tensor.detach().clone() for tensor in self.followed]
        self._put(self.means)
        try:
            yield
        finally:
            self._put(own)

    def _approach(self, share: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self.means, self.followed, share)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.followed, values)

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many steps or epochs they hold."""
        return {"means": self.means, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.count = state_dict["count"]
        for mean, value in zip(self.means, state_dict["means"], strict=True):
            mean.copy_(value)


def followed(model: nn.Module) -> Iterator[Tensor]:
    """Weights, and buffers that have a mean: not counters, nor masks of infinities."""
    yield from (p for p in model.parameters() if p.is_floating_point())
    for buffer in model.buffers():
        if buffer.is_floating_point() and bool(buffer.isfinite().all()):
            yield buffer
