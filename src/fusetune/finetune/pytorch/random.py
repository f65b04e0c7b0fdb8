# SPDX-License-Identifier: Apache-2.0
"""The one use of torch's own random state: dropout, which a step's seed decides."""

import torch

__all__ = ["seed_dropout"]


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from: on the host, and on the device."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` asks for every device
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
