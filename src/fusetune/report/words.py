# SPDX-License-Identifier: Apache-2.0
"""How the report writes amounts; scores are written by `evaluate.words`."""

import math

from fusetune.errors import UnknownName
from fusetune.evaluate.words import format_score
from fusetune.metric import Metric
from fusetune.plugins import find

__all__ = [
    "DASH",
    "MetricWords",
    "and_list",
    "best_tag",
    "count",
    "duration",
    "p_words",
    "per_row",
    "score_or_dash",
    "shortened",
    "times",
]

DASH = "–"


class MetricWords:
    """What the report has to know of a metric; also of one whose plug-in is not installed."""

    def __init__(self, name: str) -> None:
        try:
            metric = find(Metric, name)
            self.title, self.percent = metric.title, metric.percent
            self.higher_is_better: bool | None = metric.higher_is_better
        except UnknownName:
            self.title, self.percent, self.higher_is_better = name, False, None
        self.name = name

    @property
    def arrow(self) -> str:
        """`↑` where higher is better, `↓` where lower is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def arrow_meaning(self) -> str:
        """The arrow in words."""
        words = {True: "higher is better", False: "lower is better", None: ""}
        return words[self.higher_is_better]


def score_or_dash(value: float | None, percent: bool, *, sign: bool = False) -> str:
    """A score, `∞` or a dash."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return format_score(value, percent, sign="+" if sign else "-")


def best_tag(judged: str) -> str:
    """What the best member is called, by what the judged rows are."""
    return "best on holdout" if judged == "test" else "best member"


def p_words(p_value: float | None) -> str:
    """A p-value as people read it.

    Example:
        >>> p_words(0.0312), p_words(1e-9), p_words(None)
        ('0.031', '< 0.001', '–')
    """
    if p_value is None:
        return DASH
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(3725), duration(61.4), duration(2.345), duration(0.0123), duration(None)
        ('1 h 2 min', '1 min 1 s', '2.3 s', '12 ms', '–')
    """
    if seconds is None:
        return DASH
    if seconds < 0.9995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def per_row(seconds: float | None) -> str:
    """Milliseconds per row, three digits.

    Example:
        >>> per_row(0.0123456), per_row(0.1234), per_row(0.0000123)
        ('12.3', '123', '0.0123')
    """
    if seconds is None:
        return DASH
    milliseconds = 1000 * seconds
    if milliseconds == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(milliseconds)))
    return f"{milliseconds:,.{min(digits, 5)}f}"


def count(number: int | None) -> str:
    """A number of parameters or rows: `1,234`, from a million on `11.2 M`.

    Example:
        >>> count(1234), count(11_181_642), count(1_234_567_890)
        ('1,234', '11.2 M', '1.23 G')
    """
    if number is None:
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def times(ratio: float | None) -> str:
    """A ratio of costs: `3.1×`.

    Example:
        >>> times(3.14159), times(120.4), times(None)
        ('3.1×', '120×', '–')
    """
    if ratio is None:
        return DASH
    return f"{ratio:.1f}×" if ratio < 99.95 else f"{ratio:,.0f}×"


def shortened(name: str, most: int) -> str:
    """A long name without its middle: both ends tell names apart.

    Example:
        >>> shortened("timm-inception_v3.tv_in1k", 15), shortened("short", 15)
        ('timm-in…tv_in1k', 'short')
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def and_list(names: list[str]) -> str:
    """Names in a sentence.

    Example:
        >>> and_list(["vote", "stacking", "auto"]), and_list(["vote"]), and_list([])
        ('vote, stacking and auto', 'vote', '')
    """
    return " and ".join(part for part in [", ".join(names[:-1]), *names[-1:]] if part)
