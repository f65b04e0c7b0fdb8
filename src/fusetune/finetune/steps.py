# SPDX-License-Identifier: Apache-2.0
"""Step functions of one member, run in a worker process: named inputs in, files in a folder out."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fusetune.data.prepare import Prepared, load_prepared
from fusetune.errors import InvalidValue, WeightsError
from fusetune.finetune.engine import Engine, Plan, Report, Split
from fusetune.finetune.features import Features, backbone_checksum, check_linear_head, read_about
from fusetune.finetune.objective import Objective
from fusetune.finetune.pixel_cache import Seen, with_pixels
from fusetune.finetune.placing import as_seen, predicted_pieces
from fusetune.finetune.settings import FineTune
from fusetune.finetune.snapshots import WEIGHTS, snapshot_weights
from fusetune.fuse.state_dicts import state_checksum
from fusetune.members.member import Member
from fusetune.members.source import Source
from fusetune.plugins import find
from fusetune.predictions.files import write_prediction, write_prediction_pieces
from fusetune.predictions.kinds import Array
from fusetune.store.artifact import write_json

__all__ = [
    "Finetuned",
    "check_member",
    "finetune_member",
    "member_with",
    "predict_member",
]

CHECKED_ROWS = 200
"""Train rows that stand in for validation rows where the epoch is fixed and all rows train."""


@dataclass(frozen=True)
class Finetuned:
    """What predicting reads of a member.

    Args:
        weights: As fine-tuning wrote them.
        features: Folders of what its checkpoint made of the rows; used if all but the head is still
            as it was.
    """

    weights: Path
    features: tuple[Path, ...] = ()


def check_member(
    source: Source,
    classes: tuple[str, ...],
    objective: Objective[Any],
    finetune: FineTune | None,
    report: Report,
) -> dict[str, Any]:
    """Load a member once, before any work, so that what cannot work is said at once.

    Without `finetune` it is used as it is.

    Returns:
        `notes` of the loading, `parameters` (count), `head_kept` and `bytes` (what fine-tuning
        takes of the memory; None: of a GPU's).
    """
    source.check()
    member = source.load(classes)
    _check_outputs(source, member, objective)
    if finetune is None and not member.head_kept:
        raise WeightsError(
            f"'{source.member_name}' would be used with `finetune: none`, but its head is new",
            f"a checkpoint whose classes are the task's ({', '.join(classes[:6])}, ...)",
            "Fine-tune it, or name the classes of its head with `classes: [...]`.",
        )
    engine = _engine(member)
    parameters = engine.num_parameters(member)
    if finetune is not None:
        engine.check(member, finetune)
        if finetune.solves_head:
            check_linear_head(engine, member)
        _check_crop(source, member, finetune)
    return {
        "notes": list(member.notes),
        "parameters": parameters,
        "head_kept": member.head_kept,
        "bytes": None if finetune is None else engine.finetune_bytes(member, finetune),
    }


def _check_outputs(source: Source, member: Member, objective: Objective[Any]) -> None:
    """Refuse members whose outputs the objective cannot take."""
    if member.gives != objective.takes:
        raise InvalidValue(
            f"'{source.member_name}' gives {member.gives}, and the objective {objective.name} "
            f"takes {objective.takes}",
            f"a source of models that give {objective.takes}",
            "Use mini_detection, torchvision_detection, transformers_detection, or onnx with a decoder, "
            "for task: object_detection, mini_segmentation, torchvision_segmentation or "
            "transformers_segmentation for task: semantic_segmentation, other sources for other tasks.",
        )
    if member.head_kept and not objective.keeps_heads:
        raise InvalidValue(
            f"'{source.member_name}' keeps its checkpoint's head, whose outputs the objective "
            f"{objective.name} cannot take as they are",
            "a new head",
            "Write head: replace.",
        )


def _check_crop(source: Source, member: Member, finetune: FineTune) -> None:
    crop, size = finetune.augmentation.crop, member.preprocess.size
    if crop is not None and crop > size:
        raise InvalidValue(
            f"finetune.augmentation.crop is {crop}, and images of '{source.member_name}' have {size} pixels",
            f"at most {size}",
            "Lower crop, or raise preprocess.size.",
        )


def finetune_member(
    folder: Path,
    source: Source,
    data: Path,
    plan: Plan | None,
    report: Report,
    features: Path | None = None,
) -> tuple[int, int] | None:
    """Fine-tune on train rows and choose the epoch on validation rows; without a plan, neither.

    Args:
        folder: To write into.
        source: The checkpoint.
        data: Folder of the prepared rows.
        plan: What for, and how.
        report: Takes progress events.
        features: Folder of what the checkpoint makes of train and validation rows, for epochs that
            train the head alone.

    Writes:
        `weights.safetensors`, or one file per snapshot; `member.json` with the preprocessing, the head, notes and, of a
        member of a soup, a checksum of the weights it started from; and, if it was fine-tuned,
        `history.json` with the learning curve, the best epoch and the seconds.

    Returns:
        Epochs and steps of the next one after which the plan's budget stopped it, None if it did
        not.
    """
    prepared = load_prepared(data)
    member = source.load(prepared.classes, seed=0 if plan is None else plan.seed_of_start)
    engine = _engine(member)
    start = {}
    if plan is not None and plan.start_seed is not None:
        start["start"] = state_checksum(engine.state(member))
    stopped, snapshots = None, 0
    if plan is not None:
        known, notes = _known(member, features)
        if known is None or not plan.settings.keeps_backbone:
            prepared = with_pixels(prepared, member.preprocess, data, report).prepared
        splits = _splits(member, prepared, known, fixed_epoch=plan.only_epochs is not None)
        history = engine.finetune(member, plan, splits, folder / "work", report)
        history = replace(history, notes=(*history.notes, *notes))
        write_json(folder / "history.json", asdict(history))
        stopped, snapshots = history.stopped, len(history.snapshots)
    for name in map(snapshot_weights, range(1, snapshots + 1)):
        (folder / "work" / name).rename(folder / name)
    if not snapshots:
        engine.save(member, folder / WEIGHTS)
    about = {name: getattr(member, name) for name in ("head", "head_kept", "notes")}
    write_json(folder / "member.json", {**about, "preprocess": asdict(member.preprocess), **start})
    return stopped


def predict_member(
    folder: Path,
    source: Source,
    data: Path,
    made: Finetuned,
    objective: Objective[Any],
    report: Report,
) -> None:
    """Predict the rows of every role but train.

    Args:
        folder: To write into.
        source: The checkpoint.
        data: Folder of the prepared rows.
        made: What fine-tuning wrote.
        objective: Turns outputs into predictions.
        report: Takes progress events.

    Writes:
        `<role>.parquet` (of masks a folder `<role>`) for every such role that has rows, and `cost.json`: `predict_per_row` (mean
        seconds, decoding and features included) and `parameters` (count).
    """
    prepared = load_prepared(data)
    member = member_with(source, prepared.classes, made.weights)
    known = [one for folder in made.features if (one := _known(member, folder)[0]) is not None]
    seen = Seen(prepared) if known else with_pixels(prepared, member.preprocess, data, report)
    seconds, done = 0.0, 0
    for role in prepared.judged_roles:
        rows = prepared.rows(role)
        report({"phase": "predict", "role": role, "done": done / max(1, len(prepared.ids))})
        before = time.perf_counter()
        outputs = _outputs_of_features(member, known, rows)
        ids, path = prepared.ids[rows], folder / f"{role}.parquet"
        if outputs is None:
            images = prepared.images.take(rows), seen.prepared.images.take(rows)
            pieces = predicted_pieces(member, ids, images, objective, report)
            write_prediction_pieces(path, pieces)
            seconds += seen.decode_per_row * len(rows)
        else:
            write_prediction(path, objective.to_prediction(ids, member.classes, outputs))
            seconds += max(one.seconds_per_row for one in known) * len(rows)
        seconds, done = seconds + time.perf_counter() - before, done + len(rows)
    parameters = _engine(member).num_parameters(member)
    cost = {"predict_per_row": seconds / max(1, done), "parameters": parameters}
    write_json(folder / "cost.json", cost)


def _splits(
    member: Member, prepared: Prepared, known: Features | None, *, fixed_epoch: bool
) -> tuple[Split, Split]:
    """Train and validation rows; a fixed epoch is chosen by none, and all rows train."""
    train = prepared.rows("train")
    validation = train[:CHECKED_ROWS] if fixed_epoch else prepared.rows("validation")
    first, second = (
        Split(
            images=prepared.images.take(rows),
            targets=as_seen(prepared.truth.take(rows), member.preprocess),
            features_ND=None if known is None else known.take(rows),
        )
        for rows in (train, validation)
    )
    return first, second


def member_with(source: Source, classes: tuple[str, ...], weights: Path) -> Member:
    """A member with weights that a fine-tuning step wrote."""
    member = source.load(classes, pretrained=False)
    _engine(member).load(member, weights)
    return member


def _outputs_of_features(member: Member, known: Sequence[Features], rows: Array) -> Array | None:
    """Outputs by the head alone; None where the rows' features are not known."""
    for features in known:
        if (features_ND := features.take(rows)) is not None:
            return _engine(member).head_outputs(member, features_ND)
    return None


def _known(member: Member, folder: Path | None) -> tuple[Features | None, tuple[str, ...]]:
    """Features that the member's own weights made, and a note where there could have been some."""
    if folder is None:
        return None, ()
    features = Features.load(folder)
    if features is None:
        return None, (f"features were not kept: {read_about(folder)['why_not']}",)
    if features.backbone != backbone_checksum(_engine(member), member):
        return None, ("features were not used: other weights of the checkpoint made them",)
    return features, ()


def _engine(member: Member) -> Engine:
    return find(Engine, member.engine)()
