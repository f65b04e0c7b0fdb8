# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained, by which optimizer, at which rate."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from fusetune.finetune.pytorch.layers import depths, in_head
from fusetune.finetune.pytorch.lora import set_adapter_modes
from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.members.member import Member

__all__ = [
    "LearningRates",
    "begin_momentum",
    "build_optimizer",
    "default_lr",
    "num_trained",
    "parameter_groups",
    "set_trained",
    "trains_head_alone",
]


def parameter_groups(member: Member, settings: FineTune) -> list[dict[str, Any]]:
    """Parameters that are ever trained, those of the highest learning rate first.

    With `train: lora` these are the ones that putting on the adapters has left thawed. Matrices and kernels have weight decay, biases and norms have none. `lr_scale` is a group's
    factor of the learning rate.
    """
    depth_of = depths(member)
    head = max(depth_of.values())
    groups: dict[tuple[float, bool], list[Tensor]] = defaultdict(list)
    for name, parameter in member.model.named_parameters():
        frozen = settings.train == "lora" and not parameter.requires_grad
        if not frozen and (settings.train != "head" or in_head(name, member.head)):
            scale = settings.layer_decay ** (head - depth_of[name])
            groups[-scale, parameter.ndim <= 1].append(parameter)
    decay = settings.optimizer.weight_decay
    return [
        {"params": groups[key], "weight_decay": 0.0 if key[1] else decay, "lr_scale": -key[0]}
        for key in sorted(groups)
    ]


def build_optimizer(
    groups: list[dict[str, Any]], optimizer: Optimizer, device: torch.device
) -> torch.optim.Optimizer:
    """SGD or AdamW, fused: one kernel for all weights. The rate is set before every step."""
    fused = device.type in ("cpu", "cuda")
    if optimizer.name == "sgd":
        return torch.optim.SGD(
            groups,
            momentum=optimizer.momentum,
            nesterov=optimizer.nesterov,
            fused=fused,
        )
    return torch.optim.AdamW(
        groups,
        betas=optimizer.betas,
        fused=fused,
        capturable=device.type == "cuda",
    )


def default_lr(model: torch.nn.Module, optimizer: Optimizer) -> float:
    """The peak learning rate that is given, or the usual one of such a model."""
    norms = any(isinstance(layer, torch.nn.LayerNorm) for layer in model.modules())
    return optimizer.peak_lr(layer_norms=norms)


def num_trained(optimizer: torch.optim.Optimizer) -> int:
    """Number of weights that are ever trained."""
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def set_trained(member: Member, settings: FineTune, epoch: int) -> bool:
    """Thaw what is trained in an epoch, in training mode, and freeze the rest, in evaluation mode.

    Evaluation mode keeps the batch statistics of what is frozen.

    Returns:
        True if anything was frozen that is trained now, or the other way around.
    """
    if settings.train == "lora":  # what is trained was settled when the adapters were put on
        set_adapter_modes(member)
        return False
    model, depth_of = member.model, depths(member)
    head = max(depth_of.values())
    first, changed = first_trained(settings, epoch, head), False
    for name, parameter in model.named_parameters():
        trained = depth_of[name] >= first
        changed |= parameter.requires_grad != trained
        parameter.requires_grad_(trained)
    model.eval()
    for name, module in model.named_modules():
        own = [parameter.requires_grad for parameter in module.parameters()]
        if in_head(name, member.head) or (first < head and own and all(own)):
            module.train()
    return changed


def first_trained(settings: FineTune, epoch: int, head: int) -> int:
    """Number of the first layer that is trained in an epoch, counted from 0; `head` is the last."""
    if settings.train == "head":
        return head
    if settings.head_epochs is None or epoch >= settings.head_epochs:
        return 0
    joined = head * epoch // settings.head_epochs if settings.train == "gradual" else 0
    return head - joined


def trains_head_alone(member: Member, settings: FineTune, epoch: int) -> bool:
    """True if all but the head is frozen in an epoch, counted from 0."""
    head = max(depths(member).values())
    return first_trained(settings, epoch, head) == head


class LearningRates:
    """Sets the rate of every group: as a number, or on a GPU in tensors that recorded steps read.

    Args:
        optimizer: Of groups with an `lr_scale`.
        device: Of the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        on_gpu = device.type == "cuda"
        self.tensors = [torch.zeros((), device=device) for _ in optimizer.param_groups if on_gpu]

    def set(self, rate: float) -> None:
        """Set the rate of the head, and the others' by their scale."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        for group, tensor in zip(self.optimizer.param_groups, self.tensors, strict=False):
            group["lr"] = tensor.fill_(group["lr"])


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros for weights that join others which have momentum: the fused step wants all or none.

    A first step from zeros is the same as one without momentum.
    """
    for group in optimizer.param_groups if optimizer.state else ():
        for parameter in group["params"] if group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
