# SPDX-License-Identifier: Apache-2.0
"""Image classification models of Hugging Face's transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from fusetune.members.heads import forked_seed
from fusetune.members.image_processors import preprocess_of
from fusetune.members.loading import Pretrained, check_fields, make_member
from fusetune.members.member import Member, Preprocess, PreprocessOverride
from fusetune.members.source import Source
from fusetune.members.transformers_checkpoints import Checkpoint
from fusetune.members.transformers_models import (
    Job,
    build_model,
    flipped,
    interpolate_positions,
    logits_alone,
    quiet,
)

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

    job: ClassVar[Job] = "image classification"

    def files(self) -> tuple[Path, ...]:
        """The files of the folder, or the weights file."""
        return self._checkpoint.files

    def own_classes(self) -> tuple[str, ...] | None:
        """The user's, or the checkpoint's `id2label`."""
        return self._checkpoint.own_classes()

    def check(self) -> None:
        """Find what can be wrong; the first call in a process imports transformers."""
        self._checkpoint.check()

    def load(self, classes: tuple[str, ...], *, pretrained: bool = True, seed: int = 0) -> Member:
        """Build the model, read or fetch its weights and its image processor's settings."""
        self.check()
        checkpoint = self._checkpoint
        config, own = checkpoint.config(), self.own_classes()
        check_fields(self, known_classes=own is not None, folders=True)
        settings = checkpoint.processor()
        preprocess = self._preprocess(settings)
        flips = bool(settings.get("do_flip_channel_order"))
        if not checkpoint.is_published:
            config.num_labels = len(own or self.classes or classes)
        with quiet(), forked_seed(seed):
            weights = checkpoint.read(config) if pretrained and self.weights != "none" else None
            model = build_model(config, checkpoint.job)
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
        return replace(self, weights="none", config=self._checkpoint.spelled_out())

    @property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self, self.config, self.job)

    def _preprocess(self, settings: Mapping[str, Any]) -> Preprocess:
        given = self.preprocess or PreprocessOverride()
        if settings:
            return given.apply(preprocess_of(settings, self.member_name))
        assert given.size and given.mean and given.std
        return given.apply(Preprocess(size=given.size, mean=given.mean, std=given.std))
