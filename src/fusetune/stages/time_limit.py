# SPDX-License-Identifier: Apache-2.0
"""How a run divides a limited time among its members, and keeps some for what comes after them."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Budget

__all__ = ["TimeLimit", "fusing_seconds", "seconds_of"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
FUSING_SHARE = 0.1
"""Of the limit, for fusing, judging and the report where no earlier run has measured them."""
FUSING_LEAST_S, FUSING_MOST_S = 5.0, 120.0
LOADINGS = 4.0
"""Least time of a member, as a multiple of that of loading it: twice it is loaded, and as long
again it should be fine-tuned and predicted."""


def seconds_of(limit: str | float) -> float:
    """Seconds of a time limit: a number of them, or `90s`, `30m`, `2h`, `1h30m`.

    Raises:
        InvalidValue: It is none of these, or not above 0.

    Example:
        >>> seconds_of("1h30m"), seconds_of("90s"), seconds_of(5)
        (5400.0, 90.0, 5.0)
    """
    text = str(limit).strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text:
        seconds = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
    if seconds <= 0:
        raise InvalidValue(
            f"the time limit is '{limit}'",
            "a time above 0 like 90s, 30m, 2h or 1h30m",
            "Write --time-limit 30m.",
        )
    return seconds


class TimeLimit:
    """The time that a run has.

    Every member that is not fine-tuned yet gets an equal share of what is left when its turn comes,
    but no less than it needs to be loaded and to begin; what it does not use is left to the others.

    Args:
        seconds: Of the whole run, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends_at = time.monotonic() + seconds
        self._fusing_s = 0.0
        self._waiting: dict[str, float] = {}
        self._one_by_one: dict[str, tuple[str, ...]] = {}

    @contextmanager
    def loading(self, *members: str) -> Iterator[None]:
        """Measures what loading takes of a member that waits to be fine-tuned.

        Args:
            members: Its name; of a folded member, those of its fine-tunings, which get shares of
                their own and are done one after another.
        """
        before = time.monotonic()
        yield
        self._waiting |= dict.fromkeys(members, time.monotonic() - before)
        self._one_by_one |= dict.fromkeys(members, members)

    def give_up(self, members: Iterable[str]) -> None:
        """These do not wait any more: others get their shares."""
        for member in members:
            self._waiting.pop(member, None)

    def keep(self, measured_s: float | None) -> None:
        """Keep time for fusing, judging and the report: half more than it took before, if it did."""
        guess = min(max(FUSING_SHARE * self.seconds, FUSING_LEAST_S), FUSING_MOST_S)
        self._fusing_s = guess if measured_s is None else max(1.5 * measured_s, FUSING_LEAST_S)

    def budget(self, member: str, rows: int, side_by_side: int = 1) -> Budget | None:
        """The time of a member whose turn it is; None: there is not enough left.

        Args:
            member: Its name.
            rows: Number of rows that it has to predict.
            side_by_side: How many members are made at the same time.
        """
        now = time.monotonic()
        left = self._ends_at - self._fusing_s - now
        loading = self._waiting.get(member, 0.0)
        own = sum(name in self._waiting for name in self._one_by_one.get(member, ()))
        turns = max(1.0, own, len(self._waiting) / side_by_side)
        share = max(left / turns, LOADINGS * loading)
        self._waiting.pop(member, None)
        return Budget(now + share - loading, rows) if 0 < share <= left else None


def fusing_seconds(log: Path) -> float | None:
    """Most seconds from fusing to the end in the whole runs that a log tells of; None: no such."""
    began = seconds = None
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a kill or a full disk cut it
        if event.get("phase") == "fuse":
            began = event["time"]
        elif event.get("phase") == "done" and began is not None:
            seconds = max(seconds or 0.0, event["time"] - began)
    return seconds
