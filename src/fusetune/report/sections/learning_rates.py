# SPDX-License-Identifier: Apache-2.0
"""Learning-rate range tests: the loss at rising rates, and the rate that was taken."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.scale import Scale
from fusetune.report.section import Section

__all__ = ["LearningRates"]


class LearningRates(Section):
    """One small panel per member whose rate came from a test; each has a scale of its own."""

    title: ClassVar[str] = "Learning-rate range tests"
    order: ClassVar[int] = 21

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where no member's rate came from a test."""
        panels = [_panel(name, test) for name, test in contents.range_tests.items()]
        return {"panels": panels} if panels else None


def _panel(name: str, test: Mapping[str, Any]) -> dict[str, Any]:
    logs = [math.log10(rate) for rate in test["rates"]]
    first, last = (logs[0], max(logs[-1], logs[0] + 1)) if logs else (0.0, 1.0)
    across, up = Scale(first, last, 1), Scale.covering(test["losses"], num_ticks=3)
    points = zip(logs, test["losses"], strict=True)
    taken = math.log10(test["lr"])
    return {
        "name": name,
        "points": [(across.at(log), up.up(loss)) for log, loss in points],
        "loss_ticks": up.ticks(),
        "decades": [
            (across.at(decade), str(decade).replace("-", "−"))
            for decade in range(math.ceil(first), math.floor(last) + 1)
        ],
        "taken_at": across.at(taken) if test["fell"] and first <= taken <= last else None,
        "words": f"{test['lr']:.2g} was taken"
        + ("" if test["fell"] else ": no rate lowered the loss"),
    }
