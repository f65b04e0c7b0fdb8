# SPDX-License-Identifier: Apache-2.0
"""What every fusion makes of every member: its weight as a number and a bar."""

from typing import Any, ClassVar

from fusetune.report.contents import Contents, Predictor
from fusetune.report.section import Section
from fusetune.report.words import and_list

__all__ = ["Weights"]


class Weights(Section):
    """Weights of the fusions."""

    title: ClassVar[str] = "Weights"
    order: ClassVar[int] = 30

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where no fusion can say its weights as one number per member."""
        weighted = [one for one in contents.fusions if one.weights]
        blends = [(one.name, _blend(one)) for one in contents.fusions if one.blend]
        if not weighted:
            return None
        names = dict.fromkeys(one.name for one in contents.members if one.status == "ok")
        for one in weighted:
            names.update(dict.fromkeys(one.weights or {}))
        largest = max(abs(weight) for one in weighted for weight in (one.weights or {}).values())
        rows = []
        for name in names:
            weights = [(one.weights or {}).get(name, 0.0) for one in weighted]
            rows.append((name, [_cell(weight, largest or 1.0) for weight in weights]))
        return {
            "fusions": [(one.name, one.name == contents.chosen) for one in weighted],
            "rows": rows,
            "num_without": sum(not one.weights and not one.blend for one in contents.fusions),
            "without": and_list(
                [one.name for one in contents.fusions if not one.weights and not one.blend]
            ),
            "blends": blends,
        }


def _blend(fusion: Predictor) -> str:
    """Its candidates with weight, the heaviest first."""
    pairs = sorted((fusion.blend or {}).items(), key=lambda pair: -pair[1])
    return and_list([f"{name} ({weight:.3f})" for name, weight in pairs if weight > 0])


def _cell(weight: float, largest: float) -> dict[str, Any]:
    text = f"{weight:.3f}".replace("-", "−")
    return {"text": text, "width": round(100 * abs(weight) / largest, 1), "none": weight == 0}
