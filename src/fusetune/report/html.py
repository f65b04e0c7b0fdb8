# SPDX-License-Identifier: Apache-2.0
"""One self-contained page: sections in order, styles and plots inline, no request leaves it."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fusetune import __version__
from fusetune.evaluate.verdict import Judged
from fusetune.plugins import discover
from fusetune.report.contents import Contents
from fusetune.report.section import Section

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render"]

FOOTERS: Mapping[Judged, str] = {
    "test": "Every score is measured on test rows that fitted nothing.",
    "cross_fitted": "Every score of a fusion is measured on rows that did not fit what predicts them.",
    "in_sample": "Fusions are scored on the rows that fitted them, which flatters them.",
}


def render(contents: Contents) -> str:
    """The report as one HTML document; the same contents give the same bytes.

    A content security policy in the page forbids every request and every script but the page's
    own, so that nothing leaves it even if a name of the user's were to break out of its quotes.
    """
    templates = _environment()
    sections = []
    for section in sorted((make() for make in discover(Section).values()), key=lambda s: s.order):
        content = section.content(contents)
        if content is not None:
            body = templates.get_template(f"sections/{section.name}.html").render(content)
            sections.append({"name": section.name, "title": section.title, "body": body})
    script = _source("page.js").strip()
    return templates.get_template("page.html").render(
        run_name=contents.run_name,
        task=contents.task.replace("_", " "),
        headline=contents.verdict.headline if contents.verdict else "No verdict",
        footer=FOOTERS[contents.judged],
        decision=contents.verdict.decision if contents.verdict else "none",
        sections=sections,
        style=_source("page.css").strip(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fusetune.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["path"] = _path
    environment.globals["dots"] = _dots
    return environment


def _source(name: str) -> str:
    return (files("fusetune.report") / "templates" / name).read_text(encoding="utf-8")


def _path(points: list[tuple[Any, ...]]) -> str:
    """Points as the `d` of an SVG path."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y, *_ in points) if points else ""


def _dots(points: list[tuple[float, float]]) -> str:
    """Points as lines of no length, which round caps make dots."""
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)
