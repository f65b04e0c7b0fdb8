# SPDX-License-Identifier: Apache-2.0
"""Gains of the chosen predictor over the best member, part by part, as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from fusetune.evaluate.words import format_score
from fusetune.report.scale import Scale, finite
from fusetune.report.words import DASH

__all__ = ["FEW_OBJECTS", "gain_table"]

FEW_OBJECTS = 30  # fewer than that are marked: one object more or less moves the score by points


def gain_table(
    entries: Sequence[Mapping[str, Any]],
    part: str,
    counted: str,
    measure: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """What `templates/gains.html` draws.

    Args:
        entries: Of `evaluate.per_class`.
        part: Key of an entry's name: `class` or `size`.
        counted: Key of what there is of it: `objects` or `pixels`.
        measure: Key of its values.
        names: Whose values are shown; of two, the second's gain over the first.
    """
    paired = len(names) > 1
    ends = [100 * end for entry in entries for end in _drawn(entry)] if paired else []
    scale = Scale.covering([*finite(ends), 0.0], num_ticks=4)
    rows = []
    for entry in entries:
        few = counted == "objects" and entry[counted] < FEW_OBJECTS
        drawn = _drawn(entry) if paired else []
        rows.append(
            {
                "name": entry[part],
                "counted": entry[counted],
                "few": few,
                "values": [_percent(entry[measure].get(name)) for name in names],
                "gain": format_score(entry["gain"], True, sign="+") if drawn else DASH,
                "ends": [format_score(end, True, sign="+") for end in drawn[1:]],
                "at": scale.at(100 * drawn[0]) if drawn else None,
                "whisker": [scale.at(100 * end) for end in drawn[1:]],
            }
        )
    return {
        "names": list(names),
        "paired": paired,
        "rows": rows,
        "ticks": scale.ticks(),
        "zero": scale.at(0.0),
        "few_objects": FEW_OBJECTS if any(row["few"] for row in rows) else 0,
    }


def _drawn(entry: Mapping[str, Any]) -> list[float]:
    """The gain and perhaps the ends of its interval; nothing where it has no value."""
    gain, interval = entry.get("gain"), entry.get("interval")
    return [] if gain is None else [gain, *(interval or ())]


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"
