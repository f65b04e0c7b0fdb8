# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained, by which optimizer, at which rate."""

from typing import Any

import torch
from torch import Tensor

from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.members.member import Member

__all__ = ["begin_momentum", "build_optimizer", "parameter_groups", "set_trained"]


def parameter_groups(member: Member, settings: FineTune) -> list[dict[str, Any]]:
    """Parameters that are ever trained: matrices and kernels with weight decay, biases and norms without."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in member.model.named_parameters():
        if settings.train != "head" or in_head(name, member.head):
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.optimizer.weight_decay}]
    return [*groups, {"params": plain, "weight_decay": 0.0}] if plain else groups


def in_head(name: str, head: tuple[str, ...]) -> bool:
    """True if a module or parameter belongs to the head."""
    return any(name == part or name.startswith(f"{part}.") for part in head)


def build_optimizer(
    groups: list[dict[str, Any]], optimizer: Optimizer, device: torch.device
) -> torch.optim.Optimizer:
    """SGD or AdamW, fused: one kernel for all weights. The rate is set before every step."""
    fused = device.type in ("cpu", "cuda")
    if optimizer.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=optimizer.peak_lr,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            fused=fused,
        )
    return torch.optim.AdamW(
        groups,
        lr=optimizer.peak_lr,
        betas=optimizer.betas,
        fused=fused,
        capturable=device.type == "cuda",
    )


def set_trained(member: Member, settings: FineTune, epoch: int) -> bool:
    """Thaw what is trained in an epoch, in training mode, and freeze the rest, in evaluation mode.

    Evaluation mode keeps the batch statistics of what is frozen.

    Returns:
        True if anything was frozen that is trained now, or the other way around.
    """
    before_full = settings.train == "head_then_full" and epoch < (settings.head_epochs or 0)
    head_only = settings.train == "head" or before_full
    changed = False
    for name, parameter in member.model.named_parameters():
        trained = not head_only or in_head(name, member.head)
        changed |= parameter.requires_grad != trained
        parameter.requires_grad_(trained)
    member.model.train(not head_only)
    if head_only:
        for name, module in member.model.named_modules():
            if in_head(name, member.head):
                module.train()
    return changed


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros for weights that join others which have momentum: the fused step wants all or none.

    A first step from zeros is the same as one without momentum.
    """
    for group in optimizer.param_groups if optimizer.state else ():
        for parameter in group["params"] if group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
