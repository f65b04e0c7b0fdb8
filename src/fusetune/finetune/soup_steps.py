# SPDX-License-Identifier: Apache-2.0
"""Step function of a soup, run in a worker process: members' weights in, one member's out."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.data.inputs import PixelImages
from fusetune.data.prepare import Prepared, load_prepared
from fusetune.errors import WeightsError, counted
from fusetune.finetune.batches import CACHE_BYTES, PixelStore, is_fitted
from fusetune.finetune.engine import Engine, Report, Split
from fusetune.finetune.objective import Objective
from fusetune.finetune.pixel_cache import with_pixels
from fusetune.finetune.snapshots import WEIGHTS
from fusetune.finetune.soup_entry import SoupOf
from fusetune.finetune.steps import member_with
from fusetune.fuse.soup import Candidate, State
from fusetune.fuse.souping import PATH, Souped, Start, make_soup
from fusetune.fuse.state_dicts import state_checksum
from fusetune.members.member import Member
from fusetune.members.source import Source
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.store.artifact import write_json

__all__ = ["SoupPlan", "soup_members"]


@dataclass(frozen=True, kw_only=True)
class SoupPlan:
    """What a soup is made of, and by what it is judged.

    Args:
        soup: The method, and its members' names.
        sources: Where each member's model came from, in their order.
        folders: What each member's fine-tuning wrote, in their order.
        weights: Each member's weights there, in their order.
        start_seed: Of what was new when they started.
        objective: Turns outputs into predictions, and gives the loss.
        metric: What the user is judged by.
    """

    soup: SoupOf
    sources: tuple[Source, ...]
    folders: tuple[Path, ...]
    weights: tuple[Path, ...]
    start_seed: int
    objective: Objective[Any]
    metric: Metric[Any]


def soup_members(folder: Path, source: Source, data: Path, plan: SoupPlan, report: Report) -> None:
    """Average fine-tuned members' weights, choosing on holdout rows what is to be chosen.

    Writes:
        `weights.safetensors` and `member.json`, as fine-tuning does; and `soup.json` with the
        weights of the members, all scores, the losses between members, and the seconds that it
        took, its members' fine-tuning included.
    """
    before = time.perf_counter()
    prepared = load_prepared(data)
    names, abouts = plan.soup.of, [_about(made) for made in plan.folders]
    _check_preprocessing(names, abouts)
    member = member_with(source, prepared.classes, plan.weights[0])
    engine = find(Engine, member.engine)()
    prepared = with_pixels(prepared, member.preprocess, data, report).prepared
    states = {}
    for name, path in zip(names, plan.weights, strict=True):
        engine.load(member, path)
        states[name] = engine.state(member)
    start = _start(plan, abouts, prepared.classes)
    statistics = engine.statistics(member)
    kitchen = Kitchen(member, prepared, plan, report, statistics, states, start.state)
    souped = make_soup(plan.soup.method, states, kitchen, start=start, statistics=statistics)
    engine.set_state(member, souped.state)
    engine.save(member, folder / WEIGHTS)
    about = {"head": abouts[0]["head"], "head_kept": abouts[0]["head_kept"]}
    notes = notes_of(plan, souped, start, kitchen)
    write_json(
        folder / "member.json", {**about, "notes": notes, "preprocess": abouts[0]["preprocess"]}
    )
    record = {
        **record_of(plan, souped, start, kitchen),
        "seconds": time.perf_counter() - before + sum(map(_seconds, set(plan.folders))),
    }
    write_json(folder / "soup.json", record)


@dataclass(eq=False)
class Kitchen:
    """Tries weights: re-estimates a mixture's statistics on train rows, scores holdout rows.

    Args:
        member: Whose model the weights are put into.
        prepared: All rows.
        plan: What judges.
        report: Told of every trial.
        statistics: Names of the batch-norm statistics.
        states: The members' weights.
        start: Their start, if it was read.
    """

    member: Member
    prepared: Prepared
    plan: SoupPlan
    report: Report
    statistics: frozenset[str]
    states: Mapping[str, State]
    start: State | None
    tried: int = 0
    refreshes: bool = field(init=False)

    def __post_init__(self) -> None:
        # Statistics that fine-tuning left alone (`train: head`) fit every mixture as they are.
        known = list(self.states.values())
        first, *others = known if self.start is None else [*known, self.start]
        self.refreshes = any(
            not np.array_equal(first[name], other[name])
            for name in self.statistics
            for other in others
        )
        self._train, self._holdout = (self._split(role) for role in ("train", "holdout"))

    def __call__(self, state: State, *, refresh: bool = True) -> Candidate:
        """The weights, their statistics re-estimated, with their score and loss."""
        engine = find(Engine, self.member.engine)()
        engine.set_state(self.member, state)
        if self.refreshes and refresh:
            engine.refresh_statistics(self.member, self._train)
            state = engine.state(self.member)
        outputs = engine.outputs(self.member, self._holdout.images, lambda event: None)
        score, loss = -math.inf, math.inf
        if np.isfinite(outputs).all():
            score, loss = self._judged(outputs)
        self.tried += 1
        event = {"tried": self.tried, "score": _finite(score), "loss": _finite(loss)}
        self.report({"phase": "soup", **event})
        return Candidate(state=state, score=score, loss=loss)

    def _judged(self, outputs: Any) -> tuple[float, float]:  # noqa: ANN401
        objective, metric, targets = self.plan.objective, self.plan.metric, self._holdout.targets
        prediction = objective.to_prediction(targets.ids, self.member.classes, outputs)
        value = metric.value(metric.statistics(prediction, targets))
        collated = objective.collate(targets, np.arange(len(targets)))
        loss = objective.scores(outputs, collated)["loss"]
        return (value if metric.higher_is_better else -value), loss

    def _split(self, role: str) -> Split:
        """A role's rows; decoded and fitted once where memory allows, since every trial sees them."""
        rows, preprocess = self.prepared.rows(role), self.member.preprocess
        images = self.prepared.images.take(rows)
        is_small = len(rows) * preprocess.size**2 * 3 <= CACHE_BYTES
        if is_small and not is_fitted(images, preprocess):
            images = PixelImages(PixelStore(images, preprocess).batch(np.arange(len(rows))))
        return Split(images, self.prepared.targets(role))

    def rows(self) -> dict[str, int]:
        """Role → how many of its rows were used."""
        train = {"train": len(self._train.ids)} if self.refreshes else {}
        return {"holdout": len(self._holdout.ids), **train}


def _about(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "member.json").read_text(encoding="utf-8")))


def _seconds(folder: Path) -> float:
    """What fine-tuning a member took."""
    return float(json.loads((folder / "history.json").read_text(encoding="utf-8"))["seconds"])


def _check_preprocessing(names: Sequence[str], abouts: Sequence[Mapping[str, Any]]) -> None:
    for name, about in zip(names, abouts, strict=True):
        if about["preprocess"] != abouts[0]["preprocess"]:
            raise WeightsError(
                f"'{names[0]}' and '{name}' of the soup prepare their images differently",
                "one preprocessing, which their average can have too",
                "Give both the same `preprocess:`.",
            )


def _start(plan: SoupPlan, abouts: Sequence[Mapping[str, Any]], classes: tuple[str, ...]) -> Start:
    """Whether the members started from the same bits, and those, where the method needs them."""
    checksums = {about["start"] for about in abouts}
    if len(checksums) > 1:
        if len({str(source.weights) for source in plan.sources}) > 1:
            return Start(shared=None, reason="their `weights` differ")
        return Start(shared=False, reason="their models were built with different weights")
    if not plan.soup.method.needs_start:
        return Start(shared=True)
    member = plan.sources[0].load(classes, seed=plan.start_seed)
    state = find(Engine, member.engine)().state(member)
    if state_checksum(state) not in checksums:
        return Start(shared=None, reason="they are not the same when they are loaded again")
    return Start(shared=True, state=state)


def record_of(plan: SoupPlan, souped: Souped, start: Start, kitchen: Kitchen) -> dict[str, Any]:
    """What results.json says of a soup."""
    cooked = souped.cooked
    return {
        "method": plan.soup.method.name,
        "of": list(plan.soup.of),
        "weights": None if cooked.weights is None else dict(cooked.weights),
        "settings": dict(cooked.settings),
        "along": [[value, _finite(loss)] for value, loss in cooked.along.items()],
        "score": _shown(plan, cooked.candidate.score),
        "loss": _finite(cooked.candidate.loss),
        "members": {
            name: {"score": _shown(plan, one.score), "loss": _finite(one.loss)}
            for name, one in souped.members.items()
        },
        "best": souped.best,
        "fell_back": souped.fell_back,
        "same_as": souped.same_as,
        "shared_start": start.shared,
        "rows": kitchen.rows(),
        "tried": kitchen.tried,
        "paths": [
            {
                "ends": list(path.ends),
                "at": [0.0, *PATH, 1.0],
                "losses": [_finite(loss) for loss in path.losses],
                "barrier": _finite(path.barrier),
            }
            for path in souped.paths
        ],
    }


def notes_of(plan: SoupPlan, souped: Souped, start: Start, kitchen: Kitchen) -> list[str]:
    """What the user should know of a soup."""
    cooked, rows = souped.cooked, kitchen.rows()
    shares = {name: share for name, share in (cooked.weights or {}).items() if share}
    parts = [f"{share:.3g} {name}" for name, share in shares.items()]
    parts += [f"{name} {value:.3g}" for name, value in cooked.settings.items()]
    notes = [
        f"{plan.soup.method.name} of {', '.join(plan.soup.of)}: {', '.join(parts)}",
        f"on the {counted(rows['holdout'], 'holdout row')}, which chose it: "
        f"{_written(plan, cooked.candidate)}; its best member '{souped.best}': "
        f"{_written(plan, souped.members[souped.best])}",
    ]
    if souped.fell_back:
        notes.append(f"the soup was worse there, so '{souped.best}' takes its place")
    elif souped.same_as is not None:
        notes.append(f"the soup is '{souped.same_as}' itself: no mixture was better")
    elif "train" in rows:
        counted_rows = counted(rows["train"], "train row")
        notes.append(f"its batch-norm statistics are re-estimated on the {counted_rows}")
    if start.shared is not True:
        doubt = "is not known" if start.shared is None else "is not so"
        notes.append(f"that its members share a start {doubt}: {start.reason}")
    if souped.paths:
        worst = max(souped.paths, key=lambda path: path.barrier)
        losses = ", ".join(f"{loss:.3f}" for loss in worst.losses)
        notes.append(
            f"holdout loss on the straight way from '{worst.ends[0]}' to '{worst.ends[1]}': "
            f"{losses}; the barrier is {worst.barrier:.3f}"
        )
    return notes


def _shown(plan: SoupPlan, score: float) -> float | None:
    """The metric's own value of a score."""
    return _finite(score if plan.metric.higher_is_better else -score)


def _written(plan: SoupPlan, candidate: Candidate) -> str:
    value = _shown(plan, candidate.score)
    figure = "not finite" if value is None else f"{value:.4f}"
    return f"{plan.metric.name} {figure}, loss {candidate.loss:.4f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
