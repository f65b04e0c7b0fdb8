# SPDX-License-Identifier: Apache-2.0
"""How differently members err: fusing lives on members that err on different rows."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fusetune.predictions.kinds import Floats
from fusetune.report.contents import Contents, Pairs
from fusetune.report.section import Section
from fusetune.report.words import DASH

__all__ = ["Diversity"]

LEAST_SPREAD = 0.02  # below two points all shades are alike


@dataclass(frozen=True)
class _Measure:
    title: str
    meaning: str
    percent: bool = True

    def text(self, value: float | None) -> str:
        if value is None:
            return DASH
        return f"{100 * value:.1f}" if self.percent else f"{value:.2f}".replace("-", "−")

    def with_unit(self, value: float | None) -> str:
        return self.text(value) + "\u202f%" * (self.percent and value is not None)


MEASURES = {
    "agreement": _Measure("Agreement", "both say the same"),
    "disagreement": _Measure("Disagreement", "exactly one of the two is right"),
    "double_fault": _Measure("Double fault", "both are wrong"),
    "q_statistic": _Measure(
        "Q statistic", "1: right on the same rows; 0: as independent members", percent=False
    ),
    "error_correlation": _Measure(
        "Error correlation", "1: err on the same rows; 0: independently", percent=False
    ),
}
ORACLE = _Measure(
    "Oracle accuracy", "at least one of all is right: no choice among them does better"
)
RESIDUALS = (
    "1: err by the same amounts; 0: independently, so that averaging halves the variance of two"
)


class Diversity(Section):
    """A shaded matrix of all pairs of members, means of other measures, and their matrices folded."""

    title: ClassVar[str] = "Diversity of members"
    order: ClassVar[int] = 40

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None with fewer than two members."""
        pairs = contents.diversity
        first = next((name for name in ("agreement", "error_correlation") if name in pairs), None)
        if first is None or pairs[first].matrix_MM is None:
            return None
        measures = [
            (measure.title, measure.with_unit(pairs[name].mean), measure.meaning)
            for name, measure in MEASURES.items()
            if name in pairs and pairs[name].mean is not None
        ]
        if first == "error_correlation":
            measures = [(title, text, RESIDUALS) for title, text, _ in measures]
        if contents.oracle_accuracy is not None:
            text = ORACLE.with_unit(contents.oracle_accuracy)
            measures.append((ORACLE.title, text, ORACLE.meaning))
        return {
            "matrix": _matrix(first, pairs[first]),
            "ends": _ends(first, pairs[first]),
            "percent": MEASURES[first].percent,
            "labels": contents.labels is not None,
            "rows_name": contents.rows_name,
            "measures": measures if len(measures) > 1 else [],
            "folded": [
                _matrix(name, pairs[name])
                for name in MEASURES
                if name != first and name in pairs and pairs[name].matrix_MM is not None
            ],
        }


def _matrix(name: str, pairs: Pairs) -> dict[str, Any]:
    """The cells' texts and shades; the diagonal says nothing of a pair."""
    measure, matrix_MM = MEASURES[name], pairs.matrix_MM
    assert matrix_MM is not None
    others = [matrix_MM[i, j] for i, j in _off_diagonal(matrix_MM)]
    low = min(others)
    spread = max(max(others) - low, LEAST_SPREAD)
    rows = []
    for i, member in enumerate(pairs.members):
        cells = [
            None
            if i == j
            else {
                "text": measure.text(float(value)),
                "shade": round(4 + 38 * float(value - low) / spread),
            }
            for j, value in enumerate(matrix_MM[i])
        ]
        rows.append((i + 1, member, cells))
    unit = ", %" if measure.percent else ""
    return {"title": f"{measure.title}{unit}", "meaning": measure.meaning, "rows": rows}


def _ends(name: str, pairs: Pairs) -> list[tuple[str, str, str]]:
    """The least and the greatest value with its two members; with one pair, that one."""
    matrix_MM = pairs.matrix_MM
    assert matrix_MM is not None
    values = [(float(matrix_MM[i, j]), i, j) for i, j in _off_diagonal(matrix_MM) if j < i]
    found = [min(values), max(values)] if len(values) > 1 else values
    text, members = MEASURES[name].text, pairs.members
    return [(text(value), members[j], members[i]) for value, i, j in found]


def _off_diagonal(matrix_MM: Floats) -> list[tuple[int, int]]:
    places = range(len(matrix_MM))
    return [(i, j) for i in places for j in places if i != j]
