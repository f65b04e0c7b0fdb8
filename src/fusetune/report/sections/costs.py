# SPDX-License-Identifier: Apache-2.0
"""What every predictor costs: seconds to fit, milliseconds per row, parameters."""

from typing import Any, ClassVar

from fusetune.evaluate.cost import Cost, cost_ratio, total_cost
from fusetune.report.contents import Contents, Predictor
from fusetune.report.section import Section
from fusetune.report.words import best_tag, count, duration, per_row, times

__all__ = ["Costs"]


class Costs(Section):
    """Measured costs; a fusion's hold those of the members that it runs."""

    title: ClassVar[str] = "Costs"
    order: ClassVar[int] = 80

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where nothing was measured, as with ready-made prediction files."""
        members = {one.name: one for one in contents.members if one.status == "ok"}
        rows = [(one, total_cost([one.cost])) for one in members.values()]
        for fusion in contents.fusions:
            parts = [members[name].cost for name in fusion.runs if name in members]
            rows.append((fusion, total_cost(parts, fusion.cost)))
        measured = [cost.predict_s_per_row for _, cost in rows]
        if not any(measured) and not any(cost.fit_s for _, cost in rows):
            return None
        best = members.get(contents.best_member)
        slowest = max((seconds for seconds in measured if seconds), default=1.0)
        return {
            "rows": [
                _row(one, cost, best.cost if best else Cost(), slowest)
                | {"chosen": one.name == contents.chosen, "best": one is best}
                for one, cost in rows
            ],
            "num_members": len(members),
            "best_member": contents.best_member,
            "best_tag": best_tag(contents.judged),
        }


def _row(one: Predictor, cost: Cost, best: Cost, slowest: float) -> dict[str, Any]:
    seconds = cost.predict_s_per_row
    return {
        "name": one.name,
        "runs": len(one.runs) if one.runs else None,
        "fit": duration(cost.fit_s),
        "per_row": per_row(seconds),
        "ratio": times(cost_ratio(cost, best)),
        "parameters": count(cost.parameters),
        "width": round(100 * seconds / slowest, 1) if seconds else 0,
    }
