# SPDX-License-Identifier: Apache-2.0
"""What a detector is, and how its weights become a member.

A detector is a module with `forward(images, objects=None)`: normalized `(B, 3, H, W)` floats, and
`(B, K, 6)` true objects (left, top, right, bottom as shares of the image, class or -1 for none,
whether ignored). Given objects it returns its `(L,)` losses, each a mean over the batch; without
any, in training mode those of images without objects, and in evaluation mode `(B, D, 6)` detections:
left, top, right, bottom as shares, score, class or -1 for none.

Shapes: B rows of a batch, K objects, D detections, L losses, C classes, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusetune.errors import InvalidValue, name_some
from fusetune.members.heads import NUM_TRIAL_ROWS, trial_outputs
from fusetune.members.member import Member, Preprocess
from fusetune.members.source import Source
from fusetune.members.weights import Weights, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NUM_DETECTIONS", "Detector", "check_preprocess", "make_detector", "train_objects"]

NUM_DETECTIONS = 100
"""Of an image at most: what COCO's evaluation counts of a class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A detector as a source built it for the task's classes.

    Args:
        model: Built, its weights not yet loaded.
        part: Name of the module in it that the weights are of; "" for all of it.
        weights: To be loaded; None: it stays as it was built.
        classes: Class names of the weights, in order; None: not known.
        preprocess: Its own, overrides applied.
        class_layers: Names of the layers in the part whose width is the number of classes.
        head: Names of the modules of the model that make up its head.
        notes: What the user should know of the building.
    """

    model: "nn.Module"
    part: str = ""
    weights: Weights | None
    classes: tuple[str, ...] | None
    preprocess: Preprocess
    class_layers: tuple[str, ...]
    head: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make_detector(source: Source, built: Detector, classes: Sequence[str]) -> Member:
    """Load the weights, keep their class layers or leave the new ones, and try two images.

    Args:
        source: What the recipe says: `head`, and the names for messages.
        built: What the source built; its model is changed in place.
        classes: The task's class names.

    Raises:
        InvalidValue: `head: keep` with other classes or another order than the task's, or a model
            that takes no images of this size.
        WeightsError: Weights that do not fit the model.
    """
    notes, kept = list(built.notes), False
    if built.weights is not None:
        kept = _keeps_classes(source, built.classes, classes)
        net = built.model.get_submodule(built.part)
        fresh = _states(net, built.class_layers)
        head = built.class_layers
        notes += load_weights(net, built.weights, head=head, keep_head=kept)
        if not kept:
            for name, state in fresh.items():
                net.get_submodule(name).load_state_dict(state)
    if not kept:
        notes.append(f"new head for {len(classes)} classes: {', '.join(built.class_layers)}")
    _check_outputs(source, built, len(classes))
    return Member(
        model=built.model,
        engine=source.engine,
        classes=tuple(classes),
        preprocess=built.preprocess,
        head=built.head,
        head_kept=kept,
        notes=tuple(notes),
        gives="detections",
    )


def check_preprocess(source: Source, preprocess: Preprocess) -> None:
    """Refuse preprocessing after which shares of the image would be others.

    Raises:
        InvalidValue: Names the key.
    """
    resized = (preprocess.resize or preprocess.size) != preprocess.size
    cropped = not preprocess.letterbox and (resized or not preprocess.squash)
    views = ("test_flip", "test_shift", "test_scales", "test_window")
    seen_twice = [name for name in views if getattr(preprocess, name)]
    if cropped or seen_twice:
        key = seen_twice[0] if seen_twice else "resize or squash: false"
        raise InvalidValue(
            f"'{source.member_name}' has preprocess.{key}",
            "the whole image once, resized to a square or letterboxed: objects have places in it",
            "Leave it out.",
        )


def train_objects(images: "Tensor", objects: "Tensor | None", *, training: bool) -> "Tensor | None":
    """The objects that a detector computes losses of; None: it is to detect."""
    if objects is None and training:
        return images.new_full((len(images), 1, 6), -1.0)
    return objects


def _keeps_classes(source: Source, own: Sequence[str] | None, classes: Sequence[str]) -> bool:
    if source.head == "replace" or own is None:
        return False
    if tuple(own) == tuple(classes):
        return True
    if source.head == "keep":
        raise InvalidValue(
            f"the head of '{source.member_name}' cannot be kept: its classes are "
            f"{name_some(own)}, and the task's are {name_some(classes)}",
            "the task's classes, in the same order",
            "Write head: replace, or correct classes: [...].",
        )
    return False


def _states(net: "nn.Module", layers: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    return {
        name: {key: value.clone() for key, value in net.get_submodule(name).state_dict().items()}
        for name in layers
    }


def _check_outputs(source: Source, built: Detector, num_classes: int) -> None:
    """Refuse a model that does not detect in images of its size."""
    import torch

    with torch.no_grad():
        outputs: Any = trial_outputs(built.model, built.preprocess.size, training=False)
    shape = tuple(getattr(outputs, "shape", ()))
    labels = outputs[..., 5] if len(shape) == 3 and shape[0] == NUM_TRIAL_ROWS else None
    assert labels is not None and shape[2] == 6, (source.member_name, shape)
    assert -1 <= float(labels.min()) <= float(labels.max()) < num_classes
