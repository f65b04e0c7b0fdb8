# SPDX-License-Identifier: Apache-2.0
"""The judged rows of a run, with what members and the chosen fusion predict for them.

Shapes: M members, N rows, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from fusetune.predictions.files import read_columnar, read_truth
from fusetune.predictions.kinds import Columnar, Floats, Probabilities
from fusetune.predictions.stack import Stack, probabilities_MNC
from fusetune.predictions.targets import GroundTruth, Targets

__all__ = ["JudgedRows", "disputed", "read_rows"]

K = TypeVar("K", bound=Columnar)
T = TypeVar("T", bound=GroundTruth)

CHOSEN = "ensemble"  # where the chosen predictor's predictions lie
ROLE = "test"


@dataclass(frozen=True, kw_only=True)
class JudgedRows(Generic[K, T]):
    """Predictions of the judged rows, all in the targets' order."""

    targets: T
    members: Mapping[str, K]
    chosen: K | None = None


def read_rows(
    folder: Path, kind: type[Columnar], members: list[str]
) -> JudgedRows[Any, Any] | None:
    """What a run folder shows of the judged rows; None where predictions or targets are not there.

    Args:
        folder: The run folder.
        kind: What the members give.
        members: Whose predictions are read.
    """
    path = folder / "targets" / f"{ROLE}.parquet"
    files = {name: folder / "predictions" / name / f"{ROLE}.parquet" for name in [*members, CHOSEN]}
    read = {name: read_columnar(file, kind) for name, file in files.items() if file.is_file()}
    if not read or not path.is_file():
        return None
    targets = read_truth(path, kind)
    if isinstance(targets, Targets):  # the members' order; classes that no member knows come last
        known = dict.fromkeys(name for part in read.values() for name in part.columns)
        targets = read_truth(path, kind, tuple(known | dict.fromkeys(targets.classes)))
    stack = Stack.align(read, ids=targets.ids)
    aligned = dict(zip(stack.members, stack.parts, strict=True))
    return JudgedRows(targets=targets, chosen=aligned.pop(CHOSEN, None), members=aligned)


def disputed(
    predictions: Mapping[str, Probabilities], targets: Targets, most: int = 24
) -> tuple[str, ...]:
    """Ids of the rows on which members disagree most, the most disputed first.

    Only rows to which at least two members give different labels; ranked by the mean divergence
    of the members from their average (Kullback-Leibler), ties in the targets' order. One member
    disputes nothing.

    Args:
        predictions: Member → its predictions of at least the targets' rows.
        targets: Name the rows, and the classes' order.
        most: How many ids at most.

    Reference: McCallum & Nigam, Employing EM and pool-based active learning, ICML 1998.
    """
    if len(predictions) < 2 or not len(targets):
        return ()
    stack = Stack.align(predictions, ids=targets.ids, classes=targets.classes)
    probs_MNC, _ = probabilities_MNC(stack)
    labels_MN = np.stack([part.labels() for part in stack.parts])
    differ_N = (labels_MN != labels_MN[0]).any(axis=0)
    mean_NC = probs_MNC.mean(axis=0, dtype=np.float64)
    members_N = np.mean([_negentropy(probs_NC) for probs_NC in probs_MNC], axis=0)
    divergence_N = np.where(differ_N, members_N - _negentropy(mean_NC), -1.0)
    order_N = np.argsort(-divergence_N, kind="stable")[: min(most, int(differ_N.sum()))]
    return tuple(str(name) for name in targets.ids[order_N])


def _negentropy(probs_NC: Floats) -> Floats:
    probs_NC = np.asarray(probs_NC, dtype=np.float64)
    logs_NC = np.log(np.where(probs_NC > 0, probs_NC, 1.0))
    summed_N: Floats = (probs_NC * logs_NC).sum(axis=1)
    return summed_N
