# SPDX-License-Identifier: Apache-2.0
"""The user's own network, by import path."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusetune.errors import InvalidValue, WeightsError
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess
from fusetune.members.source import Source
from fusetune.members.user_code import check_import_path, importable, load_object, local_files
from fusetune.members.weights import read_weights

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Module"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Module(Source):
    """Your own `nn.Module`: a class, or a function that builds one, by import path.

    `model: my_nets.resnet20` calls `resnet20` of `my_nets.py` in the recipe's folder (or of an
    installed package). If it takes an argument `num_classes`, it is called with the number of
    `classes` (those of the checkpoint), or with that of the task's where they are not given.

    `weights` must be a file, or `none`. `preprocess: {size}` must be given; `mean` and `std` are
    ImageNet's unless given (Deng et al. 2009, as most published weights use them), images are
    resized so that their shorter side fits, and cropped to the center.

    Args:
        arguments: Passed to the class or function by name.
        import_from: Folder in which its module is looked for first.

    Example:
        >>> Module(model="my_nets.resnet20", weights=Path("resnet20.safetensors")).member_name
        'module-my_nets.resnet20'
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    import_from: Path = Path()

    def files(self) -> tuple[Path, ...]:
        """The weights, and the Python files of the folder that building the model runs."""
        return (*Source.files(self), *local_files(self.model, self.import_from))

    def check(self) -> None:
        """Find what can be wrong without importing torch or running the user's code."""
        if self.weights == "default":
            raise WeightsError(
                f"'{self.member_name}' has no weights",
                "a file: a network of your own has no default weights",
                "Add weights: path/to/file.safetensors, or weights: none to train from scratch.",
            )
        if self.preprocess is None or self.preprocess.size is None:
            raise InvalidValue(
                f"'{self.member_name}' does not say how large its images are",
                "preprocess with a size, the side in pixels that the network was trained at",
                "Add preprocess: {size: 32}, with mean and std unless they are ImageNet's.",
            )
        check_fields(self)
        check_import_path(self.model, self.import_from)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Import the user's code, call it, and load the weights into what it gives."""
        self.check()
        reads = pretrained and isinstance(self.weights, Path)
        model = self._build(len(self.classes or classes), seed)
        assert self.preprocess is not None and self.preprocess.size is not None
        own = Preprocess(size=self.preprocess.size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        found = Pretrained(
            model=model,
            weights=read_weights(Path(self.weights)) if reads else None,
            classes=self.classes if self.weights != "none" else None,
            preprocess=self.preprocess.apply(own),
        )
        return make_member(self, found, classes, seed=seed)

    def _build(self, num_classes: int, seed: int) -> "nn.Module":
        from torch import nn

        with importable(self.import_from):
            build = load_object(self.model, self.import_from)
            if isinstance(build, nn.Module) or not callable(build):
                raise _not_a_network(self.model, build, "is")
            arguments = dict(self.arguments)
            if _takes(build, "num_classes"):
                arguments.setdefault("num_classes", num_classes)
            try:
                with forked_seed(seed):
                    model = build(**arguments)
            except Exception as error:
                given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
                raise InvalidValue(
                    f"{self.model}({given}) failed ({type(error).__name__}: {error})",
                    "a function or class that builds the network from these arguments",
                    "Correct it, or the arguments: in the recipe.",
                ) from error
        if not isinstance(model, nn.Module):
            raise _not_a_network(self.model, model, "gives")
        return model


def _takes(build: Any, name: str) -> bool:  # noqa: ANN401 - any callable of the user's
    try:
        return name in inspect.signature(build).parameters
    except (TypeError, ValueError):  # built-in callables show no signature
        return False


def _not_a_network(path: str, found: object, verb: str) -> InvalidValue:
    return InvalidValue(
        f"{path} {verb} {type(found).__name__}",
        "a class, or a function, that builds a torch.nn.Module",
        "Name one that returns the network, without weights in it.",
    )
