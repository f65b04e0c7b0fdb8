# SPDX-License-Identifier: Apache-2.0
"""Precision by recall of detections: the chosen predictor bold, the best member dashed, others thin."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["PrecisionRecall"]

SHOWN = (10, 30, 50, 70, 90)  # percent of recall that the table has


class PrecisionRecall(Section):
    """Curves at an overlap of a half, their mean over the classes, and some of their values."""

    title: ClassVar[str] = "Precision and recall"
    order: ClassVar[int] = 58

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds."""
        found = contents.precision_recall
        if not found:
            return None
        curves = found["precision"]
        others = [name for name in curves if name not in (contents.chosen, contents.best_member)]
        ordered = [*dict.fromkeys([contents.chosen, contents.best_member]), *others]
        members = {one.name for one in contents.members if one.status == "ok"}
        return {
            "chosen_name": contents.chosen,
            "best_member": contents.best_member,
            "others": [(name, _points(curves[name])) for name in others],
            "best": _points(curves[contents.best_member])
            if contents.best_member != contents.chosen
            else [],
            "chosen": _points(curves[contents.chosen]),
            "axis": [(share, f"{share}") for share in (0, 25, 50, 75, 100)],
            "overlap": found["overlap"],
            "left_out": len(members - set(curves)),
            "shown": SHOWN,
            "rows": [
                {
                    "name": name,
                    "area": f"{100 * found['average_precision'][name]:.1f}",
                    "cells": [f"{100 * curves[name][level]:.1f}" for level in SHOWN],
                }
                for name in ordered
            ],
        }


def _points(precision: list[float]) -> list[tuple[float, float]]:
    """From precision at recalls of 0 to 100 percent, without the points between equal ones."""
    kept = [
        level
        for level, value in enumerate(precision)
        if level in (0, len(precision) - 1)
        or not precision[level - 1] == value == precision[level + 1]
    ]
    return [(float(level), round(100 - 100 * precision[level], 2)) for level in kept]
