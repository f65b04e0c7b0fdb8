# SPDX-License-Identifier: Apache-2.0
"""Every class of a detection or segmentation run by itself: the best member beside the chosen predictor."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.gains import gain_table
from fusetune.report.section import Section

__all__ = ["PerClass"]

MOST_CLASSES = 30


class PerClass(Section):
    """Average precision, or intersection over union, of each class and its gain, the hardest first."""

    title: ClassVar[str] = "Classes"
    order: ClassVar[int] = 63

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds."""
        if not contents.per_class:
            return None
        names = list(dict.fromkeys([contents.best_member, contents.chosen]))
        masks = "pixels" in contents.per_class[0]
        measure = "intersection_over_union" if masks else "average_precision"
        rows = sorted(contents.per_class, key=lambda row: row[measure].get(names[-1]) or 0.0)
        counted = "pixels" if masks else "objects"
        return {
            "table": gain_table(rows[:MOST_CLASSES], "class", counted, measure, names),
            "masks": masks,
            "best_member": contents.best_member,
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
            "num_rows": contents.rows.get("test", 0),
            "left_out": max(0, len(rows) - MOST_CLASSES),
        }
