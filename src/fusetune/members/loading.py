# SPDX-License-Identifier: Apache-2.0
"""From a built model and its weights to a member: what all sources of torch models share."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusetune.errors import InvalidValue, counted, name_some
from fusetune.members.heads import (
    Head,
    find_head,
    permute_head,
    replace_head,
    trial_logits,
)
from fusetune.members.hub import weights_files
from fusetune.members.member import Gives, Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.weights import Weights, check_weights, has_head, load_weights
from fusetune.plugins import missing_extra

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Pretrained",
    "check_backbone",
    "check_classes",
    "check_fields",
    "known_classes",
    "make_member",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """A model as a source found it, with the head of its checkpoint.

    Args:
        model: Built, its weights not yet loaded.
        weights: To be loaded into it; None: it stays as it was built.
        classes: Class names of its head, in order; None: not known.
        preprocess: Its own, overrides applied.
        notes: What the user should know of the building.
    """

    model: "nn.Module"
    weights: Weights | None
    classes: tuple[str, ...] | None
    preprocess: Preprocess
    notes: tuple[str, ...] = ()


def check_fields(source: Source, *, known_classes: bool = False, folders: bool = False) -> None:
    """Refuse fields of a source that contradict each other or name a file that is no weights file.

    Nothing heavy is imported.

    Args:
        source: Any source of torch models.
        known_classes: True if the source itself knows the class names of its checkpoint.
        folders: True if the weights may be a folder in the hub's layout.

    Raises:
        MissingExtra: torch or safetensors is not installed.
        InvalidValue: Repeated classes, or `head: keep` with nothing to keep.
        WeightsError: The weights file cannot be one.
    """
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "torch")
    check_classes(source)
    if source.head == "keep" and source.weights == "none":
        raise InvalidValue(
            f"'{source.member_name}' has head: keep and weights: none",
            "weights that come with a head",
            "Give weights, or write head: replace.",
        )
    if source.head == "keep" and source.classes is None and not known_classes:
        raise InvalidValue(
            f"'{source.member_name}' has head: keep but no classes",
            "the class names of the checkpoint's head, in its order",
            "Add classes: [...], or write head: replace.",
        )
    if isinstance(source.weights, Path):
        is_folder = folders and source.weights.is_dir()
        for path in weights_files(source.weights) if is_folder else (source.weights,):
            check_weights(path)


def check_classes(source: Source) -> None:
    """Refuse a class that is named twice."""
    repeated = [name for name, times in Counter(source.classes or ()).items() if times > 1]
    if repeated:
        raise InvalidValue(
            f"classes of '{source.member_name}' names {name_some(repeated)} more than once",
            "one name per output of the checkpoint's head",
            "Give every class its own name.",
        )


def known_classes(source: Source, classes: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The task's classes that a checkpoint knows by its own names for them, and notes on the others.

    Raises:
        InvalidValue: None of them.
    """
    own = source.classes or ()
    kept = tuple(name for name in classes if name in own)
    if not kept:
        raise InvalidValue(
            f"'{source.member_name}' knows none of the task's classes: {name_some(classes)}",
            f"some of its own: {name_some(own)}",
            "Correct classes: [...], or leave the member out.",
        )
    notes = []
    if absent := [name for name in classes if name not in kept]:
        notes.append(f"does not know {name_some(absent)}")
    if others := len(own) - len(kept):
        notes.append(f"{counted(others, 'class')} of its own left out: not the task's")
    return kept, notes


def check_backbone(source: Source, backbone: Path | None) -> None:
    """Refuse a file of a backbone's weights that is none, or that stands beside whole weights.

    Raises:
        InvalidValue: `weights` is given too.
        WeightsError: The file cannot be one of weights.
    """
    if backbone is None:
        return
    if source.weights != "none":
        raise InvalidValue(
            f"'{source.member_name}' has weights and a backbone",
            "one of them: the weights bring a backbone of their own",
            "Write weights: none, or leave backbone out.",
        )
    check_weights(backbone)


def make_member(
    source: Source, pretrained: Pretrained, classes: Sequence[str], *, seed: int
) -> Member:
    """Load the weights, keep or replace the head, and make sure of one logit per task class.

    Args:
        source: What the recipe says: `head`, and the names for messages.
        pretrained: What the source found; its model is changed in place.
        classes: The task's class names.
        seed: Of a new head.

    Raises:
        InvalidValue: `head: keep` with other classes than the task's, or a model that takes no
            images of this size or gives no logits.
        WeightsError: Weights that do not fit the model.
    """
    model, weights, size = pretrained.model, pretrained.weights, pretrained.preprocess.size
    head = find_head(model, size)
    _check_width(source, pretrained, head)
    order = _order(source, pretrained.classes, classes)
    notes = list(pretrained.notes)
    if weights is not None:
        keep = order is not None
        if keep and source.head == "auto":
            keep = has_head(model, weights, head.names)
        notes += load_weights(model, weights, head=head.names, keep_head=keep)
        order = order if keep else None
    if order is None:
        replace_head(model, head, len(classes), seed=seed)
        notes.append(f"new head for {len(classes)} classes: {', '.join(head.names)}")
    elif weights is not None:
        permute_head(model, head, order)
    logits = trial_logits(model, size)
    notes += _check_logits(logits, len(classes))
    gives: Gives = "maps" if logits.ndim == 4 else "logits"
    return Member(
        model=model,
        engine=source.engine,
        classes=tuple(classes),
        preprocess=_preprocess_of(source, pretrained.preprocess, gives),
        head=head.names,
        head_kept=order is not None,
        notes=tuple(notes),
        gives=gives,
    )


def _check_width(source: Source, pretrained: Pretrained, head: Head) -> None:
    if pretrained.classes is not None and len(pretrained.classes) != head.num_outputs:
        raise InvalidValue(
            f"'{source.member_name}' names {len(pretrained.classes)} classes, and its head has "
            f"{head.num_outputs} outputs",
            "one class name per output",
            "Correct classes: [...], in the order of the checkpoint's outputs.",
        )


def _order(
    source: Source, own: Sequence[str] | None, classes: Sequence[str]
) -> tuple[int, ...] | None:
    """For every task class its place in the checkpoint's head; None: the head is replaced."""
    if source.head == "replace" or source.weights == "none" or own is None:
        return None
    if sorted(own) == sorted(classes):
        return tuple(own.index(name) for name in classes)
    if source.head == "auto":
        return None
    lacking, besides = sorted(set(classes) - set(own)), sorted(set(own) - set(classes))
    differences = [f"lacks {name_some(lacking)}"] if lacking else []
    differences += [f"has {name_some(besides)} besides"] if besides else []
    raise InvalidValue(
        f"the head of '{source.member_name}' cannot be kept: it "
        f"{' and '.join(differences) or 'names a class more than once'}",
        "the task's classes, in any order",
        "Write head: replace, or correct classes: [...].",
    )


def _preprocess_of(source: Source, own: Preprocess, gives: Gives) -> Preprocess:
    """For maps the whole image in a square; refuse views that outputs of this form do not have."""
    given = source.preprocess or PreprocessOverride()
    if gives == "maps":
        keys: dict[str, Any] = {
            "resize": given.resize,
            "squash: false": given.squash is False,
            "test_shift": own.test_shift,
            "letterbox": own.letterbox,
        }
        remedy = "the whole image, resized to a square: its pixels have places in it"
    else:
        keys = {"test_scales": own.test_scales, "test_window": own.test_window}
        remedy = "views of whole images: these are for models that say something of every pixel"
    if wrong := [key for key, value in keys.items() if value]:
        raise InvalidValue(
            f"'{source.member_name}' has preprocess.{wrong[0]}", remedy, "Leave it out."
        )
    return replace(own, resize=None, squash=True, dense=True) if gives == "maps" else own


def _check_logits(logits: "Tensor", num_classes: int) -> list[str]:
    """Notes on what the finished model gives; refuses any other number of logits."""
    if logits.shape[1] != num_classes:
        raise InvalidValue(
            f"with a head for {num_classes} classes the model still gives {logits.shape[1]} logits",
            "one logit per class",
            "Let forward() return what the last layer gives, without fixed numbers of classes.",
        )
    looks_like_probabilities = (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-4
    if looks_like_probabilities and num_classes > 1:
        return [
            "the model seems to end in a softmax (its outputs sum to 1): "
            "let it return logits, or training will be slow and probabilities too even"
        ]
    return []
