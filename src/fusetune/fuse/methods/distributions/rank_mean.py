# SPDX-License-Identifier: Apache-2.0
"""The mean of the members' ranks, class by class.

Shapes: M members, N rows, C classes, K members that know a class, Q stored values.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.alike import all_alike
from fusetune.fuse.forms import WeightedAverage, known_classes
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.per_label import PerLabel, fit_per_label
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind, Marginals, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["RankAverage", "RankMean"]


@dataclass(frozen=True, kw_only=True)
class RankMean(FusionMethod[Any]):
    """Mean of ranks: how high does each member place this row among the holdout's, for this class?

    For each member and class, F is the share of the holdout rows with a lower probability plus half
    of those with the same, straight between them; r(c) = 1/M sum of F_mc(p_m(c)). The mean rank is
    turned back by the mean of the members' quantile functions, p(c) ∝ 1/M sum of F_mc^-1(r(c)), and
    rows are divided by their sums (a row of zeros becomes the mean of the members). So p has the members' average distribution, only in another
    order; with two classes, p rises with r. Members that differ in calibration only count alike.
    Needs no targets, but holdout rows: a row's ranks are among them, not among the rows that happen
    to be predicted together. Members that all say the same pass through. Over classes that some
    members do not know, ranks are averaged over those that do.

    Use it when the area under the ROC curve is what counts, which sees ranks only, and the members'
    scales differ. Do not use it for log-loss when the members are calibrated: ranks forget how sure
    they are of this row, and with many classes the rows' sums mix the classes' ranks.

    Multi-label probabilities are ranked label by label, and rise with r; nothing is divided by sums.

    Args:
        most: Distinct values stored per member and class; with more holdout rows, evenly spaced
            ranks of them. 1,000 keep ranks to a thousandth.

    Cost:
        Sorting M C times N numbers; predicting takes 2 M C searches for each of N rows.

    Reference:
        Ho, Hull, Srihari. "Decision combination in multiple classifier systems". IEEE PAMI, 1994
        (rank sums); Bolstad et al. "A comparison of normalization methods for high density
        oligonucleotide array data". Bioinformatics, 2003 (back by the mean quantile function).
    """

    most: int = 1000

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals})
    needs_targets: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.most < 2:
            raise InvalidValue(
                f"most is {self.most}", "a whole number of at least 2", "Write 1000, the default."
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> "RankAverage | WeightedAverage | PerLabel":
        """Where the holdout's values lie; the targets are not read."""
        if isinstance(stack.parts[0], Marginals):
            return fit_per_label(self, stack, targets, metric, sample_weights_N)
        if not len(stack):
            raise PredictionError(
                "no holdout row is given",
                "at least one row to rank others among",
                "Give predictions of rows that trained no member.",
            )
        if all_alike(stack):
            return WeightedAverage.of({stack.members[0]: 1})
        weights_N = np.ones(len(stack)) if sample_weights_N is None else sample_weights_N
        tables = [
            _ranks(part.probs_NC[:, column], np.asarray(weights_N, dtype=np.float64), self.most)
            for part in stack.parts
            for column in range(len(part.classes))
        ]
        return RankAverage(
            members=stack.members,
            known=tuple(part.classes for part in stack.parts),
            sizes=np.array([len(values) for values, _ in tables]),
            values_Q=np.concatenate([values for values, _ in tables]),
            ranks_Q=np.concatenate([ranks for _, ranks in tables]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RankAverage(Fusion[Probabilities]):
    """Fitted mean of ranks: values and their ranks, one table after the other.

    Args:
        members: M member names.
        known: For each member, its classes; a table each, in this order.
        sizes: How many numbers each table has.
        values_Q: Rising within a table, from 0 to 1.
        ranks_Q: Their ranks, rising from 0 to 1.
    """

    members: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    sizes: Array
    values_Q: Floats
    ranks_Q: Floats

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """The mean ranks, turned back into probabilities; see `RankMean`."""
        parts = stack.select(self.members).parts
        classes = known_classes(parts, stack.classes)
        tables = self._tables()
        sums_NC, means_NC = np.zeros((2, len(stack), len(classes)))
        for column, name in enumerate(classes):
            own = [(m, names.index(name)) for m, names in enumerate(self.known) if name in names]
            ranks_N = np.zeros(len(stack))
            for m, _ in own:
                part = parts[m]
                values, ranks = tables[m, name]
                probs_N = part.probs_NC[:, part.classes.index(name)]
                ranks_N += np.interp(probs_N, values, ranks) / len(own)
                means_NC[:, column] += probs_N / len(own)
            for m, _ in own:
                values, ranks = tables[m, name]
                sums_NC[:, column] += np.interp(ranks_N, ranks, values) / len(own)
        dtype = np.result_type(*(part.probs_NC.dtype for part in parts))
        nothing_N = sums_NC.sum(axis=1) <= 0
        sums_NC[nothing_N] = means_NC[nothing_N]
        sums_NC /= sums_NC.sum(axis=1, keepdims=True)
        return parts[0].with_array(classes, sums_NC.astype(dtype))

    def _tables(self) -> dict[tuple[int, str], tuple[Floats, Floats]]:
        ends = np.cumsum(self.sizes)[:-1]
        pairs = zip(np.split(self.values_Q, ends), np.split(self.ranks_Q, ends), strict=True)
        keys = [(m, name) for m, names in enumerate(self.known) for name in names]
        return dict(zip(keys, pairs, strict=True))


def _ranks(values_N: Floats, weights_N: Floats, most: int) -> tuple[Floats, Floats]:
    """Distinct values and the share of weight below each, half of its own included; 0 and 1 too."""
    values_U, inverse_N = np.unique(values_N.astype(np.float64), return_inverse=True)
    shares_U = np.bincount(inverse_N, weights_N) / weights_N.sum()
    kept = shares_U > 0
    values_U, shares_U = values_U[kept], shares_U[kept]
    ranks_U = np.cumsum(shares_U) - shares_U / 2
    if len(values_U) > most:
        some = np.unique(
            np.searchsorted(ranks_U, np.linspace(0, 1, most)).clip(0, len(ranks_U) - 1)
        )
        values_U, ranks_U = values_U[some], ranks_U[some]
    if values_U[0] > 0:
        values_U, ranks_U = np.append(0.0, values_U), np.append(0.0, ranks_U)
    if values_U[-1] < 1:
        values_U, ranks_U = np.append(values_U, 1.0), np.append(ranks_U, 1.0)
    return values_U, ranks_U
