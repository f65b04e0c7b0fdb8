# SPDX-License-Identifier: Apache-2.0
"""Members and fusions side by side: every metric on test, with intervals, the user's one drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fusetune.report.contents import Contents, Predictor
from fusetune.report.scale import Scale, finite
from fusetune.report.section import Section
from fusetune.report.words import MetricWords, best_tag, p_words, score_or_dash

__all__ = ["Scores"]


class Scores(Section):
    """Scores of everybody on test."""

    title: ClassVar[str] = "Members and fusions"
    order: ClassVar[int] = 10

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None only where the run names no predictor at all."""
        if not contents.predictors:
            return None
        scored = [one for one in contents.predictors if one.scores.get("test")]
        names = dict.fromkeys([contents.metric])
        for one in scored:
            names.update(dict.fromkeys(one.scores["test"]))
        metrics = [MetricWords(name) for name in names]
        scale = _scale(scored, metrics[0])
        best = contents.predictor(contents.best_member)
        return {
            "metrics": metrics,
            "ticks": scale.ticks(),
            "reference": _position(best, metrics[0], scale) if best else None,
            "groups": [
                (
                    title,
                    [_row(one, contents, metrics, scale, _best(scored, metrics)) for one in group],
                )
                for title, group in (("Members", contents.members), ("Fusions", contents.fusions))
                if group
            ],
            "rows": contents.rows.get("test"),
            "judged": contents.judged,
            "best_tag": best_tag(contents.judged),
            "tested": any(one.p_holm is not None for one in contents.fusions),
            "level": contents.verdict.level if contents.verdict else 0.95,
            "notes": _notes(contents),
        }


def _notes(contents: Contents) -> list[tuple[str, str]]:
    """Notes with the members that they are of, the same one once; the run's own first."""
    names: dict[str, list[str]] = {}
    for one in contents.members:
        for note in one.notes:
            names.setdefault(note, []).append(one.name)
    own = [("", note) for note in contents.notes]
    return own + [(", ".join(members), note) for note, members in names.items()]


def _test(one: Predictor) -> Mapping[str, float]:
    return one.scores.get("test", {})


def _scale(scored: Sequence[Predictor], metric: MetricWords) -> Scale:
    factor = 100 if metric.percent else 1
    values = [_test(one).get(metric.name) for one in scored]
    values += [end for one in scored for end in one.intervals.get(metric.name, ())]
    limits = (
        (0.0, 100.0)
        if metric.percent
        else (0.0 if min(finite(values) or [0]) >= 0 else -9e99, 9e99)
    )
    return Scale.covering([factor * value for value in finite(values)], limits=limits)


def _position(one: Predictor, metric: MetricWords, scale: Scale) -> float | None:
    known = finite([_test(one).get(metric.name)])
    return scale.at((100 if metric.percent else 1) * known[0]) if known else None


def _best(scored: Sequence[Predictor], metrics: Sequence[MetricWords]) -> dict[str, str]:
    """Metric → its best value as it is written, so that values that look equal are marked alike."""
    best = {}
    for metric in metrics:
        values = finite([_test(one).get(metric.name) for one in scored])
        if values and metric.higher_is_better is not None:
            value = max(values) if metric.higher_is_better else min(values)
            best[metric.name] = score_or_dash(value, metric.percent)
    return best


def _row(
    one: Predictor,
    contents: Contents,
    metrics: Sequence[MetricWords],
    scale: Scale,
    best: Mapping[str, str],
) -> dict[str, Any]:
    cells = []
    for metric in metrics:
        text = score_or_dash(_test(one).get(metric.name), metric.percent)
        ends = one.intervals.get(metric.name)
        written = [score_or_dash(end, metric.percent) for end in ends] if ends else []
        cells.append({"text": text, "ends": written, "best": text == best.get(metric.name)})
    ends = one.intervals.get(metrics[0].name)
    factor = 100 if metrics[0].percent else 1
    return {
        "name": one.name,
        "origin": one.origin if one.origin != one.name else "",
        "status": one.status,
        "error": one.error or "no reason was recorded",
        "chosen": one.name == contents.chosen,
        "best_member": one.name == contents.best_member,
        "cells": cells,
        "p_value": p_words(one.p_value),
        "p_holm": p_words(one.p_holm),
        "at": _position(one, metrics[0], scale),
        "whisker": [scale.at(factor * end) for end in ends]
        if ends and len(finite(ends)) == 2
        else None,
    }
