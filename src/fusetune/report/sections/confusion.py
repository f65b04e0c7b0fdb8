# SPDX-License-Identifier: Apache-2.0
"""Confusion matrix of the chosen predictor; with many classes, the confusions that matter.

Shapes: N rows, C classes.
"""

from typing import Any, ClassVar

import numpy as np

from fusetune.predictions.kinds import Array
from fusetune.report.contents import Contents
from fusetune.report.section import Section

__all__ = ["Confusion"]

MOST_CLASSES = 20  # that a matrix with numbers still shows
MOST_CONFUSIONS = 15


class Confusion(Section):
    """Which classes are taken for which."""

    title: ClassVar[str] = "Confusions"
    order: ClassVar[int] = 60

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where the chosen predictor's predictions or the targets are not there."""
        test = contents.test
        if test is None or test.chosen is None or not len(test.targets):
            return None
        classes = test.targets.classes
        position = {name: index for index, name in enumerate(classes)}
        columns_C = np.array([position[name] for name in test.chosen.classes])
        said_N = columns_C[test.chosen.probs_NC.argmax(axis=1)]
        counts_CC = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts_CC, (test.targets.labels_N, said_N), 1)
        many = len(classes) > MOST_CLASSES
        return {
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
            "classes": classes,
            "upright": max(map(len, classes)) <= 4,
            "num_wrong": int(counts_CC.sum() - np.trace(counts_CC)),
            "num_rows": int(counts_CC.sum()),
            "matrix": None if many else _matrix(classes, counts_CC),
            "confusions": _confusions(classes, counts_CC) if many else None,
            "hardest": _hardest(classes, counts_CC) if many else None,
        }


def _matrix(classes: tuple[str, ...], counts_CC: Array) -> list[dict[str, Any]]:
    wrong_CC = counts_CC - np.diag(np.diag(counts_CC))
    worst = float((wrong_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)).max())
    rows = []
    for index, (name, counts_C) in enumerate(zip(classes, counts_CC.tolist(), strict=True)):
        total = sum(counts_C)
        cells = [
            {
                "count": count,
                "right": column == index,
                "shade": _shade(count / (total or 1), 1.0 if column == index else worst),
            }
            for column, count in enumerate(counts_C)
        ]
        recall = f"{100 * counts_C[index] / total:.1f}" if total else "–"
        rows.append({"name": name, "cells": cells, "recall": recall})
    return rows


def _shade(share: float, most: float) -> int:
    """Percent of color in a cell; stays light enough for its number to be read."""
    return round(4 + 36 * share / most) if share else 0


def _confusions(classes: tuple[str, ...], counts_CC: Array) -> list[dict[str, Any]]:
    wrong_CC = counts_CC - np.diag(np.diag(counts_CC))
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(*divmod(int(flat), len(classes)), int(wrong_CC.flat[flat])) for flat in order]
    most = max((count for *_, count in pairs), default=1) or 1
    return [
        {
            "truth": classes[truth],
            "said": classes[said],
            "count": count,
            "share": f"{100 * count / counts_CC[truth].sum():.1f}",
            "width": round(100 * count / most, 1),
        }
        for truth, said, count in pairs
        if count
    ]


def _hardest(classes: tuple[str, ...], counts_CC: Array) -> list[dict[str, Any]]:
    """The classes of which the smallest share is recognized; classes without rows are left out."""
    totals_C = counts_CC.sum(axis=1)
    known = np.flatnonzero(totals_C)
    recalls = counts_CC[known, known] / totals_C[known]
    order = np.argsort(recalls, kind="stable")[:MOST_CONFUSIONS]
    return [
        {
            "name": classes[known[index]],
            "recall": f"{100 * recalls[index]:.1f}",
            "rows": int(totals_C[known[index]]),
            "width": round(100 * float(recalls[index]), 1),
        }
        for index in order
    ]
