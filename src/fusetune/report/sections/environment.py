# SPDX-License-Identifier: Apache-2.0
"""Where the figures were made: versions, machine, threads."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["Environment"]


class Environment(Section):
    """Versions and machine."""

    title: ClassVar[str] = "Environment"
    order: ClassVar[int] = 100

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where nothing was recorded."""
        if not contents.environment:
            return None
        return {
            "pairs": [
                (name.replace("_", " "), value) for name, value in contents.environment.items()
            ]
        }
