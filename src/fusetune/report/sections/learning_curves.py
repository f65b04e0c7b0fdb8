# SPDX-License-Identifier: Apache-2.0
"""Learning curves: one small panel per member, all on the same scales, so that they compare."""

from collections.abc import Sequence
from typing import Any, ClassVar

from fusetune.report.contents import Contents, Epoch
from fusetune.report.scale import Scale, finite
from fusetune.report.section import Section

__all__ = ["LearningCurves"]


class LearningCurves(Section):
    """Loss and accuracy over the epochs."""

    title: ClassVar[str] = "Learning curves"
    order: ClassVar[int] = 20

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for a run that fine-tuned nothing."""
        epochs = [epoch for curve in contents.curves.values() for epoch in curve]
        if not epochs:
            return None
        losses = Scale.covering(
            [value for one in epochs for value in (one.train_loss, one.validation_loss)],
            limits=(0.0, 9e99),
            num_ticks=3,
        )
        shares = Scale.covering(
            [100 * value for value in finite(one.validation_accuracy for one in epochs)],
            limits=(0.0, 100.0),
            num_ticks=3,
        )
        panels = [
            _panel(name, curve, contents.kept_epoch(name), losses, shares)
            for name, curve in contents.curves.items()
        ]
        return {"panels": panels, "loss_ticks": losses.ticks(), "share_ticks": shares.ticks()}


def _panel(
    name: str, curve: Sequence[Epoch], best: int | None, losses: Scale, shares: Scale
) -> dict[str, Any]:
    first, last = curve[0].epoch, curve[-1].epoch
    across = Scale(first, last, 1) if last > first else Scale(first - 1, first + 1, 1)
    kept = next((epoch for epoch in curve if epoch.epoch == best), None)
    speeds = finite(epoch.images_per_second for epoch in curve)
    words = f"{len(curve)} epochs" if len(curve) > 1 else "1 epoch"
    return {
        "name": name,
        "train": _points(across, losses, [(e.epoch, e.train_loss) for e in curve]),
        "validation": _points(across, losses, [(e.epoch, e.validation_loss) for e in curve]),
        "accuracy": _points(
            across,
            shares,
            [
                (e.epoch, None if e.validation_accuracy is None else 100 * e.validation_accuracy)
                for e in curve
            ],
        ),
        "best_at": across.at(kept.epoch) if kept else None,
        "ends": [(across.at(epoch), epoch) for epoch in dict.fromkeys([first, last])],
        "words": words + (f", kept epoch {kept.epoch}" if kept else ""),
        "speed": f"{sorted(speeds)[len(speeds) // 2]:,.0f} images/s" if speeds else "",
    }


def _points(
    across: Scale, up: Scale, pairs: Sequence[tuple[int, float | None]]
) -> list[tuple[float, float]]:
    return [(across.at(x), up.up(y)) for x, y in pairs if y is not None and finite([y])]
