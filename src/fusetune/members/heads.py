# SPDX-License-Identifier: Apache-2.0
"""Find, replace and permute the head of a classifier or a segmenter, whatever its author called it.

The head is found by what it does, not by its name: one batch runs through the model, and from the
logits the autograd graph is followed backward to the nearest linear or convolution layers. Auxiliary
heads (Inception v3, GoogLeNet) and several heads whose outputs are added are found the same way, and
a hidden layer that happens to be as wide as the head is not.

Shapes: N rows, C classes, H W pixels.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusetune.errors import InvalidValue

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "NUM_TRIAL_ROWS",
    "Head",
    "find_head",
    "forked_seed",
    "permute_head",
    "replace_head",
    "trial_logits",
    "trial_outputs",
]

NUM_TRIAL_ROWS = 2
"""Rows of a trial batch: batch norm in training mode refuses a single value per channel."""


@dataclass(frozen=True)
class Head:
    """The layers whose outputs are the logits.

    Args:
        names: Names of the layers in the model's own order; the auxiliary heads among them.
        num_outputs: How many logits a row has.
    """

    names: tuple[str, ...]
    num_outputs: int


@contextlib.contextmanager
def forked_seed(seed: int) -> Iterator[None]:
    """Seed torch's CPU random state inside, and restore the caller's state on leaving.

    Example:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> with forked_seed(0):
        ...     draw = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def find_head(model: "nn.Module", size: int) -> Head:
    """Find the layers that give the logits, by one forward pass of two random images.

    The pass runs in training mode, where auxiliary heads speak; batch-norm statistics, the modules'
    modes and the caller's random state are the same afterwards.

    Args:
        model: Takes (N, 3, H, W) floats and gives (N, C) logits, or (N, C, h, w) maps of them; in
            training mode maybe a tuple of the logits and auxiliary logits.
        size: H = W of the images, in pixels.

    Raises:
        InvalidValue: The model cannot take images of this size, gives no (N, C) logits, or none of
            its linear or convolution layers gives them.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 5))
        >>> find_head(model, 4)
        Head(names=('3',), num_outputs=5)
    """
    import torch

    layers: dict[Any, str] = {}  # node of the autograd graph -> name of the layer that made it
    called: list[str] = []

    def remember(name: str) -> Any:  # noqa: ANN401 - the type of a hook is torch's own affair
        def hook(_module: "nn.Module", _inputs: object, output: "Tensor") -> None:
            called.append(name)
            if output.grad_fn is not None:
                layers.setdefault(output.grad_fn, name)

        return hook

    handles = [
        layer.register_forward_hook(remember(name))
        for name, layer in model.named_modules()
        if _is_layer(layer)
    ]
    try:
        with torch.enable_grad():
            outputs = _logits_of(trial_outputs(model, size, training=True), auxiliary=True)
    finally:
        for handle in handles:
            handle.remove()
    num_outputs = outputs[0].shape[1]
    found = set().union(*(_nearest(output.grad_fn, layers) for output in outputs))
    if not found:  # the graph is cut (no_grad, checkpointing): the layer that was called last
        found = {name for name in called[-1:] if _width(model.get_submodule(name)) == num_outputs}
    if not found or any(_width(model.get_submodule(name)) != num_outputs for name in found):
        raise InvalidValue(
            f"no layer of the model could be identified as the head that gives its {num_outputs} logits",
            "a linear or convolution layer with one output per class at the end",
            "Let the model end in nn.Linear(features, num_classes).",
        )
    order = [name for name, _ in model.named_modules() if name in found]
    return Head(tuple(order), num_outputs)


def trial_logits(model: "nn.Module", size: int) -> "Tensor":
    """Logits of two random images in evaluation mode, (2, C) or (2, C, h, w).

    The model is the same afterwards.

    Raises:
        InvalidValue: As in `find_head`.
    """
    import torch

    with torch.no_grad():
        return _logits_of(trial_outputs(model, size, training=False), auxiliary=False)[0]


def replace_head(model: "nn.Module", head: Head, num_classes: int, *, seed: int) -> None:
    """Put new layers with `num_classes` outputs in place of the head's, in `model` itself.

    Weights are drawn from a normal distribution of standard deviation 0.01 and biases are 0, as in
    AlexNet's last layer (Krizhevsky et al. 2012) and in torchvision's VGG, SqueezeNet and MobileNet:
    the first predictions are close to uniform. The caller's random state is not used; the same seed
    gives the same bits.

    Args:
        model: Changed in place; every layer but the head keeps its identity.
        head: As `find_head` gave it.
        num_classes: C, at least 1.
        seed: Of the new weights.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name in head.names:
        old = model.get_submodule(name)
        with forked_seed(seed):  # torch's own draw, which the next lines replace
            new = _like(old, num_classes)
        weight = torch.empty(new.weight.shape).normal_(0, 0.01, generator=generator)
        with torch.no_grad():
            new.weight.copy_(weight)
            if new.bias is not None:
                new.bias.zero_()
        _set_module(model, name, new.train(old.training))


def permute_head(model: "nn.Module", head: Head, order: Sequence[int]) -> None:
    """Reorder the logits, in `model` itself: output `c` becomes what output `order[c]` was.

    Args:
        model: Changed in place.
        head: As `find_head` gave it.
        order: A permutation of `range(C)`.
    """
    import torch

    assert sorted(order) == list(range(head.num_outputs)), order
    index = torch.as_tensor(list(order))
    for name in head.names:
        layer = model.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(layer.weight[index])
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[index])


def _is_layer(module: "nn.Module") -> bool:
    from torch import nn

    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)


def _width(layer: "nn.Module") -> int:
    from torch import nn

    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _like(old: "nn.Module", num_classes: int) -> "nn.Module":
    """A layer that differs from the old one in its number of outputs only."""
    from torch import nn

    bias = old.bias is not None
    place = {"device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, num_classes, bias=bias, **place)
    kind = nn.Conv2d if isinstance(old, nn.Conv2d) else nn.Conv1d
    if old.groups != 1:
        raise InvalidValue(
            f"the head is a convolution with {old.groups} groups",
            "one group, which any number of classes fits",
            "Let the model end in nn.Linear(features, num_classes).",
        )
    shape = {"stride": old.stride, "padding": old.padding, "dilation": old.dilation}
    return kind(
        old.in_channels,
        num_classes,
        old.kernel_size,
        bias=bias,
        padding_mode=old.padding_mode,
        **shape,
        **place,
    )


def _set_module(model: "nn.Module", name: str, new: "nn.Module") -> None:
    """Replace the module of that name, under every other name that it has, too."""
    old = model.get_submodule(name)
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is old]
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)


def trial_outputs(model: "nn.Module", size: int, *, training: bool) -> object:
    """What the model gives for a batch of random images, leaving no trace in the model.

    Parameters are shared with the model; buffers are copies, so that batch-norm statistics stay. One
    thread: on a busy machine, several wait for each other longer than two rows take.
    """
    import torch

    num_threads = torch.get_num_threads()
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        torch.set_num_threads(1)
        with forked_seed(0):
            images = torch.rand(NUM_TRIAL_ROWS, 3, size, size).requires_grad_() * 1.0
            model.train(training)
            return torch.func.functional_call(model, buffers, (images,))
    except Exception as error:  # whatever the user's own forward() raises
        reason = str(error).strip().splitlines()
        raise InvalidValue(
            f"the model failed on a batch of {NUM_TRIAL_ROWS} images of {size}×{size} pixels "
            f"({type(error).__name__}: {reason[0].rstrip('.') if reason else 'no message'})",
            "a model that takes (N, 3, H, W) floats of this size",
            "Check its forward(), or give a size that it can take: preprocess: {size: 224}.",
        ) from error
    finally:
        torch.set_num_threads(num_threads)
        for module, mode in modes.items():
            module.training = mode


def _logits_of(output: object, *, auxiliary: bool) -> "list[Tensor]":
    """The logits that a model returned, then auxiliary logits, as many for every row."""
    import torch

    entries = list(output) if auxiliary and isinstance(output, tuple) else [output]
    entries = [entry for entry in entries if entry is not None]
    shapes = {(e.ndim, *e.shape[:2]) if isinstance(e, torch.Tensor) else (0, 0, 0) for e in entries}
    ndim, num_rows, *_ = next(iter(shapes)) if len(shapes) == 1 else (0, 0)
    if ndim not in (2, 4) or num_rows != NUM_TRIAL_ROWS:
        mode = "training" if auxiliary else "evaluation"
        raise InvalidValue(
            f"the model gives {_describe(output)} for {NUM_TRIAL_ROWS} images in {mode} mode",
            f"one tensor of logits, of shape ({NUM_TRIAL_ROWS}, number of classes), with height and "
            "width behind them where every pixel has its own",
            "Let forward() return logits only; in training mode a tuple of them may add auxiliary ones.",
        )
    return entries


def _describe(output: object) -> str:
    import torch

    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, tuple):
        return f"({', '.join(_describe(entry) for entry in output)})"
    return type(output).__name__


def _nearest(node: object, layers: Mapping[Any, str]) -> set[str]:
    """Names of the layers that are met first on every way back through the graph."""
    found, seen, waiting = set(), set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in layers:
            found.add(layers[node])
        else:
            waiting += [previous for previous, _ in node.next_functions]  # type: ignore[attr-defined]
    return found
