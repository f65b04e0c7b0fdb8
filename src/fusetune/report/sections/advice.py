# SPDX-License-Identifier: Apache-2.0
"""What to do with these members: sentences that each name the figures they follow from."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["Advice"]


class Advice(Section):
    """The advice of `evaluate.advice`, as it stands in results.json."""

    title: ClassVar[str] = "Advice"
    order: ClassVar[int] = 5

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where the figures say nothing."""
        return {"sentences": contents.advice} if contents.advice else None
