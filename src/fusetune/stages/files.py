# SPDX-License-Identifier: Apache-2.0
"""Stages of a run that was given prediction files: what stands in for fine-tuned members.

Shapes: N rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fusetune.calibrate.calibrator import Calibrator
from fusetune.ensemble import Ensemble, SavedMember
from fusetune.errors import InvalidValue, PredictionError, UsageError, name_some
from fusetune.evaluate.judge import Judge
from fusetune.evaluate.side_by_side import look_side_by_side
from fusetune.evaluate.verdict import Judged, VerdictRule
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric, check_kind
from fusetune.plugins import find
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.files import write_prediction
from fusetune.predictions.folds import stratified_share
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities, Values
from fusetune.predictions.pool import Pool
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.published import link_masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import GroundTruth
from fusetune.recipe import DEFAULT_CALIBRATOR, Fuse
from fusetune.stages.fusion import chosen_fusion, publish_results
from fusetune.stages.mask_pictures import save_mask_pictures
from fusetune.store.artifact import Artifact
from fusetune.store.experiment import Experiment
from fusetune.task import Task

__all__ = [
    "division",
    "ensemble_of_files",
    "file_entries",
    "fuse_settings",
    "judge_of_files",
    "judged_notes",
    "publish_files",
    "task_of",
]

TASKS: dict[type[Kind], str] = {
    Probabilities: "classification",
    Marginals: "multilabel",
    Values: "regression",
    Boxes: "object_detection",
    Masks: "semantic_segmentation",
}
ROLES = ("train", "validation", "holdout", "test")


def task_of(pool: Pool) -> Task:
    """The task that the targets pose."""
    return find(Task, TASKS[pool.truth.kind])()


def fuse_settings(
    pool: Pool, task: Task, names: Sequence[str], calibrate: str, calibrate_members: str
) -> Fuse:
    """What is fitted, chosen and calibrated.

    `auto` and `best` choose among the methods named. With neither, one method is the answer, and
    several are what `auto` blends. With no method, the task's own are fitted.

    Args:
        pool: Says which members are labels or scores, which their form has calibrated.
        task: Says which methods are fitted by default.
        names: `auto`, `best` and methods.
        calibrate: Calibrator of the chosen fusion, or `none`.
        calibrate_members: Calibrator of every member, or `none`.

    Raises:
        InvalidValue: A member is called like a method, or a calibrator does not take the kind.
    """
    listed = [name for name in names if name not in ("auto", "best")]
    choosing = [name for name in names if name in ("auto", "best")]
    by_form = (
        {"labels": "confusion", "scores": "vector"} if pool.truth.kind is Probabilities else {}
    )
    fuse = Fuse(
        methods={name: find(FusionMethod, name)() for name in listed or _usual(pool, task)},
        choose=(choosing or (listed if len(listed) == 1 else ["auto"]))[0],
        calibrate=_calibrator(calibrate, pool),
        calibrate_members=_calibrator(calibrate_members, pool),
        member_calibrators={
            name: find(Calibrator, by_form[form.form])()
            for name, form in pool.forms.items()
            if form.form in by_form
        },
    )
    fuse.check_names(pool.stack.members)
    return fuse


def _usual(pool: Pool, task: Task) -> list[str]:
    """The task's methods, without those that take no quantiles where members give such."""
    quantiles = _gives_quantiles(pool)
    return [name for name in task.methods if find(FusionMethod, name).quantiles or not quantiles]


def _gives_quantiles(pool: Pool) -> bool:
    return any(form.form == "quantiles" for form in pool.forms.values())


def _calibrator(name: str, pool: Pool) -> Calibrator[Any] | None:
    """The calibrator of that name; None for `none`, and where it does not take the kind."""
    if name == "none":
        return None
    calibrator = find(Calibrator, name)()
    if pool.truth.kind in calibrator.accepts:
        return calibrator
    if name == DEFAULT_CALIBRATOR:
        return None
    raise InvalidValue(
        f"the calibrator '{name}' calibrates no {pool.truth.kind.__name__}",
        "one that does",
        "Leave it out.",
    )


def judge_of_files(
    pool: Pool, task: Task, metric: str | None, holdout: float | None, seed: int
) -> Judge:
    """Divide the rows into those that fit the fusion and those that judge it.

    Args:
        pool: Aligned predictions and targets.
        task: Says what is scored.
        metric: What decides; None: the task's default, or `pinball` for quantiles.
        holdout: Share of the rows, of each stratum, that fits; 1: all rows do both, in-sample;
            None: the targets' roles, or cross-fitting where they have none.
        seed: Of the division.

    Raises:
        UsageError: An impossible share, roles without a holdout, or a metric that has no value on
            some role's rows.
    """
    quantiles = _gives_quantiles(pool)
    judging = find(Metric, metric or ("pinball" if quantiles else task.default_metric))()
    check_kind(judging, task.kind)
    truth = pool.truth.targets
    everything = np.ones(len(truth), dtype=bool)
    rows, judged = division(
        pool.truth.roles_N,
        holdout,
        everything,
        lambda share: stratified_share(truth, share, seed),
    )
    stacks = {role: pool.stack.take(rows[role]) for role in rows}
    targets = {role: truth.take(rows[role]) for role in rows}
    shown = [find(Metric, name)() for name in task.metrics if name != judging.name]
    for role, stack in stacks.items():
        look_side_by_side(stack.parts[:1], targets[role], [judging, *shown])
        _check_value(judging, stack, targets[role], role)
    shown = [one for one in shown if _is_defined(one, stacks, targets)]
    return Judge(
        metric=judging,
        metrics=[judging, *shown],
        stacks=stacks,
        targets=targets,
        costs={},
        rule=VerdictRule(),
        seed=seed,
        judged=judged,
    )


def _check_value(metric: Metric[Any], stack: Stack[Any], targets: GroundTruth, role: str) -> None:
    value = metric.value(metric.statistics(stack.parts[0], targets))
    if not math.isfinite(value):
        raise PredictionError(
            f"{metric.name} has no value on the {len(targets):,} {role} rows",
            "rows with what this metric needs: more than one class, or any object",
            "Give more rows, or choose another --metric.",
        )


def _is_defined(
    metric: Metric[Any], stacks: Mapping[str, Stack[Any]], targets: Mapping[str, GroundTruth]
) -> bool:
    """Whether a metric has a value in every role.

    RMSE wants quantiles around the median, average precision of small objects such objects.
    """
    try:
        values = [
            metric.value(metric.statistics(stack.parts[0], targets[role]))
            for role, stack in stacks.items()
        ]
    except PredictionError:
        return False
    return all(map(math.isfinite, values))


def ensemble_of_files(pool: Pool, task: Task, fused: Artifact) -> Ensemble:
    """The chosen fusion; its members are prediction files, read as these were."""
    members = {
        name: SavedMember(file=form.as_plain() | {"task": task.name})
        for name, form in pool.forms.items()
    }
    return Ensemble(pool.stack.classes, None, members, chosen_fusion(fused))


def publish_files(
    experiment: Experiment, judge: Judge, fused: Artifact, pool: Pool, task: Task
) -> dict[str, Any]:
    """Show the members' predictions by role, and results.json; masks as links to the members' files."""
    for role, stack in judge.stacks.items():
        if role == "test" or judge.judged == "test":
            for name in stack.members:
                path = experiment.folder / "predictions" / name / f"{role}.parquet"
                if isinstance(masks := stack[name], Masks):
                    link_masks(path.with_suffix(""), masks)
                else:
                    write_prediction(path, stack[name])
    if pool.truth.kind is Masks:
        stack, targets = judge.stacks["test"], judge.targets["test"]
        assert isinstance(targets, LabelMaps)
        chosen = fused.folder / "predictions" / "test"
        save_mask_pictures(experiment.folder, stack, targets, chosen)
    about = {
        "task": task.name,
        "classes": list(pool.stack.classes),
        "rows": {role: len(targets) for role, targets in judge.targets.items()},
        "judged": judge.judged,
        "notes": [*judged_notes(judge.judged), *pool.notes],
    }
    forms = {name: pool.forms[name].form for name in judge.stacks["test"].members}
    return publish_results(experiment, judge, fused, about, file_entries(forms))


def file_entries(forms: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of members that are files, without their scores."""
    unknown = {"finetune": None, "predict_per_row": None}
    return [
        {
            "name": name,
            "source": "file",
            "form": form,
            "status": "ok",
            "error": None,
            "seconds": unknown,
        }
        for name, form in forms.items()
    ]


def judged_notes(judged: Judged) -> list[str]:
    """What the user should know of the rows that judge."""
    if judged == "cross_fitted":
        return [
            "Cross-fitted: every row is judged by fusions that were not fitted on it; the fusion "
            "that was saved is fitted on all rows."
        ]
    if judged == "in_sample":
        return [
            "In-sample: the rows that are scored fitted the fusions, so the scores flatter them."
        ]
    return []


def division(
    roles_N: Array | None,
    holdout: float | None,
    everything: Array,
    share_of: Callable[[float], Array],
) -> tuple[Mapping[str, Array], Any]:
    """Role → `(N,)` booleans, and what the test rows are.

    Args:
        roles_N: `(N,)` roles that the targets give, or None.
        holdout: Share of the rows that fits, as `judge_of_files` has it.
        everything: `(N,)` booleans, all True.
        share_of: From a share to the rows that fit.
    """
    if roles_N is not None:
        return _given_roles(roles_N, holdout)
    if holdout is None:
        return {"holdout": everything, "test": everything}, "cross_fitted"
    if not 0 < holdout <= 1:
        raise InvalidValue(
            f"holdout is {holdout}",
            "a share above 0 and at most 1",
            "Write 0.5, or leave it out: rows are then cross-fitted.",
        )
    if holdout == 1:
        return {"holdout": everything, "test": everything}, "in_sample"
    fits_N = share_of(holdout)
    if fits_N.all() or not fits_N.any():
        raise InvalidValue(
            f"{len(fits_N):,} rows cannot be divided by a holdout of {holdout}",
            "at least one row to fit and one to judge",
            "Leave --holdout out, or give more rows.",
        )
    return {"holdout": fits_N, "test": ~fits_N}, "test"


def _given_roles(roles_N: Array, holdout: float | None) -> tuple[Mapping[str, Array], Any]:
    if strange := sorted(set(roles_N.tolist()) - set(ROLES)):
        raise UsageError(
            f"the targets' roles hold {name_some(strange)}",
            f"{', '.join(ROLES)}",
            "Correct the column 'role'.",
        )
    if holdout is not None:
        raise UsageError(
            "--holdout and a column 'role' were given", "one of them", "Leave one of them out."
        )
    fits_N, tests_N = roles_N == "holdout", roles_N == "test"
    if not fits_N.any():
        raise UsageError(
            "no row has the role 'holdout'", "rows to fit the fusion on", "Name some in 'role'."
        )
    if not tests_N.any():
        return {"holdout": fits_N, "test": fits_N}, "cross_fitted"
    return {"holdout": fits_N, "test": tests_N}, "test"
