# SPDX-License-Identifier: Apache-2.0
"""Reliability diagram: is a row that gets 80 % right in 80 % of cases?

Shapes: B bins.
"""

from typing import Any, ClassVar

import numpy as np

from fusetune.evaluate.reliability import reliability
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["Reliability"]

BINS = ("rows", "confidence", "accuracy")
FEWEST_ROWS = 10  # a share of fewer rows says little, and its dot would stand anywhere


class Reliability(Section):
    """Confidence against accuracy: members thin, the chosen one bold, dashed before calibration."""

    title: ClassVar[str] = "Reliability"
    order: ClassVar[int] = 52

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where the run's predictions or targets are not there."""
        test = contents.test
        if test is None:
            return None
        members = {name: _bins(part, test.targets) for name, part in test.members.items()}
        chosen = _bins(test.chosen, test.targets) if test.chosen is not None else None
        if not (chosen or members):
            return None
        return {
            "members": [
                (name, [dot[:2] for dot in bins["dots"]]) for name, bins in members.items()
            ],
            "chosen": chosen,
            "before": _before(contents) if chosen else [],
            "chosen_name": contents.chosen,
            "fewest": FEWEST_ROWS,
            "axis": [(share, f"{share}") for share in (0, 25, 50, 75, 100)],
        }


def _before(contents: Contents) -> list[tuple[float, float]]:
    """Dots of the chosen predictor before it was calibrated; none where it was not."""
    bins = contents.calibration.bins if contents.calibration else {}
    return [
        (round(100 * x, 2), round(100 - 100 * y, 2))
        for rows, x, y in zip(*(bins.get(name, ()) for name in BINS), strict=True)
        if rows >= FEWEST_ROWS
    ]


def _bins(prediction: Probabilities, targets: Targets) -> dict[str, Any]:
    """Dots (x, y from the top, radius, words) of the bins, and the shares of rows per bin."""
    found = reliability(prediction, targets)
    dots = []
    for index in np.flatnonzero(found.counts_B >= FEWEST_ROWS):
        x, y = 100 * found.confidence_B[index], 100 * found.accuracy_B[index]
        share = found.counts_B[index] / found.counts_B.sum()
        words = f"{found.counts_B[index]:,} rows: confidence {x:.1f} %, right {y:.1f} %"
        dots.append((round(x, 2), round(100 - y, 2), round(2.5 + 4.5 * share**0.5, 1), words))
    most = max(1, int(found.counts_B.max()))
    bars = [(10 * i, round(100 * int(n) / most, 1), int(n)) for i, n in enumerate(found.counts_B)]
    return {"dots": dots, "bars": bars}
