# SPDX-License-Identifier: Apache-2.0
"""Interface of a source: where pretrained models come from."""

import abc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from fusetune.members.member import Member, PreprocessOverride
from fusetune.plugins import plugin_name

__all__ = ["Source"]


@dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """A pretrained model by name. Plug-ins are frozen, keyword-only dataclasses that add fields.

    Args:
        model: Name of the model, in the source's own words.
        weights: `default` (the source's pretrained weights), `none` (random initialization), or a
            file: safetensors, or a checkpoint that `torch.load(weights_only=True)` reads. Sources
            of the Hugging Face hub's models take a folder in its layout, too.
        classes: Class names of the checkpoint's head, in its order; None: the source's own, if it
            knows them.
        head: `replace` puts a new head on for the task's classes, `keep` keeps the checkpoint's,
            `auto` keeps it when its class names equal the task's as a set (permuted to match).
        preprocess: Replaces parts of the checkpoint's own preprocessing.
    """

    model: str
    weights: Literal["default", "none"] | Path = "default"
    classes: tuple[str, ...] | None = None
    head: Literal["auto", "keep", "replace"] = "auto"
    preprocess: PreprocessOverride | None = None

    engine: ClassVar[str] = "torch"

    @property
    def name(self) -> str:
        """Name of the source in recipes: the plug-in's file."""
        return plugin_name(type(self))

    @property
    def member_name(self) -> str:
        """Default name of the member, safe as a file name: `torchvision-resnet18`."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.name}-{self.model}").strip("-.")

    def files(self) -> tuple[Path, ...]:
        """Files whose content decides what `load` gives; a change in them redoes the member."""
        return (self.weights,) if isinstance(self.weights, Path) else ()

    def portable(self) -> Self:
        """The same with all spelled out that building the modules reads from elsewhere.

        Fine-tuned weights can then be loaded where those files, or the network, are gone. Most
        sources have it all in their fields, and give themselves.
        """
        return self

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """Names that `model` can take, for patterns like `mini:*`; empty where nobody knows them."""
        return ()

    def own_classes(self) -> tuple[str, ...] | None:
        """Class names of the checkpoint's own head; None: not known, or nothing was pretrained."""
        return None if self.weights == "none" else self.classes

    @abc.abstractmethod
    def check(self) -> None:
        """Find what can be wrong without loading the model, in well under a second per member.

        Raises:
            UnknownName: The source has no such model.
            InvalidValue: Fields that contradict each other, or a size the model cannot take.
            WeightsError: A weights file that is not there, or is none.
            MissingExtra: The source's package is not installed.
        """

    @abc.abstractmethod
    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Load the model with a head for these classes, in their order.

        Args:
            classes: The task's class names.
            pretrained: False builds the same modules without reading or downloading weights, for
                fine-tuned weights that are loaded next.
            seed: Of a new head and of `weights: none`; the caller's random state stays untouched.

        Raises:
            WeightsError: Weights that cannot be read, fetched, or do not fit the model.
            InvalidValue: `head: keep` with other classes, or a model that is no classifier.
        """
