# SPDX-License-Identifier: Apache-2.0
"""A model's weights by depth, from the input to the head."""

from collections.abc import Iterator

from torch import nn

from fusetune.members.member import Member

__all__ = ["depths", "in_head"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def depths(member: Member) -> dict[str, int]:
    """Name of every parameter → number of its layer, 0 at the input; the head's is the largest.

    Layers are the elements of the outermost containers (`Sequential`, `ModuleList`, `ModuleDict`)
    and modules that hold none, in the order in which the model registers them: residual and
    transformer blocks, single convolutions of plain networks. Lone norms, and parameters that stand
    beside layers (tokens, positions), belong to the layer before them, or to the first.
    """
    model, found = member.model, dict[str, int]()
    depth, has_weights = 0, False
    for names, joins in layers(model, ""):
        body = [name for name in names if not in_head(name, member.head)]
        joins = joins or all(model.get_parameter(name).ndim == 1 for name in body)
        if has_weights and not joins:
            depth += 1
        has_weights |= not joins
        found |= dict.fromkeys(body, depth)
    head = max(found.values(), default=0) + 1
    return {name: found.get(name, head) for name, _ in model.named_parameters()}


def layers(module: nn.Module, prefix: str) -> Iterator[tuple[list[str], bool]]:
    """Names of the parameters of one layer after the other; True if they join the one before."""
    own = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    yield own, True
    within = isinstance(module, CONTAINERS)
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        holds_one = any(isinstance(part, CONTAINERS) for part in child.modules())
        if isinstance(child, CONTAINERS) or (holds_one and not within):
            yield from layers(child, path)
        else:
            yield [f"{path}{inner}" for inner, _ in child.named_parameters()], False


def in_head(name: str, head: tuple[str, ...]) -> bool:
    """True if a module or parameter belongs to the head."""
    return any(name == part or name.startswith(f"{part}.") for part in head)
