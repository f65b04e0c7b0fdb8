# SPDX-License-Identifier: Apache-2.0
"""Image classification models of Hugging Face's transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fusetune.errors import InvalidValue
from fusetune.members import hub
from fusetune.members.heads import forked_seed
from fusetune.members.image_processors import preprocess_of
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.transformers_models import (
    build_model,
    class_names,
    flipped,
    interpolate_positions,
    logits_alone,
    model_config,
    processor_settings,
    quiet,
    renamed,
)
from fusetune.members.weights import Weights, read_weights
from fusetune.plugins import missing_extra

__all__ = ["Transformers"]


@dataclass(frozen=True, kw_only=True)
class Transformers(Source):
    """Any image classification model of transformers, by its repository on the hub: `microsoft/resnet-18`.

    `weights: default` fetches the repository once into the hub's cache. A folder in the hub's layout
    (`config.json`, `model.safetensors`, `preprocessor_config.json`, as `save_pretrained` writes
    them) takes its place; `model` is then only a name. Preprocessing is the checkpoint's own image
    processor's, and its `id2label` names the classes of its head. Code that comes with a repository
    is never run.

    Args:
        config: The architecture, as `config.json` describes it, for a weights file or for
            `weights: none`; null: the folder's, or the repository's.

    Example:
        >>> Transformers(model="microsoft/resnet-18").member_name
        'transformers-microsoft-resnet-18'
    """

    config: Mapping[str, Any] | None = None

    def files(self) -> tuple[Path, ...]:
        """The files of the folder, or the weights file."""
        folder = self._folder()
        return hub.layout_files(folder) if folder else Source.files(self)

    def own_classes(self) -> tuple[str, ...] | None:
        """The user's, or the checkpoint's `id2label`."""
        if self.weights == "none" or self.classes or not self._is_published():
            return super().own_classes()
        return class_names(self._config())

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports transformers."""
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise missing_extra(str(error.name), "text") from None
        folder = self._folder()
        if self.weights == "default" and Path(self.model).expanduser().is_dir():
            raise InvalidValue(
                f"the model '{self.model}' of source transformers is a folder",
                "the name of a repository, or a name of your own for a folder's model",
                f"Write {{source: transformers, model: {Path(self.model).name}, weights: {self.model}}}.",
            )
        if self.config is not None and (folder or self.weights == "default"):
            raise InvalidValue(
                f"'{self.member_name}' has both config and weights that come with their own",
                "config with a weights file, or with weights: none",
                "Leave config out.",
            )
        check_fields(self, known_classes=self._is_published(), folders=True)
        if folder or self.config is not None:
            self._config()

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or fetch its weights and its image processor's settings."""
        self.check()
        config = self._config()
        named, own = self._is_published(), self.own_classes()
        check_fields(self, known_classes=own is not None, folders=True)
        settings = self._processor()
        preprocess = self._preprocess(settings)
        flips = bool(settings.get("do_flip_channel_order"))
        if not named:
            config.num_labels = len(own or self.classes or classes)
        with quiet(), forked_seed(seed):
            weights = self._read(config) if pretrained and self.weights != "none" else None
            model = build_model(config)
        if flips and weights is not None:
            weights = flipped(model, weights)
        if preprocess.size != getattr(config, "image_size", preprocess.size):
            interpolate_positions(model)
        logits_alone(model)
        found = Pretrained(
            model=model,
            weights=weights,
            classes=own,
            preprocess=preprocess,
        )
        return make_member(self, found, classes, seed=seed)

    def portable(self) -> Self:
        """The same with the architecture spelled out, so that folder and repository may go."""
        labels = ("id2label", "label2id")
        content = self.config if self.config is not None else hub.read_config(self._place())
        config = {key: value for key, value in content.items() if key not in labels}
        return replace(self, weights="none", config=config)

    def _is_published(self) -> bool:
        """True for weights that come with a configuration of their own."""
        return self.weights == "default" or self._folder() is not None

    def _folder(self) -> Path | None:
        given = self.weights
        return given if isinstance(given, Path) and given.is_dir() else None

    def _place(self, *, weights: bool = False) -> Path:
        """The folder that describes the model: the user's, or the repository's in the cache."""
        return self._folder() or hub.fetch(self.model, self.member_name, weights=weights)

    def _config(self) -> Any:  # noqa: ANN401 - a class of transformers' own per architecture
        given = self.config if self.config is not None else hub.read_config(self._place())
        return model_config(given, self.member_name)

    def _processor(self) -> dict[str, Any]:
        """Settings of the checkpoint's image processor; it may lack one if the recipe says all."""
        given = self.preprocess or PreprocessOverride()
        place = None if self.config is not None else self._place()
        try:
            return processor_settings(place, self.member_name)
        except InvalidValue:
            if None in (given.size, given.mean, given.std):
                raise
            return {}

    def _preprocess(self, settings: Mapping[str, Any]) -> Preprocess:
        given = self.preprocess or PreprocessOverride()
        if settings:
            return given.apply(preprocess_of(settings, self.member_name))
        assert given.size and given.mean and given.std
        return given.apply(Preprocess(size=given.size, mean=given.mean, std=given.std))

    def _read(self, config: Any) -> Weights:  # noqa: ANN401
        """The checkpoint's tensors under the names that this version of transformers gives them."""
        if isinstance(self.weights, Path) and self._folder() is None:
            return renamed(config, read_weights(self.weights))
        return renamed(config, hub.read_folder(self._place(weights=True)))
