# SPDX-License-Identifier: Apache-2.0
"""Data sets that torchvision knows by name and downloads."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fusetune.data.dataset import Dataset, Rows
from fusetune.data.inputs import FileImages, Images, PixelImages
from fusetune.data.labels import named_labels
from fusetune.data.pixels import pixels_of_array
from fusetune.errors import DataError, InvalidValue, unknown_name
from fusetune.plugins import missing_extra

__all__ = ["Torchvision"]


@dataclass(frozen=True, kw_only=True)
class Torchvision(Dataset):
    """One split of a data set of torchvision: CIFAR10, CIFAR100, MNIST, SVHN, Food101 and others.

    Those count that give one class per image and keep their images as one array or as files. Ids
    are positions in torchvision's order.

    Args:
        dataset: Name of the class in `torchvision.datasets`.
        root: Folder where its files lie, or are downloaded to.
        split: In the data set's own words (`train`, `test`, ...); null: its own default.
        download: Fetch the files where they are not in `root` yet.

    Raises:
        UnknownName: torchvision has no such data set.
        InvalidValue: The data set has no such split.
        MissingExtra: torchvision is not installed.
    """

    dataset: str
    root: Path
    split: str | None = None
    download: bool = True

    def read(self) -> Rows:
        """All rows of the split; the first call may download."""
        loaded = self._load()
        images, targets = _contents(loaded, self.dataset)
        ids = np.arange(len(images)).astype(str)
        classes = getattr(loaded, "classes", None) or ()
        names = tuple(name if isinstance(name, str) else name[0] for name in classes)
        labels, names = named_labels(targets, ids, names, given=False)
        return Rows(ids, images, labels, classes=names)

    def _load(self) -> Any:  # noqa: ANN401
        datasets = _module()
        known = [name for name in datasets.__all__ if _usable(getattr(datasets, name))]
        if self.dataset not in known:
            raise unknown_name("data set of torchvision", self.dataset, known)
        cls = getattr(datasets, self.dataset)
        arguments = self._arguments(inspect.signature(cls).parameters)
        try:
            return cls(self.root, **arguments)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"the data set {self.dataset} cannot be had in '{self.root}' ({reason})",
                "its files there, as torchvision lays them out, or a network",
                f"Run torchvision.datasets.{self.dataset}(folder, download=True) where there is a "
                "network, copy the folder here, and name it in data.root.",
            ) from error
        except ValueError as error:  # torchvision checks names of splits itself, and lists them
            raise self._no_split(str(error)) from error

    def _arguments(self, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
        """What the data set's constructor takes, of what the recipe says."""
        arguments: dict[str, Any] = {"download": self.download} if "download" in parameters else {}
        if self.split is None:
            return arguments
        if "split" in parameters:
            return arguments | {"split": self.split}
        if "train" not in parameters or self.split not in ("train", "test"):
            raise self._no_split("train or test" if "train" in parameters else "it has no splits")
        return arguments | {"train": self.split == "train"}

    def _no_split(self, reason: str) -> InvalidValue:
        return InvalidValue(
            f"the data set {self.dataset} has no split '{self.split}' ({reason})",
            "one of its own splits",
            "Change data.split, or leave it out.",
        )


def _module() -> ModuleType:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise missing_extra("torchvision", "vision") from error
    return datasets


def _usable(cls: type) -> bool:
    """Whether a root folder is all that the constructor needs."""
    required = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return required == ["root"]


def _contents(loaded: Any, name: str) -> tuple[Images, Sequence[Any]]:  # noqa: ANN401
    """Images and class codes; torchvision's classes keep them under several names."""
    targets = getattr(loaded, "targets", getattr(loaded, "labels", None))
    data = getattr(loaded, "data", None)
    if targets is not None and data is not None and not isinstance(data, list):
        pixels_NHW3 = pixels_of_array(np.asarray(data), f"the data set {name}")
        return PixelImages(pixels_NHW3), np.asarray(targets).tolist()
    paths = getattr(loaded, "_image_files", getattr(loaded, "_images", None))
    codes = getattr(loaded, "_labels", None)
    pairs = getattr(loaded, "samples", getattr(loaded, "_samples", None))
    if pairs is None and paths is not None and codes is not None:
        pairs = list(zip(paths, codes, strict=True))
    if not pairs or not isinstance(pairs[0][0], str | Path):
        raise DataError(
            f"the data set {name} does not keep one class per image in arrays or files",
            "an image classification data set",
            "Save its images in a folder per class, and use the source folder.",
        )
    return FileImages(tuple(Path(pair[0]) for pair in pairs)), [pair[1] for pair in pairs]
