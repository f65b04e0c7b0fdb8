# SPDX-License-Identifier: Apache-2.0
"""Predicted numbers beside true ones, and how the errors of every member and the chosen one spread.

Shapes: N rows, D numbers, Q quantiles.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import PredictionError
from fusetune.predictions.kinds import Floats, Values
from fusetune.predictions.points import point_errors
from fusetune.predictions.targets import Numbers
from fusetune.report.contents import Contents
from fusetune.report.rows import JudgedRows
from fusetune.report.scale import Scale
from fusetune.report.section import Section

__all__ = ["Residuals"]

MOST_NUMBERS = 6  # that are drawn, of targets with more columns
MOST_POINTS = 1500  # in a plot: more would only darken it
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Residuals(Section):
    """A plot and a table for each number; for quantiles, how many rows lie below them."""

    title: ClassVar[str] = "Predicted and true numbers"
    order: ClassVar[int] = 62

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds, or where predictions or targets are not there."""
        rows = contents.numbers
        if rows is None or not len(rows.targets):
            return None
        errors = _errors(rows, contents.chosen)
        names = rows.targets.names[:MOST_NUMBERS]
        levels = _levels(rows, contents.chosen)
        if not (errors or levels):
            return None
        return {
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
            "num_rows": len(rows.targets),
            "num_points": min(MOST_POINTS, len(rows.targets)),
            "several": len(names) > 1,
            "panels": [
                _panel(name, rows.targets.values_ND[:, column], errors[contents.chosen][:, column])
                for column, name in enumerate(names)
                if contents.chosen in errors
            ],
            "spreads": [_spread(name, column, errors) for column, name in enumerate(names)],
            "left_out": len(rows.targets.names) - len(names),
            "levels": levels,
        }


def _errors(rows: JudgedRows[Values, Numbers], chosen: str) -> dict[str, Floats]:
    """Member, and the chosen one last → `(N, D)` predicted minus true; those that have them."""
    errors = {}
    for name, part in _everybody(rows, chosen).items():
        try:
            errors[name] = point_errors(part, rows.targets)
        except PredictionError:  # a column less, or quantiles without a median
            continue
    return errors


def _everybody(rows: JudgedRows[Values, Numbers], chosen: str) -> dict[str, Values]:
    return {**rows.members, **({} if rows.chosen is None else {chosen: rows.chosen})}


def _panel(name: str, true_N: Floats, errors_N: Floats) -> dict[str, Any]:
    """Points of some rows, evenly over the true values; both axes on one scale."""
    order_N = np.argsort(true_N, kind="stable")
    shown = order_N[np.linspace(0, len(order_N) - 1, min(MOST_POINTS, len(order_N))).astype(int)]
    said = true_N[shown] + errors_N[shown]
    scale = Scale.covering([*true_N[shown].tolist(), *said.tolist()])
    return {
        "name": name,
        "ticks": scale.ticks(),
        "points": [
            (round(scale.at(x), 1), round(scale.up(y), 1))
            for x, y in zip(true_N[shown].tolist(), said.tolist(), strict=True)
        ],
    }


def _spread(name: str, column: int, errors: Mapping[str, Floats]) -> dict[str, Any]:
    """Quantiles of everybody's errors in one number, written and on one scale."""
    found = {one: np.quantile(errors_ND[:, column], QUANTILES) for one, errors_ND in errors.items()}
    ends = [value for quantiles_Q in found.values() for value in quantiles_Q.tolist()]
    scale = Scale.covering([*ends, 0.0], num_ticks=3)
    size = max(map(abs, ends), default=1.0)
    return {
        "name": name,
        "ticks": scale.ticks(),
        "zero": scale.at(0.0),
        "rows": [
            {
                "name": one,
                "cells": [_written(value, size) for value in quantiles_Q.tolist()],
                "at": [scale.at(value) for value in quantiles_Q.tolist()],
            }
            for one, quantiles_Q in found.items()
        ],
    }


def _written(value: float, size: float) -> str:
    """Three digits of the largest, as many places for all."""
    places = int(np.clip(2 - np.floor(np.log10(size)), 0, 6)) if size > 0 else 0
    text = f"{value:+,.{places}f}"
    return (text.lstrip("+-") if not float(text.replace(",", "")) else text).replace("-", "−")


def _levels(rows: JudgedRows[Values, Numbers], chosen: str) -> dict[str, Any] | None:
    """For each quantile the percent of rows at or below it: as many as its level says, at best."""
    quantiles = {name: part for name, part in _everybody(rows, chosen).items() if part.levels}
    if not quantiles or len(rows.targets.names) > 1:
        return None
    levels = dict.fromkeys(level for part in quantiles.values() for level in part.levels)
    names = sorted(levels)
    table = []
    for name, part in quantiles.items():
        below = (rows.targets.values_ND <= part.values_ND).mean(axis=0).tolist()
        share = dict(zip(part.levels, below, strict=True))
        cells = [f"{100 * share[level]:.1f}" if level in share else "–" for level in names]
        table.append((name, cells))
    return {"names": [f"{100 * level:g}" for level in names], "rows": table}
