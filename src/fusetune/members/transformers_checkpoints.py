# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of transformers: a folder in the hub's layout, a repository, or a configuration alone.

What the sources of its models for different jobs share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusetune.errors import InvalidValue
from fusetune.members import hub
from fusetune.members.loading import check_fields
from fusetune.members.member import PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.transformers_models import (
    Config,
    Job,
    class_names,
    model_config,
    processor_settings,
    renamed,
)
from fusetune.members.weights import Weights, read_weights
from fusetune.plugins import missing_extra

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What a source names.

    Args:
        source: Whose `weights` say where it is.
        given: The source's `config`: the architecture, where no folder or repository says it.
        job: What the model is for.
    """

    source: Source
    given: Mapping[str, Any] | None
    job: Job

    @property
    def is_published(self) -> bool:
        """True for weights that come with a configuration of their own."""
        return self.source.weights == "default" or self.folder is not None

    @property
    def folder(self) -> Path | None:
        """The user's folder; None: weights are a file, fetched, or none."""
        given = self.source.weights
        return given if isinstance(given, Path) and given.is_dir() else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the folder, or the weights file."""
        return hub.layout_files(self.folder) if self.folder else Source.files(self.source)

    def own_classes(self) -> tuple[str, ...] | None:
        """The user's, or the checkpoint's `id2label`."""
        source = self.source
        if source.weights == "none" or source.classes or not self.is_published:
            return Source.own_classes(source)
        return class_names(self.config())

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports transformers."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise missing_extra(str(error.name), "text") from None
        model, name = self.source.model, self.source.name
        if self.source.weights == "default" and Path(model).expanduser().is_dir():
            raise InvalidValue(
                f"the model '{model}' of source {name} is a folder",
                "the name of a repository, or a name of your own for a folder's model",
                f"Write {{source: {name}, model: {Path(model).name}, weights: {model}}}.",
            )
        if self.given is not None and self.is_published:
            raise InvalidValue(
                f"'{self.source.member_name}' has both config and weights that come with their own",
                "config with a weights file, or with weights: none",
                "Leave config out.",
            )
        check_fields(self.source, known_classes=self.is_published, folders=True)
        if self.folder or self.given is not None:
            self.config()

    def content(self) -> Mapping[str, Any]:
        """What `config.json` holds."""
        return self.given if self.given is not None else hub.read_config(self._place())

    def config(self) -> Config:
        """The architecture."""
        return model_config(self.content(), self.source.member_name, self.job)

    def spelled_out(self) -> dict[str, Any]:
        """The architecture for `config`, without class names, so that folder and repository may go."""
        labels = ("id2label", "label2id")
        return {key: value for key, value in self.content().items() if key not in labels}

    def processor(self) -> dict[str, Any]:
        """Settings of the checkpoint's image processor; it may lack one if the recipe says all."""
        given = self.source.preprocess or PreprocessOverride()
        place = None if self.given is not None else self._place()
        try:
            return processor_settings(place, self.source.member_name)
        except InvalidValue:
            if None in (given.size, given.mean, given.std):
                raise
            return {}

    def read(self, config: Config) -> Weights:
        """Its tensors under the names that this version of transformers gives them."""
        given = self.source.weights
        if isinstance(given, Path) and self.folder is None:
            return renamed(config, read_weights(given), self.job)
        return renamed(config, hub.read_folder(self._place(weights=True)), self.job)

    def _place(self, *, weights: bool = False) -> Path:
        """The folder that describes the model: the user's, or the repository's in the cache."""
        source = self.source
        return self.folder or hub.fetch(source.model, source.member_name, weights=weights)
