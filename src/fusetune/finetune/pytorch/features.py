# SPDX-License-Identifier: Apache-2.0
"""What goes into a model's head: the features that the rest of it computes.

Shapes: B rows of a batch, D features, H W positions.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fusetune.members.member import Member
from fusetune.predictions.kinds import Floats

__all__ = ["head_inputs", "linear_head"]


@contextlib.contextmanager
def head_inputs(member: Member, num_rows: int) -> Iterator[Callable[[], Floats]]:
    """Watch the head while the model runs; the function given returns `(N, D)` float32.

    Of more rows than N the last count: where memory runs out, the engine begins again.

    Layers of the head that do not run in evaluation mode (auxiliary heads) add nothing; of several
    that do, the features stand side by side. Maps and sequences are averaged over their positions.
    """
    seen: dict[str, list[Floats]] = defaultdict(list)

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name].append(_pooled(inputs[0], layer).float().cpu().numpy())

        return hook

    handles = [
        member.model.get_submodule(name).register_forward_pre_hook(watch(name))
        for name in member.head
    ]
    try:
        yield lambda: np.concatenate(
            [np.concatenate(parts)[-num_rows:] for parts in seen.values()], axis=1
        )
    finally:
        for handle in handles:
            handle.remove()


def linear_head(member: Member, num_features: int) -> torch.nn.Linear | None:
    """The head's linear layer of so many inputs; None if there is none, or more than one."""
    layers = [member.model.get_submodule(name) for name in member.head]
    found = [
        layer
        for layer in layers
        if isinstance(layer, torch.nn.Linear) and layer.in_features == num_features
    ]
    return found[0] if len(found) == 1 else None


def _pooled(inputs: Tensor, layer: torch.nn.Module) -> Tensor:
    """`(B, D)`: linear layers have features last, convolutions first."""
    if inputs.ndim == 2:
        return inputs
    positions = range(1, inputs.ndim - 1) if isinstance(layer, torch.nn.Linear) else None
    return inputs.mean(dim=tuple(positions or range(2, inputs.ndim)))
