# SPDX-License-Identifier: Apache-2.0
"""Every label of a multi-label run by itself: the best member beside the chosen predictor.

Shapes: N rows, C classes.
"""

from typing import Any, ClassVar

import numpy as np

from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.predictions.kinds import Floats, Marginals
from fusetune.predictions.targets import LabelSets
from fusetune.report.contents import Contents
from fusetune.report.section import Section
from fusetune.report.words import DASH

__all__ = ["PerLabel"]

MOST_LABELS = 30
THRESHOLD = 0.5  # above it a label is said to be there, as in the metrics


class PerLabel(Section):
    """F1 and log-loss of each label, the hardest first."""

    title: ClassVar[str] = "Labels"
    order: ClassVar[int] = 64

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds, or where the chosen predictor's predictions are not there."""
        rows = contents.labels
        if rows is None or rows.chosen is None or not len(rows.targets):
            return None
        best = rows.members.get(contents.best_member)
        shown = [rows.chosen] if best is None else [best, rows.chosen]
        f1 = [_f1_C(part, rows.targets) for part in shown]
        losses = [_losses_C(part, rows.targets) for part in shown]
        present_C = rows.targets.present_NC.sum(axis=0)
        order = np.argsort(np.where(np.isnan(f1[-1]), 2.0, f1[-1]), kind="stable")
        names = [contents.chosen] if best is None else [contents.best_member, contents.chosen]
        return {
            "names": names,
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
            "num_rows": len(rows.targets),
            "left_out": max(0, len(order) - MOST_LABELS),
            "rows": [
                {
                    "name": rows.targets.classes[label],
                    "present": int(present_C[label]),
                    "f1": [_percent(one_C[label]) for one_C in f1],
                    "width": round(100 * float(np.nan_to_num(f1[-1][label])), 1),
                    "losses": [f"{one_C[label]:.4f}" for one_C in losses],
                }
                for label in order[:MOST_LABELS]
            ],
        }


def _f1_C(part: Marginals, targets: LabelSets) -> Floats:
    """F1 of each of the targets' labels; NaN where a label is neither there nor said."""
    said_NC = _over(part, targets.classes) > THRESHOLD
    both_C = (said_NC & targets.present_NC).sum(axis=0)
    either_C = said_NC.sum(axis=0) + targets.present_NC.sum(axis=0)
    found_C: Floats = np.where(either_C > 0, 2 * both_C / np.maximum(either_C, 1), np.nan)
    return found_C


def _losses_C(part: Marginals, targets: LabelSets) -> Floats:
    """Log-loss of each of the targets' labels."""
    metric, losses = MultilabelLogLoss(), []
    array_NC = _over(part, targets.classes)
    for column, name in enumerate(targets.classes):
        one = slice(column, column + 1)
        said = Marginals(part.ids, (name,), array_NC[:, one])
        truth = LabelSets(targets.ids, (name,), targets.present_NC[:, one])
        losses.append(metric.value(metric.statistics(said, truth)))
    return np.array(losses)


def _over(part: Marginals, classes: tuple[str, ...]) -> Floats:
    """`(N, C)` in the targets' order; a label that the part does not know is not there."""
    padded_NC = np.pad(part.probs_NC, ((0, 0), (0, 1)))
    columns = [part.classes.index(name) if name in part.classes else -1 for name in classes]
    return padded_NC[:, columns]


def _percent(share: float) -> str:
    return DASH if np.isnan(share) else f"{100 * share:.1f}"
