# SPDX-License-Identifier: Apache-2.0
"""The resolved recipe: what was run, with every default filled in."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["Recipe"]


class Recipe(Section):
    """The recipe as YAML."""

    title: ClassVar[str] = "Recipe"
    order: ClassVar[int] = 90

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for a run that has no recipe."""
        if not (contents.recipe or "").strip():
            return None
        return {"recipe": (contents.recipe or "").rstrip(), "seed": contents.seed}
