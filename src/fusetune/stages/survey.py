# SPDX-License-Identifier: Apache-2.0
"""The first time that files larger than memory are read: one after the other.

Every number is checked, every member is scored, and the rows that fusions are fitted on are put
aside: all, or a sample of them with weights.

Shapes: M members, N rows, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.choose.candidates import all_candidates
from fusetune.errors import InvalidValue, UsageError
from fusetune.evaluate.judge import Judge
from fusetune.evaluate.streamed import KeptStatistics, RowStatistics, shown
from fusetune.evaluate.verdict import VerdictRule
from fusetune.metric import Metric, check_kind
from fusetune.plugins import find
from fusetune.predictions.detection.annotations import holds_annotations
from fusetune.predictions.files import target_columns
from fusetune.predictions.folds import dealt_share
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.long_truth import LongTruth, read_long_truth
from fusetune.predictions.memory import Budget, give_back
from fusetune.predictions.pool import Pool, Reading, member_names
from fusetune.predictions.sampling import stratified_sample
from fusetune.predictions.stack import Stack
from fusetune.predictions.streams import MemberRows, ParquetRows, Streaming, open_member
from fusetune.predictions.tables import ID
from fusetune.predictions.targets import AnyTargets, Targets, replaced
from fusetune.recipe import Fuse
from fusetune.stages.files import division, fuse_settings, task_of
from fusetune.task import Task

__all__ = [
    "Asked",
    "Opened",
    "Survey",
    "block_rows",
    "judge_of",
    "open_files",
    "sample_size",
    "survey",
    "target_pieces",
]

PIECE = 2**16  # rows of targets that are written at a time
COPIES = 3.0  # of the sampled rows while choosing: themselves, in order of id, without a fold
LIGHT = 5.0  # copies that the methods which take all sampled rows may need besides


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asked for; see `fusetune.fuse_files`."""

    files: tuple[Path, ...]
    targets: Path
    metric: str | None
    methods: Sequence[str]
    holdout: float | None
    seed: int
    calibrate: str
    calibrate_members: str
    reading: Reading
    memory_bytes: int

    def __post_init__(self) -> None:
        Budget(self.memory_bytes)
        if holds_annotations(self.targets):
            raise InvalidValue(
                "--memory was given for detections or masks",
                "predictions of classes, labels or numbers",
                "Leave --memory out: detections are read into memory, and masks band by band.",
            )
        if self.reading.missing != "error":
            raise InvalidValue(
                f"--missing is '{self.reading.missing}' and --memory was given",
                "every member to predict every row",
                "Predict the missing rows, or leave --memory out.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """Files whose rows and columns fit together; their numbers are not yet checked.

    Args:
        members: In the order given.
        classes: Of all members, in the order every fusion works in.
        truth: The targets, their classes in this order.
        rows: Role → `(N,)` booleans.
        hashes_N: `(N,)` of the ids.
        task: What the targets pose.
        judge: Metrics, seed, and which rows judge; without rows of its own.
        settings: What is fitted, chosen and calibrated.
        streaming: Budget, and where numbers lie.
    """

    members: Mapping[str, MemberRows]
    classes: tuple[str, ...]
    truth: LongTruth
    rows: Mapping[str, Array]
    hashes_N: Array
    task: Task
    judge: Judge
    settings: Fuse
    streaming: Streaming

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's predictions by all members."""
        return sum(member.row_bytes for member in self.members.values())

    @property
    def scored_roles(self) -> tuple[str, ...]:
        """Roles whose rows members are scored on."""
        return ("holdout", "test") if self.judge.judged == "test" else ("test",)


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What the first reading found.

    Args:
        scores: Member → role → metric → value.
        kept: Statistics of the members' test rows, for intervals.
        stack: The members' predictions of the sampled rows.
        targets: Their truth.
        weights_N: `(N,)` weights of these rows.
        num_holdout: Rows that the sample stands for.
    """

    scores: Mapping[str, Mapping[str, Mapping[str, float]]]
    kept: KeptStatistics
    stack: Stack[Any]
    targets: AnyTargets
    weights_N: Floats
    num_holdout: int

    @property
    def sampled(self) -> bool:
        """Whether rows were left out."""
        return len(self.stack) < self.num_holdout


def open_files(asked: Asked, scratch: Path) -> Opened:
    """Read the targets, line the files up with them, and divide the rows.

    Raises:
        UsageError: Files that cannot be read or do not fit together.
    """
    names = member_names(asked.files)
    if unknown := sorted(set(asked.reading.forms) - set(names)):
        raise InvalidValue(
            f"--form names '{unknown[0]}'", f"a member among {', '.join(names)}", "Correct it."
        )
    truth = read_long_truth(asked.targets, asked.reading.task)
    hashes_N = truth.hashes_N(asked.seed)
    rows, judged = _divided(truth, hashes_N, asked.holdout)
    task = task_of(_pool_of(truth, {}))
    judge = judge_of(task, asked, judged)
    budget = Budget(asked.memory_bytes)
    at_least = len(names) * len(truth.plain.columns) * np.dtype(np.float32).itemsize
    streaming = Streaming(
        truth, budget, scratch, tuple(asked.reading.classes), budget.block_bytes // at_least
    )
    members = {
        name: open_member(name, path, asked.reading.forms.get(name), streaming)
        for name, path in zip(names, asked.files, strict=True)
    }
    give_back()
    settings = fuse_settings(
        _pool_of(truth, members), task, asked.methods, asked.calibrate, asked.calibrate_members
    )
    all_candidates(settings.methods, task.kind)
    classes = tuple(dict.fromkeys(c for one in members.values() for c in one.like.columns))
    return Opened(
        members=members,
        classes=classes,
        truth=_over(truth, classes),
        rows=rows,
        hashes_N=hashes_N,
        task=task,
        judge=judge,
        settings=settings,
        streaming=streaming,
    )


def survey(opened: Opened) -> Survey:
    """Read every file once: check it, score the member, put the sampled rows aside.

    Raises:
        PredictionError: Numbers that are no predictions; file and row are named.
    """
    fit = np.flatnonzero(opened.rows["holdout"])
    strata_N = opened.truth.targets.take(fit).strata_N
    chosen, weights_N = stratified_sample(strata_N, opened.hashes_N[fit], sample_size(opened))
    sampled = fit[chosen]
    ids, kept = opened.truth.names(sampled), KeptStatistics(opened.streaming.scratch)
    scores, parts = {}, []
    with ExitStack() as closing:
        statistics = _statistics(opened, closing)
        for name, member in opened.members.items():
            array_NC = _read_once(member, opened, statistics, sampled)
            parts.append(member.like.trusted(member.like, ids, member.like.columns, array_NC))
            scores[name] = {role: one.scores() for role, one in statistics.items()}
            for metric in shown(opened.judge.metrics):
                kept.put(name, metric, statistics["test"].of(metric))
            give_back()
    return Survey(
        scores=scores,
        kept=kept,
        stack=Stack(tuple(opened.members), tuple(parts), opened.classes),
        targets=replaced(opened.truth.targets.take(sampled), ids=ids),
        weights_N=weights_N,
        num_holdout=len(fit),
    )


def _statistics(opened: Opened, closing: ExitStack) -> dict[str, RowStatistics]:
    """Role → what takes in the rows of one member after the other."""
    share = opened.streaming.budget.statistics_bytes // len(opened.scored_roles)
    scratch = opened.streaming.scratch
    return {
        role: closing.enter_context(RowStatistics(opened.judge.metrics, share, scratch))
        for role in opened.scored_roles
    }


def sample_size(opened: Opened) -> int:
    """How many rows fusions can be fitted on: all that is held then follows from it.

    The cross-fitted predictions of every candidate come to the members' own.
    """
    candidates = len(opened.settings.methods) + 1
    copies = COPIES + LIGHT + 3 * candidates / len(opened.members)
    return max(1, int(opened.streaming.budget.sample_bytes / (opened.row_bytes * copies)))


def _read_once(
    member: MemberRows,
    opened: Opened,
    statistics: Mapping[str, RowStatistics],
    sampled: Array,
) -> Floats:
    """Fill the statistics with a member's rows; give its predictions of the sampled ones."""
    array_NC = np.empty((len(sampled), len(member.like.columns)), member.like.array_NC.dtype)
    targets = opened.truth.targets
    for start, block in member.blocks(len(opened.truth)):
        if not start:
            for one in statistics.values():
                one.clear()
        stop = start + len(block)
        for role, one in statistics.items():
            inside = np.flatnonzero(opened.rows[role][start:stop])
            one.add(block.take(inside), targets.take(start + inside))
        first, last = np.searchsorted(sampled, (start, stop))
        array_NC[first:last] = block.array_NC[sampled[first:last] - start]
    return array_NC


def _divided(
    truth: LongTruth, hashes_N: Array, holdout: float | None
) -> tuple[Mapping[str, Array], Any]:
    def share_of(share: float) -> Array:
        return dealt_share(np.lexsort((hashes_N, truth.targets.strata_N)), share)

    everything = np.ones(len(truth), dtype=bool)
    rows, judged = division(truth.roles_N, holdout, everything, share_of)
    if judged == "cross_fitted":
        raise UsageError(
            "--memory was given, and nothing says which rows fit the fusion and which judge it",
            "--holdout, or targets with roles: cross-fitting reads all rows again and again",
            "Pass --holdout 0.5, or name holdout and test rows in a column 'role'.",
        )
    return rows, judged


def judge_of(task: Task, asked: Asked, judged: Any) -> Judge:  # noqa: ANN401
    """Metrics, rule and seed, without rows: they pass by elsewhere.

    Raises:
        InvalidValue: The metric does not judge this task.
    """
    judging: Metric[Any] = find(Metric, asked.metric or task.default_metric)()
    check_kind(judging, task.kind)
    others = [find(Metric, name)() for name in task.metrics if name != judging.name]
    return Judge(
        metric=judging,
        metrics=[judging, *others],
        stacks={},
        targets={},
        costs={},
        rule=VerdictRule(),
        seed=asked.seed,
        judged=judged,
    )


def _pool_of(truth: LongTruth, members: Mapping[str, MemberRows]) -> Pool:
    """What stages for files in memory ask of a pool: forms and kind, no rows."""
    forms = {name: member.form for name, member in members.items()}
    return Pool(Stack((), ()), truth.plain, forms)


def _over(truth: LongTruth, classes: tuple[str, ...]) -> LongTruth:
    """The truth with its classes in the members' order.

    Raises:
        PredictionError: No member knows a true class.
    """
    targets = truth.targets
    if not isinstance(targets, Targets):
        return truth
    occurring = [targets.classes[label] for label in np.unique(targets.labels_N)]
    Targets.from_names(np.arange(len(occurring)).astype(str), occurring, classes)
    labels_N = targets.columns(classes)
    known = replaced(targets, classes=classes, labels_N=labels_N)
    return LongTruth(known, truth.kind, truth.ids, truth.roles_N)


def block_rows(opened: Opened) -> int:
    """Rows of a block: whole row groups where they are equal, so that none is decoded twice."""
    most = max(1, opened.streaming.budget.block_bytes // opened.row_bytes)
    groups = [one.largest for one in opened.members.values() if isinstance(one, ParquetRows)]
    largest = max(groups, default=1)
    return most // largest * largest if largest <= most else most


def target_pieces(opened: Opened, rows_N: Array) -> Iterator[dict[str, Any]]:
    """Ids and targets of some rows, as files hold them, a piece at a time."""
    rows = np.flatnonzero(rows_N)
    for start in range(0, len(rows), PIECE):
        some = rows[start : start + PIECE]
        columns = target_columns(opened.truth.targets.take(some))
        yield {**columns, ID: opened.truth.ids.take(some)}
