# SPDX-License-Identifier: Apache-2.0
"""What calibrating the chosen predictor changed: every metric before and after."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section
from fusetune.report.words import MetricWords, score_or_dash

__all__ = ["Calibration"]

EQUAL_MASS = "_equal_mass"


class Calibration(Section):
    """Scores before and after, the better one bold."""

    title: ClassVar[str] = "Calibration"
    order: ClassVar[int] = 50

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where nothing was calibrated."""
        found = contents.calibration
        if found is None:
            return None
        places = {name: place for place, name in enumerate(found.before)}
        names = sorted(places, key=lambda name: places.get(name.removesuffix(EQUAL_MASS), 0))
        return {
            "method": found.method,
            "chosen_name": contents.chosen,
            "judged": contents.judged,
            "rows": [_row(name, found.before[name], found.after.get(name)) for name in names],
            "drawn": bool(found.bins),
        }


def _row(name: str, before: float, after: float | None) -> dict[str, Any]:
    metric = MetricWords(name.removesuffix(EQUAL_MASS))
    gain = 0.0 if after is None else (after - before if metric.higher_is_better else before - after)
    written = [score_or_dash(value, metric.percent) for value in (before, after)]
    better = "" if written[0] == written[1] else ("after" if gain > 0 else "before")
    bins = ", bins of equal mass" if name.endswith(EQUAL_MASS) else ""
    if metric.name == "expected_calibration_error" and not bins:
        bins = ", bins of equal width"
    return {
        "metric": metric,
        "bins": bins,
        "before": written[0],
        "after": written[1],
        "better": better,
    }
