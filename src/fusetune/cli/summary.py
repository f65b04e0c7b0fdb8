# SPDX-License-Identifier: Apache-2.0
"""The results as they stand on stdout at the end of a command."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusetune.evaluate.words import describe_metric, format_score

__all__ = ["print_plan", "print_results"]

ROWS = {
    "test": "on test rows",
    "cross_fitted": "on all rows, cross-fitted",
    "in_sample": "on all rows, in-sample",
}
STATES = {"done": "done", "todo": "to do", "redo": "redo"}
BEST = {True: "best on the holdout", False: "best member"}


def print_results(results: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Members and fusions with their scores, the verdict, advice, and where the report is."""
    if as_json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    shown = results["members"][0]["scores"].get("test", {}) if results["members"] else {}
    usual = [name for name in ("accuracy", "log_loss", "mae") if name in shown]
    metrics = list(dict.fromkeys([results["metric"], *usual]))
    judged = results.get("judged", "test")
    rows = [[ROWS[judged], *map(_title, metrics), ""]]
    for entry in [*results["members"], *results["fusions"]]:
        scores = entry["scores"].get("test")
        if scores is None:
            rows.append([entry["name"], *["–"] * len(metrics), entry["status"]])
            continue
        figures = [format_score(scores[metric], describe_metric(metric)[1]) for metric in metrics]
        chosen, best = entry["name"] == results["chosen"], entry["name"] == results["best_member"]
        note = "chosen" if chosen else BEST[judged == "test"] if best else ""
        rows.append([entry["name"], *figures, note])
    print("\n".join(_aligned(rows)))
    print(f"\n{results['verdict']['sentence']}")
    if results.get("advice"):
        print(f"\n{' '.join(results['advice'])}")
    report = folder / "report.html"
    if report.exists():
        print(f"\nReport: {report}")


def print_plan(plan: Sequence[Any], as_json: bool) -> None:
    """A line per `PlannedStep`: its state, its name, and why."""
    if as_json:
        print(json.dumps([asdict(step) for step in plan], indent=2, ensure_ascii=False))
        return
    width = max(len(step.step) for step in plan)
    for step in plan:
        print(f"{STATES[step.state]:<6}  {step.step:<{width}}  {step.why}".rstrip())


def _title(metric: str) -> str:
    title, percent = describe_metric(metric)
    return f"{title} (%)" if percent else title


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    """Lines of a table: the first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures, note in rows:
        cells = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=False)]
        yield "  ".join([f"{name:<{widths[0]}}", *cells, note]).rstrip()
