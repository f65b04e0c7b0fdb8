# SPDX-License-Identifier: Apache-2.0
"""What users hand to `fit`: inputs, columns of them, targets, weights, metadata.

Shapes: N rows.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, assert_all_finite, check_array
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    check_consistent_length,
    column_or_1d,
    has_fit_parameter,
)

from fusetune.errors import InvalidValue, counted, name_some, unknown_name
from fusetune.predictions.kinds import Array, Floats

__all__ = [
    "check_features",
    "class_targets",
    "fit_parameters",
    "number_targets",
    "resolved_columns",
    "rows",
    "sample_weights",
    "selected",
]


def check_features(estimator: Any, X: Any, *, reset: bool) -> None:  # noqa: ANN401
    """Note number and names of the features when fitting, compare them when predicting.

    Raises:
        ValueError: They differ from those of the fit.
    """
    if not reset and hasattr(estimator, "n_features_in_") and getattr(X, "ndim", 2) == 1:
        raise InvalidValue(
            f"X has the shape {X.shape}",
            "two dimensions, rows and features",
            "Reshape your data: X.reshape(1, -1) if it is one row.",
        )
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # scikit-learn 1.5
        estimator._validate_data(X, reset=reset, cast_to_ndarray=False)
    else:
        validate_data(estimator, X, reset=reset, skip_check_array=True)


def class_targets(y: Any) -> Array:  # noqa: ANN401
    """`(N,)` labels, or `(N, C)` zeros and ones if y is an indicator of several labels.

    Raises:
        ValueError: y is none of them.
    """
    _check_given(y)
    if not hasattr(y, "toarray"):
        assert_all_finite(np.asarray(y), input_name="y")
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        dense = y.toarray() if hasattr(y, "toarray") else y
        return np.asarray(dense)
    if kind == "multiclass-multioutput":
        raise InvalidValue(
            "y has several columns of classes",
            "one class per row, or a column of 0 and 1 for each label",
            "Fit one FusionClassifier per column (MultiOutputClassifier does).",
        )
    return column_or_1d(y, warn=True)


def number_targets(y: Any) -> Array:  # noqa: ANN401
    """`(N,)` or `(N, D)` finite numbers."""
    _check_given(y)
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    return column_or_1d(y, warn=True) if y.ndim == 1 or y.shape[1] == 1 else y


def sample_weights(sample_weight: Any, X: Any) -> Floats | None:  # noqa: ANN401
    """`(N,)` numbers of at least 0, one of them above 0; None: all 1.

    Raises:
        ValueError: They are something else.
    """
    if sample_weight is None:
        return None
    weights_N = check_array(
        sample_weight,
        ensure_2d=False,
        dtype=[np.float64, np.float32],
        input_name="sample_weight",
    )
    if weights_N.ndim != 1:
        raise InvalidValue(
            f"sample_weight has the shape {weights_N.shape}", "one number per row", "Reshape it."
        )
    check_consistent_length(X, weights_N)
    if weights_N.min() < 0 or not weights_N.any():
        raise InvalidValue(
            "a sample weight is negative" if weights_N.min() < 0 else "all sample weights are zero",
            "numbers of at least 0, one of them above 0",
            "Correct them, or leave them out to count every row alike.",
        )
    return weights_N


def resolved_columns(columns: Any, names: Sequence[str], X: Any) -> dict[str, Any]:  # noqa: ANN401
    """Estimator → its columns of X; those that see all of X are left out.

    Raises:
        UnknownName: A key is no estimator's name.
        InvalidValue: It is no mapping.
    """
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise InvalidValue(
            f"columns is a {type(columns).__name__}",
            "a mapping from an estimator's name to its columns of X",
            "Write columns={'forest': ['age', 'income']}.",
        )
    for name in columns:
        if name not in names:
            raise unknown_name("estimator", str(name), names, where="columns")
    return {name: key(X) if callable(key) else key for name, key in columns.items()}


def selected(X: Any, key: Any) -> Any:  # noqa: ANN401
    """Some columns of X; all of them for None."""
    return X if key is None else _safe_indexing(X, key, axis=1)


def rows(container: Any, at: Array | None) -> Any:  # noqa: ANN401
    """Some rows of X, y, or anything that has one entry per row; all of them for None."""
    return container if at is None else _safe_indexing(container, at)


def fit_parameters(
    estimator: Any,  # noqa: ANN401
    members: Sequence[tuple[str, Any]],
    weights_N: Floats | None,
    groups: Any,  # noqa: ANN401
    more: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What each member's `fit`, and the splitter, is handed besides X and y.

    With metadata routing, what they requested. Without, members that take `sample_weight` get it
    (a pipeline hands it to its last step), and the splitter gets the groups.

    Returns:
        Member → keyword arguments, and keyword arguments of `split`.

    Raises:
        InvalidValue: More is given than sample weights and groups, without metadata routing.
    """
    given = {"sample_weight": weights_N, "groups": groups, **more}
    given = {name: value for name, value in given.items() if value is not None}
    if get_config()["enable_metadata_routing"]:
        routed = process_routing(estimator, "fit", **given)
        by_member = {name: dict(routed[name]["fit"]) for name, _ in members}
        splits = hasattr(estimator.cv, "split")
        return by_member, dict(routed["cv"]["split"]) if splits else {}
    if more:
        raise InvalidValue(
            f"fit is given {name_some(more)}",
            "sample_weight and groups only, unless metadata routing is on",
            "Call sklearn.set_config(enable_metadata_routing=True), and request it.",
        )
    by_member = {name: _weight_argument(one, weights_N) for name, one in members}
    deaf = [name for name, arguments in by_member.items() if not arguments]
    if weights_N is not None and deaf:
        warnings.warn(
            f"{name_some(deaf)} take no sample_weight and count all rows alike; the fusion of "
            f"{counted(len(members), 'estimator')} is weighted.",
            stacklevel=3,
        )
    return by_member, {} if groups is None else {"groups": groups}


def _weight_argument(estimator: Any, weights_N: Floats | None) -> dict[str, Any]:  # noqa: ANN401
    if weights_N is None:
        return {}
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        nested = _weight_argument(last, weights_N)
        return {f"{name}__{key}": value for key, value in nested.items()}
    takes: Callable[[Any, str], bool] = has_fit_parameter
    return {"sample_weight": weights_N} if takes(estimator, "sample_weight") else {}


def _check_given(y: Any) -> None:  # noqa: ANN401
    if y is None:
        raise InvalidValue(
            "this estimator requires y to be passed, but the target y is None",
            "the true classes or numbers",
            "Call fit(X, y).",
        )
