# SPDX-License-Identifier: Apache-2.0
"""Small, medium and large objects by themselves: the best member beside the chosen predictor."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.gains import gain_table
from fusetune.report.section import Section

__all__ = ["Sizes"]


class Sizes(Section):
    """Average precision of the objects of each size, and its gain."""

    title: ClassVar[str] = "Sizes of objects"
    order: ClassVar[int] = 65

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds, and where all objects are of one size."""
        if sum(entry["objects"] > 0 for entry in contents.by_size) < 2:
            return None
        names = list(dict.fromkeys([contents.best_member, contents.chosen]))
        return {
            "table": gain_table(contents.by_size, "size", "objects", "average_precision", names),
            "best_member": contents.best_member,
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
        }
