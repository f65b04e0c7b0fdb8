# SPDX-License-Identifier: Apache-2.0
"""THE FLOW: data → members → fine-tuning → predictions → fusing → evaluation → report.

Running again is resuming: every stage is skipped where its artifact is there already.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusetune.data.prepare import prepare
from fusetune.ensemble import Ensemble
from fusetune.errors import NoMembersLeft, RecipeError
from fusetune.evaluate.judge import Judge
from fusetune.predictions.kinds import Kind
from fusetune.predictions.memory import bytes_of
from fusetune.predictions.pool import Pool, Reading, member_names, read_pool
from fusetune.recipe import Fuse, Recipe, load_recipe, save_recipe
from fusetune.runtime.runner import Event, Runner
from fusetune.runtime.runners.local import Local
from fusetune.stages.checking import check_members
from fusetune.stages.files import (
    ensemble_of_files,
    fuse_settings,
    judge_of_files,
    publish_files,
    task_of,
)
from fusetune.stages.fusion import (
    chosen_fusion,
    ensemble_inputs,
    ensemble_stage,
    fuse_stage,
    publish_results,
    report_stage,
)
from fusetune.stages.members import Context, store_data
from fusetune.stages.outcomes import (
    about_run,
    ensemble_of,
    judge_of,
    member_entries,
    publish_predictions,
    save_pictures,
)
from fusetune.stages.parallel import all_members, how_many
from fusetune.stages.planning import PlannedStep, planned_steps
from fusetune.stages.scouting import proposed_entries, scout_stage
from fusetune.stages.streaming import fuse_streams, publish_streams, streamed_ensemble
from fusetune.stages.survey import Asked
from fusetune.stages.time_limit import TimeLimit, fusing_seconds, seconds_of
from fusetune.stages.tracking import check_tracker, listening, log_scores, tracking
from fusetune.store.artifact import Artifact, Status, file_checksum
from fusetune.store.experiment import Experiment

__all__ = ["PlannedStep", "Run", "Scouted", "fuse_files", "plan", "run", "scout_models"]

Listener = Callable[[Event], None]

LOG = "log.jsonl"
ENGINE = "fusetune.finetune.engines.torch"


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies and what came out.

    Args:
        folder: The run folder.
        results: The content of its results.json.
    """

    folder: Path
    results: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        return str(self.results["verdict"]["sentence"])

    @property
    def report(self) -> Path:
        """The report, a page for the browser."""
        return self.folder / "report.html"

    def predict(self, inputs: Any) -> Kind:  # noqa: ANN401
        """Fused predictions of new rows; see `Ensemble.predict`."""
        return Ensemble.load(self.folder).predict(inputs)


@dataclass(frozen=True)
class Scouted:
    """What came of looking at candidates.

    Args:
        folder: Where scout.json and recipe.yaml lie; `run` takes the recipe, whose members are the
            proposed candidates.
        table: The content of scout.json.
    """

    folder: Path
    table: Mapping[str, Any]

    @property
    def recipe(self) -> Path:
        """The recipe of the proposed members."""
        return self.folder / "recipe.yaml"


def run(
    recipe: Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    seed: int | None = None,
    time_limit: str | float | None = None,
    track: str | None = None,
    listen: Listener = lambda event: None,
) -> Run:
    """Fine-tune the recipe's members, fuse them, judge the fusion, write it all to a folder.

    Whatever can be wrong with the recipe, the data and the weights is found before the folder is
    made. A run that was stopped, by whatever, goes on where it was.

    Args:
        recipe: A YAML file, or a mapping of the same form.
        out: The run folder; default: `runs/<name of the recipe>`.
        seed: Replaces the recipe's.
        time_limit: Of the whole run: seconds, or text like `30m`. Members get shares of it; those
            that are stopped keep their best epoch, and those whose turn does not come are
            `not_run`. The same run without a limit finishes them. None: as long as it takes.
        track: `tensorboard`, `mlflow` or `wandb`: learning curves and scores go there too; None:
            nowhere.
        listen: Takes progress events.

    Raises:
        UsageError: Something is wrong with recipe, data, weights or folder; nothing was written.
        NoMembersLeft: Every member failed, or none had the time.
    """
    limit = None if time_limit is None else TimeLimit(seconds_of(time_limit))
    experiment = _run_folder(recipe, out)
    if track is not None:
        check_tracker(track)
    with Local(preload=ENGINE) as runner:
        context = _prepared(load_recipe(recipe, seed=seed), experiment, runner, listen)
        if limit is not None:
            limit.keep(fusing_seconds(experiment.folder / LOG))
            context = replace(context, limit=limit)
        if context.recipe.members:
            context = _checked(context)
        with experiment:
            context = _logged(context)
            if track is None:
                return _flow(context)
            with tracking(track, experiment.folder, context.listen) as log:
                run = _flow(replace(context, listen=listening(context.listen, log)))
                log_scores(log, run.results)
                return run


def plan(
    recipe: Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    seed: int | None = None,
) -> list[PlannedStep]:
    """What `run` with the same arguments would do, step by step, and why; nothing is changed.

    The data are read, as a change in them is a reason; no member is loaded.

    Args:
        recipe: As for `run`.
        out: Likewise.
        seed: Likewise.

    Returns:
        Steps in the order of the run, those that are done too. Where members are chosen by a
        scouting that is yet to be done, the list ends with it.

    Raises:
        UsageError: Something is wrong with recipe or data.
    """
    experiment = _run_folder(recipe, out)
    with Local() as runner:
        return planned_steps(
            _prepared(load_recipe(recipe, seed=seed), experiment, runner, lambda event: None)
        )


def scout_models(
    recipe: Path | str | Mapping[str, Any],
    candidates: Sequence[str] | None = None,
    out: Path | str | None = None,
    *,
    seed: int | None = None,
    listen: Listener = lambda event: None,
) -> Scouted:
    """Look at candidates before any is fine-tuned; propose those whose probes fuse best.

    Args:
        recipe: As for `run`.
        candidates: `source:model`, where `*` stands for anything; None: the recipe's `scout:` has
            them.
        out: Folder for scout.json and recipe.yaml; default: `runs/<name of the recipe>-scout`.
        seed: Replaces the recipe's.
        listen: Takes progress events.

    Raises:
        UsageError: Something is wrong with recipe, data or folder; nothing was written.
        NoMembersLeft: Every candidate failed.
    """
    stem = "run" if isinstance(recipe, Mapping) else Path(recipe).stem
    experiment = Experiment(Path("runs") / f"{stem}-scout" if out is None else Path(out))
    with Local(preload=ENGINE) as runner:
        resolved = load_recipe(recipe, seed=seed, candidates=candidates)
        if resolved.scout is None:
            raise RecipeError(
                "there are no candidates",
                "some to choose from",
                "Name them, or add `scout: {candidates: [...]}` to the recipe.",
            )
        context = _prepared(resolved, experiment, runner, listen)
        with experiment:
            context = _logged(context)
            table = scout_stage(context, resolved.scout, store_data(context))
            proposed = replace(resolved, members=proposed_entries(resolved.scout, table))
            save_recipe(proposed, experiment.folder / "recipe.yaml")
            return Scouted(experiment.folder, table)


def _run_folder(recipe: Path | str | Mapping[str, Any], out: Path | str | None) -> Experiment:
    stem = "run" if isinstance(recipe, Mapping) else Path(recipe).stem
    return Experiment(Path("runs") / stem if out is None else Path(out))


def _prepared(recipe: Recipe, experiment: Experiment, runner: Runner, listen: Listener) -> Context:
    listen({"phase": "data"})
    data, kind = recipe.data, recipe.task.kind
    prepared = prepare(data.datasets, data.roles, data.limit, recipe.seed, kind)
    fitting = prepared if prepared.folds is None else prepared.part(0)
    recipe = recipe.for_rows(len(fitting.rows("train")))
    return Context(recipe, prepared, experiment, runner, listen)


def fuse_files(
    paths: Sequence[Path | str],
    targets: Path | str,
    *,
    out: Path | str | None = None,
    metric: str | None = None,
    methods: Sequence[str] = ("auto",),
    holdout: float | None = None,
    seed: int = 0,
    report: bool = True,
    calibrate: str = "temperature",
    calibrate_members: str = "none",
    reading: Reading | None = None,
    memory: str | int | None = None,
) -> Run:
    """Fuse prediction files, judge the fusion, write it all to a folder. Needs no torch.

    Args:
        paths: M files, each a member named like its file: Parquet or CSV with an `id` column, npz
            or npy; probabilities, logits, scores, labels, numbers or quantiles. Every file has the
            targets' rows, in any order; columns are matched by name.
        targets: A file with the columns `id` and `target`, or one column per label or number; a
            column `role` says which rows are `holdout` and which `test`.
        out: The run folder; default: `runs/<name of the targets' file>`.
        metric: What decides; None: accuracy for classes, RMSE for numbers, macro F1 for labels.
        methods: `auto`, `best`, or fusion methods; one method is the answer, several are what
            `auto` blends.
        holdout: Share of the rows, of each class, that fits the fusion; the others judge it. 1:
            all rows do both, and the scores are in-sample. None: the targets' roles; without
            such, cross-fitting: every row is judged by fusions that were not fitted on it.
        seed: Of that division, and of resampling.
        report: Draw the report.
        calibrate: Calibrator of the chosen fusion; `none`: nothing calibrates it.
        calibrate_members: Calibrator of every member before it is fused; `none` likewise.
        reading: What cannot be told from the files: task, forms, classes, missing rows.
        memory: Bound on the memory that the process takes (`1GB`, or bytes), for files larger than
            it: rows pass by in blocks, and fusions are fitted on as many rows as fit. None: all
            files are read into memory.

    Raises:
        UsageError: Files that cannot be read or do not fit together; nothing was written.
    """
    experiment = Experiment(Path("runs") / Path(targets).stem if out is None else Path(out))
    files, truth, reading = tuple(map(Path, paths)), Path(targets), reading or Reading()
    if memory is None:
        pool = read_pool(files, truth, reading)
        settings = fuse_settings(pool, task_of(pool), methods, calibrate, calibrate_members)
        judge = judge_of_files(pool, task_of(pool), metric, holdout, seed)
        made_of = dict(zip(member_names(files), map(file_checksum, files), strict=True))
        return _fuse_in_memory(experiment, pool, judge, settings, made_of, report)
    asked = Asked(
        files=files,
        targets=truth,
        metric=metric,
        methods=methods,
        holdout=holdout,
        seed=seed,
        calibrate=calibrate,
        calibrate_members=calibrate_members,
        reading=reading,
        memory_bytes=bytes_of(memory),
    )
    return _fuse_larger_than_memory(experiment, asked, report)


def _fuse_in_memory(
    experiment: Experiment,
    pool: Pool,
    judge: Judge,
    settings: Fuse,
    made_of: Mapping[str, str],
    report: bool,
) -> Run:
    with experiment:
        fused = fuse_stage(experiment, judge, settings, made_of)
        ensemble = ensemble_of_files(pool, task_of(pool), fused)
        ensemble_stage(experiment, ensemble, ensemble_inputs(fused, made_of))
        results = publish_files(experiment, judge, fused, pool, task_of(pool))
        if report:
            report_stage(experiment)
        return Run(experiment.folder, results)


def _fuse_larger_than_memory(experiment: Experiment, asked: Asked, report: bool) -> Run:
    fused = fuse_streams(experiment, asked)
    with experiment:
        inputs = ensemble_inputs(fused, fused.checksums["about.json"])
        ensemble_stage(experiment, streamed_ensemble(fused), inputs)
        results = publish_streams(experiment, fused, asked)
        if report:
            report_stage(experiment)
        return Run(experiment.folder, results)


def _flow(context: Context) -> Run:
    data = store_data(context)
    context = _with_members(context, data)
    experiment, recipe = context.experiment, context.recipe
    save_recipe(recipe, experiment.folder / "recipe.yaml")
    outcomes = list(all_members(context, data).values())
    finished = [outcome for outcome in outcomes if outcome.predicted is not None]
    if not finished:
        reasons = "; ".join(f"'{outcome.entry.name}': {outcome.error}" for outcome in outcomes)
        hurried = all(outcome.not_run for outcome in outcomes)
        raise NoMembersLeft(
            f"{'no member was run' if hurried else 'every member failed'} ({reasons})",
            "at least one to fuse",
            "Give more time." if hurried else "Mend one and run again.",
        )
    publish_predictions(context, finished)
    context.listen({"phase": "fuse"})
    judge = judge_of(context, finished)
    made_of = {o.entry.name: o.predictions_fingerprint() for o in finished}
    fused = fuse_stage(experiment, judge, recipe.fuse, made_of)
    ensemble = ensemble_of(context, finished, chosen_fusion(fused))
    ensemble_stage(experiment, ensemble, ensemble_inputs(fused, made_of))
    save_pictures(context, judge, data, fused)
    about, entries = about_run(context, outcomes), member_entries(outcomes)
    results = publish_results(experiment, judge, fused, about, entries)
    context.listen({"phase": "report"})
    report_stage(experiment)
    context.listen({"phase": "done"})
    return Run(experiment.folder, results)


def _with_members(context: Context, data: Artifact) -> Context:
    """The same context, its members chosen from the candidates where the recipe says so."""
    recipe = context.recipe
    if recipe.members:
        return context
    assert recipe.scout is not None
    members = proposed_entries(recipe.scout, scout_stage(context, recipe.scout, data))
    return _checked(replace(context, recipe=replace(recipe, members=members)))


def _checked(context: Context) -> Context:
    """The same context, its members loaded once; how many are made side by side hangs on their size."""
    return replace(context, side_by_side=how_many(context.recipe, check_members(context)))


def _logged(context: Context) -> Context:
    """The same context, whose events are also written to log.jsonl; progress ticks are not."""
    path = context.experiment.folder / LOG

    def listen(event: Event) -> None:
        if "done" not in event:
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")
        context.listen(event)

    def tell(step: str, status: Status) -> None:
        if status.why:
            listen({"phase": "redo", "step": step, "state": status.state, "why": status.why})

    context.experiment.tell = tell
    return replace(context, listen=listen)
