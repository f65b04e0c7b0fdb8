# SPDX-License-Identifier: Apache-2.0
"""What a final estimator sees of the members.

Shapes: M members, N rows, C classes or other columns, F inputs, the last of them a constant 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusetune.fitted import Fitted
from fusetune.fuse.forms import known_classes
from fusetune.fuse.row_weights import Scale, feature_names, feature_vectors, feature_widths
from fusetune.predictions.kinds import Floats
from fusetune.predictions.stack import Stack

__all__ = ["StackInputs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StackInputs(Fitted):
    """From predictions to the inputs of a final estimator, as when it was fitted.

    Args:
        members: M member names.
        columns: C column names of the answer.
        known: For each member, those of the columns that it has, which are its inputs.
        form: `log_probabilities` (logarithms less their mean over the row's classes), `logits`
            (log p / (1 - p) of each class), or `values` (the numbers as they are).
        smoothing: Share spread evenly before a logarithm.
        features: Names of the stack's features that are passed through.
        widths: How many numbers each of these has.
        scale: Standardization of the features; None without features.
    """

    members: tuple[str, ...]
    columns: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    form: str
    smoothing: float
    features: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    scale: Scale | None = None

    @classmethod
    def of(
        cls, stack: Stack[Any], form: str, smoothing: float, *, passthrough: bool, weights_N: Floats
    ) -> "StackInputs":
        """The inputs that these predictions have; features are standardized on them.

        Raises:
            PredictionError: Features are to be passed through, and there are none.
        """
        columns = known_classes(stack.parts, stack.classes)
        names = feature_names(stack, None) if passthrough else ()
        widths = feature_widths(stack, names)
        return cls(
            members=stack.members,
            columns=columns,
            known=tuple(tuple(n for n in columns if n in part.columns) for part in stack.parts),
            form=form,
            smoothing=smoothing,
            features=names,
            widths=widths,
            scale=Scale.of(feature_vectors(stack, names, widths), weights_N) if names else None,
        )

    def __call__(self, stack: Stack[Any]) -> tuple[Floats, Floats]:
        """`(N, F)` inputs, and `(N, C)` the members' mean in the inputs' form.

        The members' inputs and the features are divided by the root of how many of them share a
        column, so that a penalty weighs alike however many there are.
        """
        stack = stack.select(self.members)
        position = {name: index for index, name in enumerate(self.columns)}
        sums_NC = np.zeros((len(self.columns), len(stack))).T  # columns lie together, as in blocks
        counts_C = np.zeros(len(self.columns))
        blocks = []
        for part, names in zip(stack.parts, self.known, strict=True):
            columns = [part.columns.index(name) for name in names]
            block = self._formed(part.array_NC[:, columns].astype(np.float64))
            for column, name in enumerate(names):
                sums_NC[:, position[name]] += block[:, column]
                counts_C[position[name]] += 1
            blocks.append(block / np.sqrt(len(self.members)))
        if self.scale is not None:
            vectors_NF = self.scale(feature_vectors(stack, self.features, self.widths))
            blocks.append(vectors_NF / np.sqrt(vectors_NF.shape[1]))
        ones_N1 = np.ones((len(stack), 1))
        return np.concatenate([*blocks, ones_N1], axis=1), sums_NC / counts_C

    def own(self) -> list[list[int]]:
        """For each column, which inputs are members' numbers for this very column."""
        names = [name for names in self.known for name in names]
        return [[f for f, name in enumerate(names) if name == column] for column in self.columns]

    def _formed(self, array_NC: Floats) -> Floats:
        if self.form == "values":
            return array_NC
        smooth_NC = (1 - self.smoothing) * array_NC + self.smoothing / array_NC.shape[1]
        logs_NC = np.log(smooth_NC)
        if self.form == "log_probabilities":
            return logs_NC - logs_NC.mean(axis=1, keepdims=True)
        half = self.smoothing / 2  # with one class, the smoothed share is still 1
        return logs_NC - np.log1p(-np.minimum(smooth_NC, 1 - half))
