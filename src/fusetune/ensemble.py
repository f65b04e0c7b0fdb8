# SPDX-License-Identifier: Apache-2.0
"""An ensemble: members, loaded when they are needed, and the fitted fusion of their predictions."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fusetune.errors import PredictionError, UsageError, name_some
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion
from fusetune.plugins import find
from fusetune.predictions.averages import mean_prediction
from fusetune.predictions.files import write_prediction_pieces
from fusetune.predictions.kinds import Ids, Kind
from fusetune.predictions.segmentation.files import kept_masks
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack, rows_of
from fusetune.store.artifact import write_json
from fusetune.values import build, plain

__all__ = ["Ensemble", "SavedMember"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SavedMember:
    """What it takes to run one member again.

    Args:
        source: The source's settings as plain values, `source` naming the plug-in, `preprocess`
            spelled out; None for a member that came as a prediction file.
        weights: Its weights as safetensors, several of a folded member, whose models' predictions
            are averaged; none likewise.
        file: How the prediction file of such a member was read.
        objectives: Settings of the objective of each of several models, which were fine-tuned on
            other rows; empty: the ensemble's.
    """

    source: Mapping[str, Any] | None = None
    weights: tuple[Path, ...] = ()
    file: Mapping[str, Any] | None = None
    objectives: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several members and how their predictions become one.

    Args:
        classes: The task's class names.
        objective: Settings of the objective that turns outputs into predictions, `objective` naming
            the plug-in; None with files.
        members: Name → saved member.
        fusion: Fitted; only the members that it names run.
    """

    classes: tuple[str, ...]
    objective: Mapping[str, Any] | None
    members: Mapping[str, SavedMember]
    fusion: Fusion[Any]
    _loaded: dict[str, list[Any]] = field(default_factory=dict, repr=False)

    @property
    def gives_masks(self) -> bool:
        """Whether its predictions are masks, which are written as folders."""
        objective = (self.objective or {}).get("objective")
        return self.task == "semantic_segmentation" or objective == "segmentation"

    @property
    def task(self) -> str | None:
        """The task of members that are prediction files; None for models."""
        files = [member.file for member in self.members.values() if member.file]
        return str(files[0]["task"]) if files else None

    def predict(self, inputs: Any) -> Kind:  # noqa: ANN401
        """Fused predictions of new rows.

        Args:
            inputs: A path (a folder of images, an image, a table), a list of paths, an array
                `(N, H, W, 3)` or `(H, W, 3)` of uint8, or a list of Pillow images; for an ensemble
                of prediction files, a mapping of member name → prediction, or the files' paths.

        Returns:
            A prediction of the task's kind, rows in the order given, ids from the paths or the
            rows' positions.
        """
        return self.fusion(self.predict_members(inputs, self.fusion.members))

    def predict_members(
        self,
        inputs: Any,  # noqa: ANN401
        members: Sequence[str] | None = None,
        *,
        keep: Path | None = None,
    ) -> Stack[Any]:
        """Each member's predictions of new rows; by default those of every member.

        Args:
            inputs: See `predict`.
            members: Names; None: all.
            keep: Folder for masks, which are read from there when they are needed; None: they are
                held in memory.

        Raises:
            PredictionError: Members that are prediction files, for which `inputs` is no mapping.
        """
        names = tuple(self.members) if members is None else tuple(members)
        if isinstance(inputs, Mapping):
            return Stack.align(dict(inputs), classes=self.classes).select(names)
        if names and all(self.members[name].file is not None for name in names):
            return self._read(inputs, names)
        absent = [name for name in names if self.members[name].source is None]
        if absent:
            raise PredictionError(
                f"the members {name_some(absent)} were fused from prediction files",
                "their predictions of the new rows",
                "Give prediction files named like these members.",
            )
        from fusetune.data.images_of import images_from

        rows = images_from(inputs)
        predictions = {name: self._predicted(name, rows, keep) for name in names}
        return Stack.align(predictions, classes=self.classes)

    def _predicted(self, name: str, rows: Any, keep: Path | None) -> Any:  # noqa: ANN401
        """What a member predicts: the mean over its models, of which most members have one."""
        from fusetune.finetune.placing import in_full_size, predicted_pieces

        objectives, images = self.members[name].objectives or (self.objective,), rows.images
        predictions: list[Kind] = []
        for settings, model in zip(objectives, self._models(name), strict=True):
            pieces = predicted_pieces(
                model, rows.ids, (images, images), _objective(settings), lambda event: None
            )
            if keep is not None and self.gives_masks:
                predictions.append(_kept(keep / f"{name}-{len(predictions)}", pieces, rows.ids))
                continue
            first, *others = pieces
            predictions.append(type(first).concat([first, *others]))
        return in_full_size(mean_prediction(predictions), images)

    def _read(self, paths: Any, names: Sequence[str]) -> Stack[Any]:  # noqa: ANN401
        from fusetune.predictions.pool import read_members
        from fusetune.predictions.reading import Form
        from fusetune.predictions.truth import KINDS

        assert self.task is not None
        listed = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        files = {name: member.file for name, member in self.members.items() if member.file}
        forms = {name: Form.from_plain(file) for name, file in files.items()}
        kind = KINDS[self.task]
        predictions, features = read_members(listed, forms, kind, self.classes)
        stack = Stack.align(predictions, classes=self.classes, features=features)
        given = [name for name in names if name not in features and forms[name].form != "features"]
        return stack.select(given)

    def save(self, folder: Path) -> None:
        """Write `ensemble.json`, `members/<name>.safetensors` (linked, not copied) and `fusion/`.

        The weights of a folded member's models are `folds/<name>/<number>.safetensors`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_fusion(self.fusion, folder / "fusion")
        (folder / "members").mkdir(exist_ok=True)
        for name, member in self.members.items():
            files = _weight_files(folder, name, len(member.objectives))
            for weights, path in zip(member.weights, files, strict=bool(member.weights)):
                path.parent.mkdir(parents=True, exist_ok=True)
                _link(weights, path)
        write_json(
            folder / "ensemble.json",
            {
                "version": FORMAT_VERSION,
                "classes": list(self.classes),
                "objective": self.objective,
                "members": {name: member.source for name, member in self.members.items()},
                "folds": {
                    name: list(member.objectives)
                    for name, member in self.members.items()
                    if member.objectives
                },
                "files": {
                    name: member.file
                    for name, member in self.members.items()
                    if member.file is not None
                },
            },
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read an ensemble from its folder, or from the run folder that holds it.

        No member is loaded yet, and no torch.

        Raises:
            UsageError: There is no ensemble.
        """
        folder = Path(path)
        if (folder / "ensemble" / "ensemble.json").exists():
            folder = folder / "ensemble"
        if not (folder / "ensemble.json").exists():
            raise UsageError(
                f"there is no ensemble in '{path}'",
                "the folder of a finished run",
                "Run `fusetune run RECIPE --out DIR` first, and give DIR.",
            )
        content = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
        folds, members = content.get("folds", {}), {}
        for name, source in content["members"].items():
            objectives = tuple(folds.get(name, ()))
            weights = _weight_files(folder, name, len(objectives)) if source else ()
            file = content.get("files", {}).get(name)
            members[name] = SavedMember(source, weights, file, objectives)
        fusion = load_fusion(folder / "fusion")
        return cls(tuple(content["classes"]), content["objective"], members, fusion)

    def _models(self, name: str) -> list[Any]:
        if name not in self._loaded:
            from fusetune.finetune.steps import member_with
            from fusetune.members.source import Source

            saved = self.members[name]
            settings = dict(saved.source or {})
            cls = find(Source, settings.pop("source"))
            source = build(cls, settings, f"member '{name}'", Path.cwd())
            self._loaded[name] = [member_with(source, self.classes, path) for path in saved.weights]
        return self._loaded[name]


def _kept(folder: Path, pieces: Iterable[Any], ids: Ids) -> Masks:
    """Masks that are written as they come, and read when they are needed."""
    write_prediction_pieces(folder, pieces)
    masks = kept_masks(folder)
    return masks.take(rows_of(masks.ids, ids))


def _objective(settings: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
    from fusetune.finetune.objective import Objective

    assert settings is not None  # there are no models without
    others = dict(settings)
    cls = find(Objective, others.pop("objective"))
    return build(cls, others, "the objective", Path.cwd())


def _weight_files(folder: Path, name: str, num_folds: int) -> tuple[Path, ...]:
    """Where an ensemble keeps a member's weights: one file, or one per fold."""
    if not num_folds:
        return (folder / "members" / f"{name}.safetensors",)
    return tuple(folder / "folds" / name / f"{k + 1}.safetensors" for k in range(num_folds))


def saved_source(source: Any, preprocess: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """A source's settings for `SavedMember`: its weights file is not needed again."""
    from fusetune.members.member import PreprocessOverride

    said = {key: preprocess[key] for key in vars(PreprocessOverride()) if key in preprocess}
    settings = {"source": source.name, **plain(source), "preprocess": said}
    if settings["weights"] != "default":
        settings |= {"weights": "none", "head": "auto"}  # `keep` would ask for the weights' own
    return settings


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
