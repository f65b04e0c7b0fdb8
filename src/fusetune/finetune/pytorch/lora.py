# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: what is trained in the place of a model's weights, and merged into them."""

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fusetune.errors import InvalidValue, counted, unknown_name
from fusetune.finetune.pytorch.layers import in_head
from fusetune.finetune.settings import Lora
from fusetune.members.heads import forked_seed, trial_logits
from fusetune.members.member import Member
from fusetune.plugins import missing_extra

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

__all__ = ["Adapters", "put_adapters", "set_adapter_modes"]

NAME = "fusetune"  # peft's models can have several adapters, by name


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters on a member's model, until they are taken off.

    Args:
        model: The member's; layers stand in it that add `B A x · alpha / rank` to what they wrap.
        tuner: peft's view of it.
        layers: Names of the layers that have adapters.
        num_weights: Of the adapters.
        weights: Names in the model's state dict without adapters.
    """

    model: nn.Module
    tuner: "LoraModel"
    layers: tuple[str, ...]
    num_weights: int
    weights: tuple[str, ...]

    def merged(self) -> dict[str, Tensor]:
        """The state dict of the model without adapters whose outputs are those of the model with."""
        state = self.model.state_dict()
        for name in self.layers:
            layer: Any = self.model.get_submodule(name)
            base = layer.get_base_layer().state_dict(prefix=f"{name}.")
            state |= base
            state[f"{name}.weight"] = base[f"{name}.weight"] + layer.get_delta_weight(NAME)
        return {name: state[name] for name in self.weights}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user may want to know of them."""
        layers = counted(len(self.layers), "layer")
        weights = f"{self.num_weights:,} weights"
        return (f"low-rank adapters on {layers}, {weights}, were merged into the model's own",)

    def remove(self) -> None:
        """Take them off; the model's own weights are as they were before."""
        self.tuner.unload()


def put_adapters(member: Member, lora: Lora, seed: int) -> Adapters:
    """Put adapters on a member's layers, and freeze all other weights but the head's.

    Args:
        member: Its model is changed in place; its outputs stay the same, as B starts at 0.
        lora: Rank, scale and targets.
        seed: Of A's first values.

    Raises:
        MissingExtra: peft is not installed.
        InvalidValue: A target is not there, or nothing can have adapters.
    """
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "lora")
    from peft.tuners.lora import LoraConfig, LoraModel

    model = member.model
    layers, weights = adaptable(member), tuple(model.state_dict())
    layers = targeted(layers, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, layers)),  # as text, whole names alone match
    )
    with forked_seed(seed):
        tuner = LoraModel(model, config, NAME)
    num_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for name, parameter in model.named_parameters():
        if in_head(name, member.head):
            parameter.requires_grad_(True)
    return Adapters(model, tuner, layers, num_weights, weights)


def adaptable(member: Member) -> tuple[str, ...]:
    """Names of the layers that adapters can be put on.

    Linear layers and convolutions before the head which the model calls once it predicts: attention
    of `nn.MultiheadAttention` reads its layers' weights without calling them, and adapters would
    be passed by. Of convolutions, those that peft merges correctly: no groups, dilation or other
    padding than zeros. No layer, and no weight, that stands in the model twice.
    """
    model = member.model
    called: set[str] = set()
    candidates = {
        name: module
        for name, module in model.named_modules()
        if _is_plain(module) and not in_head(name, member.head)
    }
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    shared = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in candidates.items()
    ]
    try:
        trial_logits(model, member.preprocess.size)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        name
        for name, module in candidates.items()
        if name in called and places[id(module)] == 1 and shared[id(module.weight)] == 1
    )


def targeted(layers: tuple[str, ...], lora: Lora) -> tuple[str, ...]:
    """Those of the layers that the targets name, by the whole name or the end of it."""
    if not layers:
        raise InvalidValue(
            "finetune.train is lora, and the model has no layers that can have adapters",
            "linear layers, or convolutions without groups and dilation, before the head",
            "Write train: full, or train: head.",
        )
    if lora.targets is None:
        return layers
    for target in lora.targets:
        if not any(_ends_with(name, target) for name in layers):
            where = "finetune.lora.targets"
            raise unknown_name("layer", target, layers, where=where, error=InvalidValue)
    return tuple(name for name in layers if any(_ends_with(name, t) for t in lora.targets))


def set_adapter_modes(member: Member) -> None:
    """The head and the adapters' dropout in training mode, all else in evaluation mode."""
    member.model.eval()
    for name, module in member.model.named_modules():
        if in_head(name, member.head) or "lora_dropout" in name.split("."):
            module.train()


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _is_plain(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        dilated = module.dilation != (1, 1)
        return module.groups == 1 and not dilated and module.padding_mode == "zeros"
    return type(module) is nn.Linear
