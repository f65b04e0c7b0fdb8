# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained, by which optimizer, at which rate."""

from typing import Any

import torch
from torch import Tensor, nn

from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.members.member import Member

__all__ = ["build_optimizer", "parameter_groups", "set_training_mode"]


def parameter_groups(member: Member, settings: FineTune) -> list[dict[str, Any]]:
    """Trainable parameters: matrices and kernels with weight decay, biases and norms without."""
    head_only = settings.train == "head"
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in member.model.named_parameters():
        parameter.requires_grad_(not head_only or in_head(name, member.head))
        if parameter.requires_grad:
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


def set_training_mode(model: nn.Module, head: tuple[str, ...], settings: FineTune) -> None:
    """Training mode; with a frozen body only the head's, so that batch statistics stay."""
    model.train(settings.train == "full")
    if settings.train == "head":
        for name, module in model.named_modules():
            if in_head(name, head):
                module.train()
