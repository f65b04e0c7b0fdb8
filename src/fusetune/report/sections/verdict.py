# SPDX-License-Identifier: Apache-2.0
"""The answer, first: one sentence, the gain drawn with its interval, the facts beside it."""

from typing import Any, ClassVar

from fusetune.evaluate.verdict import Verdict as Judged
from fusetune.evaluate.words import describe_metric, format_score
from fusetune.report.contents import Contents
from fusetune.report.scale import Scale
from fusetune.report.section import Section
from fusetune.report.words import count, p_words, times

__all__ = ["Verdict"]


class Verdict(Section):
    """Was it worth it?"""

    title: ClassVar[str] = "Verdict"
    order: ClassVar[int] = 0

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """The page has always this section: it holds the page's first heading."""
        judged = contents.verdict
        if judged is None:
            return {"verdict": None, "facts": _rows(contents)}
        headline, _, rest = judged.sentence().partition(": ")
        return {
            "verdict": judged,
            "headline": headline,
            "rest": rest,
            "rows_name": contents.rows_name,
            "gain": _gain(judged) if judged.interval[0] < judged.interval[1] else None,
            "facts": _facts(judged) + _rows(contents),
        }


def _gain(judged: Judged) -> dict[str, Any]:
    """Positions of the drawn gain, in the units people read."""
    title, percent = describe_metric(judged.compared.metric)
    factor = 100 if percent else 1
    asked = judged.rule.min_gain
    scale = Scale.covering(
        [factor * value for value in (*judged.interval, 0.0, asked)], pad=0.12, num_ticks=5
    )
    at = {name: scale.at(factor * value) for name, value in _named(judged)}
    words = {name: format_score(value, percent, sign="+") for name, value in _named(judged)}
    return {
        "at": at,
        "words": words,
        "asked": asked > 0,
        "ticks": scale.ticks(),
        "unit": f"{'points' if percent else 'gain'} of {title}",
    }


def _named(judged: Judged) -> list[tuple[str, float]]:
    low, high = judged.interval
    asked = judged.rule.min_gain
    return [("low", low), ("high", high), ("gain", judged.gain), ("zero", 0.0), ("asked", asked)]


def _facts(judged: Judged) -> list[tuple[str, str, str]]:
    title, percent = describe_metric(judged.compared.metric)
    low, high = (format_score(end, percent, sign="+") for end in judged.interval)
    unit = f"points of {title}" if percent else title
    mcnemar = judged.compared.metric == "accuracy"
    limit = judged.rule.max_cost_ratio
    return [
        ("Gain", format_score(judged.gain, percent, sign="+"), unit),
        (f"{100 * judged.level:g} % interval", f"{low} to {high}", "paired bootstrap"),
        ("p-value", p_words(judged.p_value), "McNemar, mid-p" if mcnemar else "permutation"),
        (
            "Cost per row",
            times(judged.cost_ratio),
            "of the best member’s" if limit is None else f"limit {limit:g}×",
        ),
    ]


def _rows(contents: Contents) -> list[tuple[str, str, str]]:
    fitted = f"fitted the fusion, predicted out of {contents.folds} folds"
    uses = {"test": "judged once", "holdout": fitted if contents.folds else "fitted the fusion"}
    judged = contents.verdict.compared.judged if contents.verdict else "test"
    if judged != "test":
        how = {"cross_fitted": "cross-fitted", "in_sample": "fitted and judged the fusion"}[judged]
        return [("Rows", count(contents.rows["test"]), how)]
    return [
        (f"{role.capitalize()} rows", count(contents.rows[role]), use)
        for role, use in uses.items()
        if role in contents.rows
    ]
