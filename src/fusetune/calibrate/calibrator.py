# SPDX-License-Identifier: Apache-2.0
"""Interface of a calibrator and of its fitted result."""

import abc
from typing import ClassVar, Generic, TypeVar

from fusetune.fitted import Fitted
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.targets import AnyTargets

__all__ = ["Calibration", "Calibrator"]

K = TypeVar("K", bound=Kind)


class Calibration(Fitted, abc.ABC, Generic[K]):
    """A fitted calibration: a frozen dataclass of arrays, numbers and strings only."""

    @abc.abstractmethod
    def __call__(self, prediction: K) -> K:
        """Calibrate a prediction of the same member; its columns are matched by **name**.

        Returns:
            The same rows, columns in the order of `prediction`, in its precision.

        Raises:
            PredictionError: The prediction has other columns than those fitted on.
        """


class Calibrator(abc.ABC, Generic[K]):
    """How to calibrate one prediction. Plug-ins are frozen, keyword-only dataclasses.

    The fields are the hyperparameters (recipe keys, command line options and documentation at
    once). Fit on rows that trained neither the member nor the weights of what is calibrated.
    """

    accepts: ClassVar[frozenset[type[Kind]]]

    @property
    def name(self) -> str:
        """Name in recipes and results: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def fit(
        self, prediction: K, targets: AnyTargets, *, sample_weights_N: Array | None = None
    ) -> Calibration[K]:
        """Fit on rows that trained no member.

        Args:
            prediction: Of N rows, by the member or fusion to calibrate.
            targets: Their truth (`Targets` or `LabelSets`, as the kind demands), in the same order.
            sample_weights_N: `(N,)` non-negative weights of the rows, of which only the ratios
                matter; None: all 1.

        Raises:
            PredictionError: There are no rows.
            InvalidValue: A weight is negative or not finite, or all are 0.
        """
