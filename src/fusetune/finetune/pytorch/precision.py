# SPDX-License-Identifier: Apache-2.0
"""With how many bits and in which order of memory a member is trained."""

import contextlib
from typing import Any

import torch
from torch import nn

from fusetune.finetune.settings import FineTune

__all__ = ["autocast", "chosen_precision", "memory_format"]

FEW_PARAMETERS = 1_000_000
"""On a CPU, networks below this stay in fp32: conversions cost them what they gain."""


def chosen_precision(settings: FineTune, model: nn.Module, device: torch.device) -> str:
    """`fp32` or `bf16`; what `auto` means is in `FineTune`."""
    if settings.precision != "auto":
        return settings.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    gains = device.type == "cpu" and cpu_multiplies_bf16() and gains_from_bf16(model)
    return "bf16" if gains else "fp32"


def gains_from_bf16(model: nn.Module) -> bool:
    """True for networks whose time on a CPU goes into large dense products.

    Grouped convolutions (MobileNet, EfficientNet, ShuffleNet) took 1.3 to 1.7 times as long in bf16.
    """
    grouped = any(getattr(module, "groups", 1) > 1 for module in model.modules())
    return not grouped and sum(p.numel() for p in model.parameters()) >= FEW_PARAMETERS


def cpu_multiplies_bf16() -> bool:
    """True if the processor has instructions for it (AVX-512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products and convolutions in that precision; weights stay in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last, as the kernels of CPUs and of tensor cores want convolutions."""
    last = device.type in ("cpu", "cuda")
    return torch.channels_last if last else torch.contiguous_format
