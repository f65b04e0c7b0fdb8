# SPDX-License-Identifier: Apache-2.0
"""Stacking: a final estimator on the members' predictions.

Shapes: M members, N rows, C classes or other columns, F inputs.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fusetune.errors import InvalidValue
from fusetune.fuse.alike import all_alike
from fusetune.fuse.final_estimators import (
    StackRows,
    fit_estimator,
    fit_logistic,
    fit_nonnegative,
    fit_ridge,
)
from fusetune.fuse.forms import WeightedAverage, fit_weights
from fusetune.fuse.log_opinion import usual_smoothing
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.per_label import fit_per_label
from fusetune.fuse.segmentation.fitting import fit_on_pixels
from fusetune.fuse.stack_inputs import StackInputs
from fusetune.fuse.threads import one_thread
from fusetune.metric import Metric
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Array, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["Stacking"]

ESTIMATORS = ("auto", "logistic", "ridge", "nonnegative")
INPUTS = ("auto", "log_probabilities", "logits", "values")


@dataclass(frozen=True, kw_only=True)
class Stacking(FusionMethod[Any]):
    """A final estimator learns from the members' predictions of the holdout, shrunk to their mean.

    For classes, by default, multinomial logistic regression: softmax over c of g(c) + x W, where the inputs x are the
    logarithms of all members' probabilities, smoothed, centered over classes and divided by
    sqrt(M), and a constant, and g is the mean of the logarithms. W minimizes the log-loss plus penalty/2 |W|^2: with
    W = 0 the result is the geometric mean of the members. So with few rows, with members that are
    nearly identical, or with a class that no holdout row has, it falls back to the mean, where
    regression shrunk towards 0 falls back to guessing. The penalty has the lowest cross-validated loss of the grid.

    For values, by default, `ridge`: the members' mean plus x W by least squares, x the members' values divided by sqrt(M)
    and a constant, W shrunk towards 0 likewise. For class probabilities it regresses the indicators of the classes.
    `nonnegative`: for each column, sum of w_m times the members' numbers for this column, w >= 0 by
    least squares, not shrunk. Negative probabilities become 0, and rows are divided by their sums. Any scikit-learn estimator
    is fitted on the inputs as it is; linear ones are saved as arrays, others work in memory only.

    Multi-label probabilities are stacked label by label, each as the classes no and yes. For masks,
    some 32,000 pixels are the rows, and the estimator is applied to every pixel.

    One member alone, or members that all say the same, pass through (unless features are passed
    through too): there is nothing to fuse, and to correct a single model is a calibrator's work.

    It can mend what averaging cannot: members that confuse classes systematically, or are
    over-confident. Columns that a member does not have are left out. Do not use it with
    hundreds of classes (M C^2 coefficients), nor where the holdout is not drawn like the test rows;
    quantiles are refused, for they might cross.

    Args:
        final_estimator: `logistic` (classes only), `ridge`, `nonnegative`, or an unfitted scikit-learn
            estimator (a classifier with `predict_proba`, or a regressor); `auto`: logistic for classes,
            ridge for values.
        inputs: `log_probabilities`, `logits` (log p / (1 - p), class by class) or `values`
            (probabilities and values as they are); `auto`: log-probabilities for classes where the final estimator is
            logistic or yours, else values.
        passthrough: Whether the stack's feature vectors are inputs too, standardized.
        penalties: Strengths to choose from, for the sum of the rows' losses; powers of ten around
            scikit-learn's default of 1.
        smoothing: Share of each row spread evenly over the member's classes before the logarithm,
            so that a probability of 0 costs no more than log(smoothing / C); None: 2 / (N + 2) for N
            holdout rows, see `usual_smoothing`.
        folds: Folds of the cross-validation that chooses the penalty; 5 as in scikit-learn.
        choosing_rows: At most so many rows choose the penalty; it hardly depends on their number
            (100 for 500 to 10,000 rows of CIFAR-10), and the coefficients are fitted on all.
        seed: Deals the rows to these folds; any number serves, 0 as everywhere else.

    Cost:
        Logistic: (folds + 1) fits for each of three to six penalties, each some ten passes over M N C^2
        multiplications. Ridge: N F^2 as often. An estimator's own otherwise.

    Reference:
        Wolpert, D. H. "Stacked generalization". Neural Networks, 1992; Ting, Witten. "Issues in
        stacked generalization". JAIR, 1999 (probabilities as inputs, least squares); Breiman, L. "Stacked regressions".
        Machine Learning, 1996 (coefficients that are not negative). The shrinkage is ours.
    """

    final_estimator: Any = "auto"
    inputs: Literal["auto", "log_probabilities", "logits", "values"] = "auto"
    passthrough: bool = False
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
    smoothing: float | None = None
    folds: int = 5
    choosing_rows: int = 1000
    seed: int = 0

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Probabilities, Marginals, Values, Masks})
    quantiles: ClassVar[bool] = False

    def __post_init__(self) -> None:
        named, estimator = isinstance(self.final_estimator, str), self.final_estimator
        wrong = {
            "final_estimator": (
                estimator not in ESTIMATORS if named else not hasattr(estimator, "fit"),
                f"{', '.join(ESTIMATORS)} or a scikit-learn estimator",
            ),
            "inputs": (self.inputs not in INPUTS, f"one of {', '.join(INPUTS)}"),
            "penalties": (not self.penalties or min(self.penalties) <= 0, "numbers above 0"),
            "smoothing": (
                self.smoothing is not None and not 0 < self.smoothing < 1,
                "a share between 0 and 1",
            ),
            "folds": (self.folds < 2, "a whole number of at least 2"),
            "choosing_rows": (self.choosing_rows < 2, "a whole number of at least 2"),
        }
        for name, (bad, expected) in wrong.items():
            if bad:
                raise InvalidValue(
                    f"{name} is {getattr(self, name)}",
                    expected,
                    "Change it, or leave it out for the default.",
                )
        if named and estimator == "nonnegative" and self.passthrough:
            raise InvalidValue(
                "passthrough is true and final_estimator is nonnegative",
                "weights of the members only",
                "Use ridge with features, or leave passthrough out.",
            )

    def fit(
        self,
        stack: Stack[Any],
        targets: AnyTargets,
        metric: Metric[Any],
        *,
        sample_weights_N: Array | None = None,
    ) -> Fusion[Any]:
        """The final estimator; fitted to log-loss or squared error, so the metric is not read."""
        if isinstance(stack.parts[0], Masks):
            return fit_on_pixels(self, stack, targets, sample_weights_N)
        if isinstance(stack.parts[0], Marginals):
            return fit_per_label(self, stack, targets, metric, sample_weights_N)
        weights_N = fit_weights(stack, targets, sample_weights_N)
        final, form = self._settled(stack)
        if all_alike(stack) and not self.passthrough:
            return WeightedAverage.of({stack.members[0]: 1})
        inputs = StackInputs.of(
            stack,
            form,
            usual_smoothing(len(stack)) if self.smoothing is None else self.smoothing,
            passthrough=self.passthrough,
            weights_N=weights_N,
        )
        folds = min(self.folds, len(targets))
        spread = folds * -(-len(targets) // self.choosing_rows)
        rows = StackRows(
            stack=stack,
            targets=targets,
            weights_N=weights_N,
            folds_N=stratified_folds(targets, spread, self.seed),
            num_folds=folds,
        )
        with one_thread():
            if final == "nonnegative":
                return fit_nonnegative(inputs, rows)
            if isinstance(final, str):
                shrunk = fit_logistic if final == "logistic" else fit_ridge
                return shrunk(inputs, rows, self.penalties)
        return fit_estimator(inputs, rows, final)

    def _settled(self, stack: Stack[Any]) -> tuple[Any, str]:
        """The final estimator and the form of its inputs."""
        part = stack.parts[0]
        classes = isinstance(part, Probabilities)
        final, form = self.final_estimator, self.inputs
        if isinstance(final, str) and final == "auto":
            final = "logistic" if classes else "ridge"
        linear = isinstance(final, str) and final in ("ridge", "nonnegative")
        if form == "auto":
            form = "log_probabilities" if classes and not linear else "values"
        if not classes and (form != "values" or final == "logistic" or part.levels):
            what = "quantiles" if part.levels else "values"
            raise InvalidValue(
                f"stacking is to fuse {what} by {final} on {form}",
                "class probabilities for logistic, log_probabilities and logits; "
                "quantiles are not stacked",
                "Leave these options out for values; fuse quantiles by weighted_mean.",
            )
        return final, form
