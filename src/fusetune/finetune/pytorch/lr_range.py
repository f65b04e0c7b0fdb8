# SPDX-License-Identifier: Apache-2.0
"""Runs a learning-rate range test on a model, and leaves the model as it was."""

import contextlib
import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import nn

from fusetune.finetune.batches import epoch_order, in_batches
from fusetune.finetune.lr_range import concluded, has_diverged, trial_rates
from fusetune.finetune.pytorch.optimizer import set_trained
from fusetune.finetune.pytorch.random import seed_dropout
from fusetune.finetune.randomness import mixed_seed
from fusetune.predictions.kinds import Array

if TYPE_CHECKING:
    from fusetune.finetune.pytorch.loop import Training

__all__ = ["find_rate"]


def find_rate(training: "Training") -> None:
    """Do the test, if the settings ask for it and the state holds none yet; the state holds it then.

    The learning rate rises from step to step until the loss no longer falls. All weights are
    trained that ever are.

    Args:
        training: Does the steps; its model and its optimizer are put back bit by bit.
    """
    settings, state = training.settings, training.state
    if not settings.optimizer.tests_lr or state.range_test:
        return
    before = time.perf_counter()
    training.trainee = training.trainees.of(settings, settings.num_epochs - 1)
    set_trained(training.member, settings, settings.num_epochs - 1)
    losses = list[float]()
    with put_back(training.model, training.optimizer):
        for loss in trials(training):
            losses.append(loss)
            if has_diverged(losses):
                losses.pop()  # maybe not finite
                break
    training.record_anew()  # recorded steps write to the optimizer's former state
    state.range_test = asdict(concluded(losses, training.default_lr))
    state.seconds += time.perf_counter() - before


def trials(training: "Training") -> Iterator[float]:
    """Do one step at each learning rate, and give its loss."""
    seed, rates = mixed_seed(training.seed, "range_test"), trial_rates()
    batches = trial_batches(training, seed, len(rates))

    def before_step(step: int, num_steps: int) -> None:
        training.rates.set(rates[step])
        seed_dropout(mixed_seed(seed, "dropout", step), training.device)
        training.loss_sum.zero_()

    for step in training.steps(batches, before_step):
        yield float(training.loss_sum) / len(batches[step])


def trial_batches(training: "Training", seed: int, num: int) -> list[Array]:
    """Rows of so many steps: of as many epochs as it takes."""
    batches: list[Array] = []
    for epoch in itertools.count():
        order = epoch_order(training.keys, training.strata, seed=seed, epoch=epoch)
        batches += in_batches(order, training.settings.batch_size)
        if len(batches) >= num:
            break
    return batches[:num]


@contextlib.contextmanager
def put_back(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Afterwards weights, buffers and the optimizer are what they were, the tensors the same."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(optimizer.state_dict())
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        optimizer.load_state_dict(state)
        optimizer.zero_grad()
