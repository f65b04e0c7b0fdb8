# SPDX-License-Identifier: Apache-2.0
"""Interface of a section of the report."""

import abc
from typing import Any, ClassVar

from fusetune.plugins import plugin_name
from fusetune.report.contents import Contents

__all__ = ["Section"]


class Section(abc.ABC):
    """One part of the page: turns contents into what its template needs.

    The template is `templates/sections/<name>.html`; it sees the section's content under the
    content's own keys.
    """

    title: ClassVar[str]
    order: ClassVar[int]
    """Place on the page; sections stand in rising order."""

    @property
    def name(self) -> str:
        """Name of the section, its anchor and its template: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def content(self, contents: Contents) -> dict[str, Any] | None:
        """What the template needs, or None where there is nothing to show."""
