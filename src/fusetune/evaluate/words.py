# SPDX-License-Identifier: Apache-2.0
"""How scores are written for people: the terminal, the verdict and the report say it alike."""

from typing import Literal

from fusetune.errors import UnknownName
from fusetune.metric import Metric
from fusetune.plugins import find

__all__ = ["describe_metric", "format_score"]


def describe_metric(name: str) -> tuple[str, bool]:
    """Title of a metric as it stands inside a sentence, and whether it is read in percent."""
    try:
        metric = find(Metric, name)
    except UnknownName:  # results of a run that used somebody else's plug-in
        return name, False
    title = metric.title
    if title[1:2].islower() and not title.startswith("Brier"):
        title = title[0].lower() + title[1:]
    return title, metric.percent


def format_score(value: float, percent: bool, *, sign: Literal["-", "+"] = "-") -> str:
    """A score, or a difference of scores, as people read it: `93.41` of a share, else `0.2123`.

    Example:
        >>> format_score(0.0125, True, sign="+"), format_score(0.2, False)
        ('+1.25', '0.2000')
    """
    text = f"{100 * value:{sign}.2f}" if percent else f"{value:{sign}.4f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "−")
