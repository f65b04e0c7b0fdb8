# SPDX-License-Identifier: Apache-2.0
"""Scores, intervals and diversity of predictions that pass by in blocks of rows.

Metrics start from statistics of each row, so a block's are those of its rows in the whole: scores
and intervals are what `Judge` gives of all rows at once, bit for bit.

Shapes: M members, N rows, S statistics of a row.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from fusetune.evaluate.compare import bootstrap_gain, bootstrap_intervals
from fusetune.evaluate.diagnosis import pair_results, significance_results
from fusetune.evaluate.diversity import agreement, oracle_accuracy
from fusetune.metric import Metric
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets, Targets

__all__ = ["KeptStatistics", "RowStatistics", "StreamedDiversity", "compared", "intervals", "shown"]

COPIES = 4  # of a group's statistics, while their intervals are found


class RowStatistics:
    """Every metric's statistics of one predictor's rows, block by block. Use it in a `with`.

    Args:
        metrics: What is computed.
        memory_bytes: Held in memory, of all metrics together; what is more goes to the disk.
        folder: Where to.
    """

    def __init__(self, metrics: Sequence[Metric[Any]], memory_bytes: int, folder: Path) -> None:
        self.metrics = metrics
        self.widths: dict[str, int] = {}
        share = memory_bytes // max(1, len(metrics))
        self.files: dict[str, IO[bytes]] = {
            metric.name: tempfile.SpooledTemporaryFile(share, dir=str(folder))  # noqa: SIM115
            for metric in metrics
        }

    def add(self, prediction: Kind, targets: AnyTargets) -> None:
        """Take in a block of rows."""
        for metric in self.metrics:
            statistics_NS = metric.statistics(prediction, targets)
            self.widths[metric.name] = statistics_NS.shape[1]
            self.files[metric.name].write(np.ascontiguousarray(statistics_NS, np.float64).data)

    def clear(self) -> None:
        """Forget all rows."""
        for file in self.files.values():
            file.seek(0)
            file.truncate()

    def of(self, metric: Metric[Any]) -> Floats:
        """`(N, S)` statistics of one metric."""
        file = self.files[metric.name]
        file.seek(0)
        flat = np.frombuffer(file.read(), dtype=np.float64)
        return flat.reshape(-1, self.widths[metric.name])

    def scores(self) -> dict[str, float]:
        """Metric → value on all rows."""
        return {metric.name: metric.value(self.of(metric)) for metric in self.metrics}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()


@dataclass(frozen=True)
class KeptStatistics:
    """Statistics of many predictors, on the disk; those that are whole numbers take a byte each.

    Args:
        folder: Where they lie; its owner removes it.
    """

    folder: Path
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict)

    def put(self, predictor: str, metric: Metric[Any], statistics_NS: Floats) -> None:
        """Keep a predictor's statistics."""
        small_NS = statistics_NS.astype(np.uint8)
        exact = np.array_equal(small_NS, statistics_NS)
        np.save(self._path(predictor, metric), small_NS if exact else statistics_NS)

    def get(self, predictor: str, metric: Metric[Any]) -> Floats:
        """`(N, S)` statistics as they were put."""
        return np.load(self._path(predictor, metric)).astype(np.float64, copy=False)

    def _path(self, predictor: str, metric: Metric[Any]) -> Path:
        number = self._numbers.setdefault((predictor, metric.name), len(self._numbers))
        return self.folder / f"statistics_{number}.npy"


class StreamedDiversity:
    """How differently members err, summed over blocks of rows; counts, so nothing is rounded."""

    def __init__(self) -> None:
        self.agreed_MM: Floats | None = None
        self.reached = self.num_rows = 0
        self.members: tuple[str, ...] = ()

    def add(self, stack: Stack[Any], targets: AnyTargets) -> None:
        """Take in a block; targets that are no classes have no such measures."""
        if not isinstance(targets, Targets) or not len(stack):
            return
        agreed_MM = np.rint(agreement(stack) * len(stack))
        self.agreed_MM = agreed_MM if self.agreed_MM is None else self.agreed_MM + agreed_MM
        self.reached += round(oracle_accuracy(stack, targets) * len(stack))
        self.num_rows += len(stack)
        self.members = stack.members

    def results(self) -> dict[str, Any]:
        """The entries of results.json."""
        if self.agreed_MM is None:
            return {"agreement": None, "oracle_accuracy": None}
        matrix_MM = self.agreed_MM / self.num_rows
        return {
            "agreement": pair_results(self.members, matrix_MM, always=True),
            "oracle_accuracy": self.reached / self.num_rows,
        }


def intervals(
    kept: KeptStatistics,
    predictors: Sequence[str],
    metrics: Sequence[Metric[Any]],
    memory_bytes: int,
    seed: int,
) -> dict[str, dict[str, list[float]]]:
    """Predictor → metric → ends of the bootstrap interval.

    All share their draws of the rows, though not all statistics are in memory at once: the draws
    are made again for each group of predictors that is.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in predictors}
    for metric in metrics:
        for names in _groups(kept, predictors, metric, memory_bytes):
            scored = [(metric, kept.get(name, metric)) for name in names]
            for name, interval in zip(names, bootstrap_intervals(scored, seed=seed), strict=True):
                found[name][metric.name] = [interval.low, interval.high]
    return found


def _groups(
    kept: KeptStatistics, predictors: Sequence[str], metric: Metric[Any], memory_bytes: int
) -> Iterator[Sequence[str]]:
    size = kept.get(predictors[0], metric).nbytes * COPIES
    step = max(1, memory_bytes // max(1, size))
    for start in range(0, len(predictors), step):
        yield predictors[start : start + step]


def compared(
    kept: KeptStatistics,
    fusions: Sequence[str],
    pair: tuple[str, str],
    metric: Metric[Any],
    seed: int,
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """The entry `comparison` of the chosen fusion with the best member, and the tests of all fusions.

    Args:
        kept: Statistics of all.
        fusions: Their names.
        pair: The chosen one and the best member.
        metric: What decides.
        seed: Of the resampling.
    """
    chosen_NS, best_NS = (kept.get(name, metric) for name in pair)
    gain = bootstrap_gain(metric, chosen_NS, best_NS, seed=seed)
    tests = significance_results(
        metric, fusions, pair[0], lambda name: kept.get(name, metric), best_NS, seed=seed
    )
    return {**asdict(gain), "p_value": tests[pair[0]]["p_value"]}, tests


def shown(metrics: Sequence[Metric[Any]]) -> list[Metric[Any]]:
    """The metrics whose intervals are shown: what decides, and accuracy, which costs nothing."""
    return [metric for metric in metrics[1:] if metric.name == "accuracy"] + [metrics[0]]
