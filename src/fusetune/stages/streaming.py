# SPDX-License-Identifier: Apache-2.0
"""Stages of fusing prediction files that are larger than memory.

`survey.py` reads every file once. Here fusions are fitted on the rows that it put aside, and all
files are read again, block of rows by block of rows over all members: fused, scored, written.

Shapes: M members, N rows, C classes.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.calibrated import CalibratedFusion, with_calibrated_members
from fusetune.choose import BEST_MEMBER, Choice, choose
from fusetune.ensemble import Ensemble, SavedMember
from fusetune.evaluate.judge import fusion_entry
from fusetune.evaluate.streamed import (
    RowStatistics,
    StreamedDiversity,
    compared,
    intervals,
    shown,
)
from fusetune.fuse.bounded import Bounded
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.fusion import save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.plugins import find, plugin_name
from fusetune.predictions.files import columnar_columns
from fusetune.predictions.kinds import Array, Columnar
from fusetune.predictions.memory import give_back, map_arrays
from fusetune.predictions.pool import member_names
from fusetune.predictions.stack import Stack
from fusetune.predictions.tables import ID, write_pieces
from fusetune.predictions.targets import AnyTargets
from fusetune.stages.files import file_entries, judged_notes
from fusetune.stages.fusion import chosen_fusion, publish_results
from fusetune.stages.survey import (
    LIGHT,
    Asked,
    Opened,
    Survey,
    block_rows,
    judge_of,
    open_files,
    sample_size,
    survey,
    target_pieces,
)
from fusetune.store.artifact import JSON, Artifact, canonical, file_checksum, write_json
from fusetune.store.experiment import Experiment
from fusetune.task import Task

__all__ = ["fuse_streams", "publish_streams", "streamed_ensemble"]

TIE = 1e-12  # values closer than this differ by rounding only
BEFORE = "before calibration"  # statistics of the chosen fusion before its calibration


def fuse_streams(experiment: Experiment, asked: Asked) -> Artifact:
    """Fit fusions on sampled rows, choose one, judge all on every test row.

    Whatever can be wrong with the files is found before the run folder is made. Numbers that are
    written out lie beside it meanwhile, in a folder that is gone at the end.

    Args:
        experiment: The run folder, not yet open.
        asked: The files, and what is wanted of them.

    Writes:
        What `fuse_stage` writes, and `targets/<role>.parquet` and `about.json`.
    """
    step = experiment.step("fuse", _inputs(asked))
    if artifact := step.finished():
        return artifact
    map_arrays()
    with _scratch(experiment.folder) as scratch:
        opened = open_files(asked, scratch)
        surveyed = [survey(opened)]
        with experiment:
            return _fused(step, opened, surveyed)


def streamed_ensemble(fused: Artifact) -> Ensemble:
    """The chosen fusion; its members are prediction files, read as these were."""
    about = json.loads(fused.path("about.json").read_text(encoding="utf-8"))
    members = {name: SavedMember(file=form) for name, form in about["files"].items()}
    return Ensemble(tuple(about["classes"]), None, members, chosen_fusion(fused))


def publish_streams(experiment: Experiment, fused: Artifact, asked: Asked) -> dict[str, Any]:
    """Show targets and fused predictions, and results.json.

    Members' predictions are not shown: that would write as much again as was given.
    """
    about = json.loads(fused.path("about.json").read_text(encoding="utf-8"))
    forms = {name: form["form"] for name, form in about.pop("files").items()}
    judge = judge_of(find(Task, about["task"])(), asked, about["judged"])
    experiment.publish(fused.folder / "targets", "targets")
    return publish_results(experiment, judge, fused, about, file_entries(forms))


def _inputs(asked: Asked) -> JSON:
    reading, named = asked.reading, zip(member_names(asked.files), asked.files, strict=True)
    return {
        "streamed": asked.memory_bytes,
        "predictions": {name: file_checksum(file) for name, file in named if file.is_file()},
        "targets": file_checksum(asked.targets) if asked.targets.is_file() else None,
        "asked": canonical([asked.metric, list(asked.methods), asked.holdout, asked.seed]),
        "calibrate": [asked.calibrate, asked.calibrate_members],
        "reading": canonical([reading.task, dict(reading.forms), list(reading.classes)]),
    }


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder on the run's disk that is gone at the end."""
    place = next(one for one in folder.absolute().parents if one.is_dir())
    with tempfile.TemporaryDirectory(prefix=".fusetune-", dir=place) as scratch:
        yield Path(scratch)


def _fused(step: Any, opened: Opened, surveys: list[Survey]) -> Artifact:  # noqa: ANN401
    folder = step.begin()
    surveyed = surveys.pop()
    made, notes = _chosen(opened, surveyed)
    surveyed = replace(surveyed, stack=surveyed.stack.take(np.arange(0)))  # frees the rows
    give_back()
    with ExitStack() as closing:
        passing = _Passing(opened, made, closing)
        write_pieces(folder / "predictions" / "test.parquet", passing.pieces())
        write_json(folder / "judged.json", _entries(opened, surveyed, made, passing))
    for role, rows_N in opened.rows.items():
        write_pieces(folder / "targets" / f"{role}.parquet", target_pieces(opened, rows_N))
    save_fusion(made.fusion, folder / "fusion")
    write_json(folder / "about.json", _about(opened, [*notes, *_disk_notes(opened)]))
    artifact: Artifact = step.finish()
    return artifact


def _chosen(opened: Opened, surveyed: Survey) -> tuple[Choice, list[str]]:
    """Fusions fitted on the sampled rows, and what to say of them."""
    methods, notes = _methods(opened, surveyed)
    made = choose(
        surveyed.stack,
        surveyed.targets,
        opened.judge.metric,
        methods,
        choose=opened.settings.choose,
        calibrator=opened.settings.calibrate,
        seed=opened.judge.seed,
    )
    made = replace(_with_best_member(made, opened, surveyed), cross_fitted={})
    return made, notes


def _methods(opened: Opened, surveyed: Survey) -> tuple[dict[str, FusionMethod[Any]], list[str]]:
    """The methods, each on as many sampled rows as it can be fitted on; and what to say of it."""
    settings, num_rows = opened.settings, len(surveyed.stack)
    common = dict.fromkeys(opened.members, settings.calibrate_members)
    wanted = {**common, **settings.member_calibrators}
    calibrators = {name: one for name, one in wanted.items() if one is not None}
    made: dict[str, FusionMethod[Any]] = {}
    counts = {}
    for name, method in with_calibrated_members(settings.methods, calibrators).items():
        made[name] = method
        if not method.fit_copies:
            continue  # reads no rows
        most_rows = max(1, int(LIGHT / method.fit_copies * sample_size(opened)))
        if surveyed.num_holdout <= min(num_rows, most_rows):
            continue  # reads all rows
        bounded = Bounded(
            method=method,
            ids=surveyed.stack.ids,
            weights_N=surveyed.weights_N,
            most_rows=most_rows,
            seed=opened.judge.seed,
        )
        made[name], counts[name] = bounded, len(bounded.sample(surveyed.targets)[0])
    return made, _sample_notes(opened, surveyed, counts)


def _sample_notes(opened: Opened, surveyed: Survey, counts: Mapping[str, int]) -> list[str]:
    whole, bound = surveyed.num_holdout, f"{opened.streaming.budget.memory_bytes / 1e6:,.0f} MB"
    notes = [
        f"{name} was fitted on {count:,} of {whole:,} holdout rows, of each class in proportion "
        f"and with sample weights: a sample that fits under {bound} of memory."
        for name, count in counts.items()
    ]
    if surveyed.sampled:
        notes.append(
            f"Candidates were cross-fitted, blended and calibrated on {len(surveyed.stack):,} of "
            f"{whole:,} holdout rows, of each class in proportion."
        )
    return notes


def _disk_notes(opened: Opened) -> list[str]:
    notes = [
        "Under a memory bound the members' predictions are not written again, and the report has "
        "no sections on single rows."
    ]
    if written := [name for name, one in opened.members.items() if one.written]:
        notes.append(
            f"The numbers of {len(written):,} files were written out meanwhile: they are not in "
            "the targets' order, not Parquet, or in row groups too large for the bound."
        )
    return notes


def _with_best_member(made: Choice, opened: Opened, surveyed: Survey) -> Choice:
    """The best member by all holdout rows, where the choice saw a sample of them."""
    if not surveyed.sampled or made.chosen == BEST_MEMBER:
        return made
    metric = opened.judge.metric
    sign = 1 if metric.higher_is_better else -1
    role = opened.scored_roles[0]
    gains = {name: sign * scores[role][metric.name] for name, scores in surveyed.scores.items()}
    best = max(gains.values())
    tied = [name for name, gain in gains.items() if not gain < best - TIE]
    losses = {name: surveyed.scores[name][role].get("log_loss", 0.0) for name in tied}
    first = min(tied, key=lambda name: losses[name])
    return replace(made, fusions={**made.fusions, BEST_MEMBER: WeightedAverage.of({first: 1})})


class _Passing:
    """The second reading: every fusion's predictions of every test row, which nobody keeps.

    Args:
        opened: The files.
        made: The fusions, and which one is written.
        closing: Closes what statistics lie in.
    """

    def __init__(self, opened: Opened, made: Choice, closing: ExitStack) -> None:
        self.opened, self.made = opened, made
        self.diversity = StreamedDiversity()
        self.seconds = dict.fromkeys(made.fusions, 0.0)
        names = [*made.fusions, *([BEFORE] if self._output is not None else [])]
        share = opened.streaming.budget.statistics_bytes // (2 * len(names))
        self.statistics = {
            name: closing.enter_context(
                RowStatistics(opened.judge.metrics, share, opened.streaming.scratch)
            )
            for name in names
        }

    @property
    def _output(self) -> Any:  # noqa: ANN401
        """The calibration of the chosen fusion, if it has one."""
        fusion = self.made.fusion
        return fusion.output if isinstance(fusion, CalibratedFusion) else None

    def pieces(self) -> Iterator[dict[str, Any]]:
        """Columns of the chosen fusion's predictions, piece by piece."""
        for rows, stack in self._stacks():
            targets = self.opened.truth.targets.take(rows)
            self.diversity.add(stack, targets)
            chosen = None
            for name, fusion in self.made.fusions.items():
                fused = self._fused(name, fusion, stack, targets)
                chosen = fused if name == self.made.chosen else chosen
            assert chosen is not None
            yield {**columnar_columns(chosen), ID: self.opened.truth.ids.take(rows)}

    def calibration(self) -> dict[str, Any] | None:
        """The entry of results.json: what calibrating the chosen fusion changed."""
        if self._output is None:
            return None
        return {
            "method": plugin_name(type(self._output)),
            "before": self.statistics[BEFORE].scores(),
            "after": self.statistics[self.made.chosen].scores(),
            "reliability": None,  # the bins of a diagram are not kept
        }

    def _fused(
        self, name: str, fusion: Fusion[Any], stack: Stack[Any], targets: AnyTargets
    ) -> Columnar:
        start = time.perf_counter()
        if name == self.made.chosen and isinstance(fusion, CalibratedFusion) and fusion.output:
            before = fusion.before_output(stack)
            self.statistics[BEFORE].add(before, targets)
            fused: Columnar = fusion.output(before)
        else:
            fused = fusion(stack)
        self.seconds[name] += time.perf_counter() - start
        self.statistics[name].add(fused, targets)
        return fused

    def _stacks(self) -> Iterator[tuple[Array, Stack[Any]]]:
        """Positions of test rows and all members' predictions of them, as many as fuse at once."""
        opened, tests_N = self.opened, self.opened.rows["test"]
        few = max(1, opened.streaming.budget.fusing_bytes // opened.row_bytes)
        step = block_rows(opened)
        for start in range(0, len(opened.truth), step):
            stop = min(start + step, len(opened.truth))
            inside = np.flatnonzero(tests_N[start:stop])
            everything = len(inside) == stop - start
            parts = [one.read(start, stop) for one in opened.members.values()]
            if not everything:
                for index, part in enumerate(parts):
                    parts[index] = part.take(inside)
            stack = Stack(tuple(opened.members), tuple(parts), opened.classes)
            del parts
            for first in range(0, len(inside), few):
                piece = slice(first, first + few)
                yield start + inside[piece], stack.take(piece)  # type: ignore[arg-type]


def _entries(opened: Opened, surveyed: Survey, made: Choice, passing: _Passing) -> dict[str, Any]:
    """What of results.json hangs on predictions; as `Judge.results` gives it."""
    judge, kept = opened.judge, surveyed.kept
    fused = {name: passing.statistics[name].scores() for name in made.fusions}
    for name in made.fusions:
        for metric in shown(judge.metrics):
            kept.put(name, metric, passing.statistics[name].of(metric))
    pair = (made.chosen, made.best_member)
    comparison, tests = compared(kept, list(made.fusions), pair, judge.metric, judge.seed)
    memory_bytes = opened.streaming.budget.sample_bytes
    predictors = [*opened.members, *made.fusions]
    found = intervals(kept, predictors, shown(judge.metrics), memory_bytes, judge.seed)
    num_test = max(1, int(opened.rows["test"].sum()))
    return {
        "members": {
            name: {"scores": scores, "intervals": found[name]}
            for name, scores in surveyed.scores.items()
        },
        "fusions": [
            fusion_entry(
                name,
                fusion,
                {"test": fused[name]},
                found[name],
                {
                    "fit": made.seconds.get(name),
                    "predict_per_row": passing.seconds[name] / num_test,
                },
            )
            | tests[name]
            for name, fusion in made.fusions.items()
        ],
        "chosen": made.chosen,
        "best_member": made.best_member,
        "comparison": comparison,
        "calibration": passing.calibration(),
        "contributions": None,
        **passing.diversity.results(),
    }


def _about(opened: Opened, notes: list[str]) -> dict[str, Any]:
    return {
        "task": opened.task.name,
        "classes": list(opened.classes),
        "rows": {role: int(rows_N.sum()) for role, rows_N in opened.rows.items()},
        "judged": opened.judge.judged,
        "notes": [*judged_notes(opened.judge.judged), *notes],
        "memory_bytes": opened.streaming.budget.memory_bytes,
        "files": {
            name: one.form.as_plain() | {"task": opened.task.name}
            for name, one in opened.members.items()
        },
    }
