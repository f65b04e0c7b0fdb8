# SPDX-License-Identifier: Apache-2.0
"""Every class of a detection run by itself: the best member beside the chosen predictor."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["PerClass"]

MOST_CLASSES = 30


class PerClass(Section):
    """Average precision of each class, the hardest first."""

    title: ClassVar[str] = "Classes"
    order: ClassVar[int] = 63

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds."""
        if not contents.per_class:
            return None
        names = list(dict.fromkeys([contents.best_member, contents.chosen]))
        rows = sorted(
            contents.per_class, key=lambda row: row["average_precision"].get(names[-1], 0.0)
        )
        return {
            "names": names,
            "rows_name": contents.rows_name,
            "num_rows": contents.rows.get("test", 0),
            "left_out": max(0, len(rows) - MOST_CLASSES),
            "rows": [
                {
                    "name": row["class"],
                    "objects": row["objects"],
                    "values": [f"{100 * row['average_precision'][name]:.1f}" for name in names],
                    "width": round(100 * row["average_precision"][names[-1]], 1),
                }
                for row in rows[:MOST_CLASSES]
            ],
        }
