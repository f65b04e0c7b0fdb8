# SPDX-License-Identifier: Apache-2.0
"""timm's image classification models."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fusetune.errors import InvalidValue, WeightsError, unknown_name
from fusetune.members import hub
from fusetune.members.heads import forked_seed
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.timm_checkpoints import configuration_in, download, preprocess_in
from fusetune.members.weights import Weights, read_weights
from fusetune.plugins import missing_extra

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

__all__ = ["Timm"]


@dataclass(frozen=True, kw_only=True)
class Timm(Source):
    """Any model of timm by its name there, with or without a tag: `resnet18`, `vit_tiny_patch16_224.augreg_in21k`.

    `weights: default` are those of the tag (timm's first one without a tag), fetched once into the
    Hugging Face hub's cache. A file, or a folder in the hub's layout (`config.json` with
    `model.safetensors`, as timm's `save_for_hf` writes it and `local-dir:` reads it), takes their
    place. Preprocessing is the tag's, or the folder's own: size, mean, std, interpolation, and the
    share of the image that the crop leaves. Weights of a model for fixed sizes are converted to
    `preprocess: {size}` by timm itself.

    Args:
        arguments: Passed to `timm.create_model` by name (`drop_path_rate`, ...).

    Example:
        >>> Timm(model="resnet18.a1_in1k").member_name
        'timm-resnet18.a1_in1k'
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)

    def files(self) -> tuple[Path, ...]:
        """The weights file, or the files of the folder."""
        folder = self._folder()
        return hub.layout_files(folder) if folder else Source.files(self)

    @classmethod
    def model_names(cls) -> tuple[str, ...]:
        """Those that timm publishes weights for, without their tags."""
        return tuple(_module().list_models(pretrained=True, include_tags=False))

    def own_classes(self) -> tuple[str, ...] | None:
        """The user's, or those in the checkpoint's own configuration."""
        if self.weights == "none" or self.classes or not self._is_published():
            return super().own_classes()
        return tuple(self._configuration().get("label_names") or ()) or None

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports timm."""
        configuration = self._configuration()
        named = configuration.get("label_names") if self._is_published() else None
        check_fields(self, known_classes=bool(named), folders=True)

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or fetch its weights."""
        self.check()
        configuration = self._configuration()
        own = self.own_classes()
        num_outputs = len(own or self.classes or ()) or configuration["num_classes"] or len(classes)
        weights = None
        if pretrained and self.weights != "none":
            weights = self._converted(self._read(configuration), configuration)
        with forked_seed(seed):
            model = self._build(configuration, num_classes=num_outputs)
        found = Pretrained(
            model=model,
            weights=weights,
            classes=own,
            preprocess=self._preprocess(configuration),
            notes=self._notes(configuration),
        )
        return make_member(self, found, classes, seed=seed)

    def portable(self) -> Self:
        """The same with a folder's arguments spelled out, so that the folder may go."""
        return replace(self, arguments=self._arguments())

    def _folder(self) -> Path | None:
        given = self.weights
        return given if isinstance(given, Path) and given.is_dir() else None

    def _is_published(self) -> bool:
        """True for weights that come with a configuration of their own."""
        return self.weights == "default" or self._folder() is not None

    def _configuration(self) -> dict[str, Any]:
        """What timm says of the checkpoint: input, head, where its weights are."""
        timm = _module()
        try:
            known = timm.is_model(self.model)
            entry = timm.get_pretrained_cfg(self.model, allow_unregistered=False)
        except (RuntimeError, ValueError):
            known, entry = False, None
        if not known:
            tags = timm.list_models(f"{self.model.partition('.')[0]}.*", include_tags=True)
            raise unknown_name("model of timm", self.model, tags or timm.list_models())
        if folder := self._folder():
            return configuration_in(folder, self.model, self.member_name)
        if entry is None or (self.weights == "default" and not entry.has_weights):
            raise WeightsError(
                f"timm publishes no weights for '{self.model}'",
                "weights from elsewhere",
                "Name a file or folder in weights:, or write weights: none.",
            )
        return dict(entry.to_dict())

    def _arguments(self) -> dict[str, Any]:
        folder = self._folder()
        stored = dict(hub.read_config(folder).get("model_args", {})) if folder else {}
        stored.pop("num_classes", None)  # the head's affair
        return {**stored, **self.arguments}

    def _preprocess(self, configuration: Mapping[str, Any]) -> Preprocess:
        return (self.preprocess or PreprocessOverride()).apply(preprocess_in(configuration))

    def _notes(self, configuration: Mapping[str, Any]) -> tuple[str, ...]:
        if configuration.get("crop_mode") == "border":
            return ("the checkpoint saw whole images with a border, and sees their center here",)
        return ()

    def _build(
        self, configuration: Mapping[str, Any], *, num_classes: int, pretrained: bool = False
    ) -> "nn.Module":
        arguments = self._arguments()
        if configuration.get("fixed_input_size"):
            arguments["img_size"] = self._preprocess(configuration).size
        try:
            return _module().create_model(
                self.model.partition(".")[0],
                pretrained=pretrained,
                pretrained_cfg=dict(configuration),
                **{**arguments, "num_classes": num_classes},
            )
        except Exception as error:  # what the model's own code makes of its arguments
            given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            raise InvalidValue(
                f"timm could not build '{self.model}' with {given or 'its own arguments'} "
                f"({type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')})",
                "arguments and a size that the model takes",
                "Correct arguments: or preprocess: {size} in the recipe.",
            ) from error

    def _read(self, configuration: Mapping[str, Any]) -> Weights:
        if folder := self._folder():
            return hub.read_folder(folder)
        if isinstance(self.weights, Path):
            return read_weights(self.weights)
        if repository := configuration.get("hf_hub_id"):
            return hub.read_folder(hub.fetch(repository, self.member_name))
        return read_weights(download(configuration["url"], self.member_name))

    def _converted(self, weights: Weights, configuration: dict[str, Any]) -> Weights:
        """The weights under the names and in the shapes of timm's model.

        timm keeps some in the form of their first publication, or for another image size, and
        converts them as it loads them. What it cannot load is left as it is: whoever loads it next
        says what does not fit.
        """
        heads = configuration.get("classifier") or ()
        names = (heads,) if isinstance(heads, str) else tuple(heads)
        rows = [weights.tensors[key] for n in names if (key := f"{n}.weight") in weights.tensors]
        num_outputs = len(rows[0]) if rows else 0
        stored = {**configuration, "num_classes": num_outputs}
        with forked_seed(0):
            plain = self._build(stored, num_classes=num_outputs).state_dict()
            shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
            if all(shapes.get(name) == tensor.shape for name, tensor in plain.items()):
                return weights
            stored |= {"state_dict": dict(weights.tensors), "source": None, "custom_load": False}
            try:
                model = self._build(stored, num_classes=num_outputs, pretrained=True)
            except InvalidValue:
                return weights
        return Weights(weights.path, dict(model.state_dict()), {}, weights.notes)


def _module() -> "ModuleType":
    try:
        import timm
    except ImportError as error:
        raise missing_extra(str(error.name), "vision") from None
    return timm
