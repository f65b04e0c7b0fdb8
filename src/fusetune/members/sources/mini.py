# SPDX-License-Identifier: Apache-2.0
"""Small pretrained networks that come with the package."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fusetune.errors import unknown_name
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.weights import check_weights, read_metadata, read_weights

__all__ = ["Mini"]


@dataclass(frozen=True, kw_only=True)
class Mini(Source):
    """Three small networks whose pretrained weights are in the package: no network access needed.

    For the demo, for tests and for small images such as scanned digits: they are fine-tuned in
    seconds on a CPU. `resnet`, `vgg` and `inception` are of the families that their names say, and
    were pretrained on rendered letters and symbols (no digits) at 16×16 pixels.

    Example:
        >>> Mini(model="vgg").member_name
        'mini-vgg'
        >>> Mini(model="resnet", weights="none").check()
    """

    def files(self) -> tuple[Path, ...]:
        """The weights file: the user's, or the package's own."""
        path = self._weights_path()
        return () if self.weights == "none" else (path,)

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """The networks in the package."""
        return tuple(sorted(path.stem for path in _folder().glob("*.safetensors")))

    def own_classes(self) -> tuple[str, ...] | None:
        """The letters and symbols of the package's weights, or what the user's file says."""
        if self.weights == "none":
            return None
        return self.classes or self._settings().get("classes")

    def check(self) -> None:
        """Find what can be wrong, without importing torch."""
        if self.model not in self.model_names():
            raise unknown_name("model of source mini", self.model, self.model_names())
        check_fields(self, known_classes=True)
        check_weights(self._weights_path())

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the network and load its weights; size, mean and std come from the file."""
        self.check()
        from fusetune.members import mini_nets

        settings = {} if self.weights == "none" else self._settings()
        preprocess = Preprocess(
            size=settings.get("size", mini_nets.SIZE),
            mean=tuple(settings.get("mean", mini_nets.MEAN)),
            std=tuple(settings.get("std", mini_nets.STD)),
        )
        own = self.classes or settings.get("classes")
        with forked_seed(seed):
            model = mini_nets.build(self.model, len(own or classes))
        reads = pretrained and self.weights != "none"
        found = Pretrained(
            model=model,
            weights=read_weights(self._weights_path()) if reads else None,
            classes=own,
            preprocess=(self.preprocess or PreprocessOverride()).apply(preprocess),
        )
        return make_member(self, found, classes, seed=seed)

    def _settings(self) -> dict[str, Any]:
        """What the weights file says of itself."""
        metadata = read_metadata(self._weights_path())
        settings = {name: json.loads(text) for name, text in metadata.items() if name != "recipe"}
        if "classes" in settings:
            settings["classes"] = tuple(settings["classes"])
        return settings

    def _weights_path(self) -> Path:
        """The user's file, or the package's own."""
        given = self.weights
        return given if isinstance(given, Path) else _folder() / f"{self.model}.safetensors"


def _folder() -> Path:
    return Path(str(resources.files("fusetune.members"))) / "mini_weights"
