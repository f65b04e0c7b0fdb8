# SPDX-License-Identifier: Apache-2.0
"""Seam one for files of other tools: what their numbers are, and how they become a kind, once.

The form is inferred where that is safe and asked for where it is not.

Shapes: N rows, C classes, D values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from fusetune.errors import PredictionError, name_some, unknown_name
from fusetune.predictions.files import quantile_level
from fusetune.predictions.kinds import (
    SUM_TOLERANCE,
    Array,
    Columnar,
    Ids,
    Marginals,
    Probabilities,
    Values,
)
from fusetune.predictions.tables import Table
from fusetune.predictions.truth import Truth

__all__ = ["FORMS", "Form", "infer_form", "read_prediction"]

FORMS = ("probabilities", "logits", "scores", "labels", "values", "quantiles", "features")
MAJORITY = 0.9  # of rows that sum to 1: the others are faults, not another form
LABEL_COLUMNS = ("label", "labels", "prediction", "predicted", "class")


@dataclass(frozen=True)
class Form:
    """How a member's file becomes a prediction; kept with the ensemble, for its next files.

    Args:
        form: One of `FORMS`.
        columns: Names of the columns, where the file has none (npy).
        scale: What scores are divided by before the softmax or sigmoid; their spread on the file
            that was fused.
        classes: Of labels: every class that the member may name; of detections and masks: what it can find.
        numbers: Of detections: what numbers in the file stand for the classes that `columns` names; of
            label maps: the number of ignored pixels.
    """

    form: str
    columns: tuple[str, ...] = ()
    scale: float = 1.0
    classes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read back what `as_plain` gave."""
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in plain.items()
            if name in cls.__dataclass_fields__
        }
        return cls(**kept)

    def as_plain(self) -> dict[str, Any]:
        """The form as JSON has it."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def read_prediction(table: Table, form: Form, truth: Truth) -> Columnar:
    """A member's prediction from its table.

    Labels become one-hot rows, scores the softmax (or sigmoid) of themselves divided by their
    spread: a calibrator that is fitted with the fusion makes probabilities of both. A single
    column called like one of two classes is completed by the other.

    Args:
        table: As read; a table without ids has the rows of `truth`, in their order.
        form: From `infer_form`, or kept from the files that were fused.
        truth: For new rows: with no targets, only its kind and columns are read.
    """
    ids = truth.targets.ids if table.ids is None else table.ids
    if table.ids is None and len(next(iter(table.columns.values()))) != len(ids):
        raise PredictionError(
            f"{len(next(iter(table.columns.values()))):,} rows without ids",
            f"{len(ids):,} rows, in the order of the targets",
            "Write the same rows, or a file with ids.",
        )
    names = form.columns or table.names
    if form.form in ("values", "quantiles", "features"):
        return _values(table, ids, form, truth)
    if form.form == "labels" and truth.kind is Probabilities:
        return _one_hot(table, ids, form)
    numbers_NC = table.numbers_NC(table.names)
    if truth.kind is Marginals:
        if form.form in ("logits", "scores"):
            return Marginals.from_logits(ids, names, numbers_NC / form.scale)
        return Marginals(ids, names, numbers_NC)
    if form.form in ("logits", "scores"):
        return Probabilities.from_logits(ids, names, numbers_NC / form.scale)
    if len(names) == 1 and len(truth.columns) == 2 and names[0] in truth.columns:
        other = next(name for name in truth.columns if name != names[0])
        both_N2 = np.concatenate([numbers_NC, 1 - numbers_NC], axis=1)
        return Probabilities(ids, (names[0], other), both_N2)
    return Probabilities(ids, names, numbers_NC)


def infer_form(table: Table, truth: Truth, given: str | None, columns: Sequence[str] = ()) -> Form:
    """Say what a member's numbers are.

    Args:
        table: As read.
        truth: The targets that the member is judged by.
        given: What the user says; None: infer.
        columns: Class names of files without names.

    Raises:
        PredictionError: It is not safe to tell, or no column is called like a class; the message
            says what to pass.
    """
    if given is not None and given not in FORMS:
        raise unknown_name("form", given, FORMS, where="--form")
    form = given or _said(table) or _guessed(table, truth)
    names = (
        () if table.named or form in ("labels", "features") else _names_for(table, truth, columns)
    )
    if form in ("features", "labels"):
        if form == "features" or truth.kind is not Probabilities:
            return Form(form, names)
        said = sorted(set(_label_column(table).tolist()))
        known = (*truth.columns, *(name for name in said if name not in truth.columns))
        return Form(form, classes=known)
    _check_names(names or table.names, truth, form)
    if form != "scores":
        return Form(form, names)
    numbers_NC = table.numbers_NC(table.names)
    spread = float(
        np.std(numbers_NC - numbers_NC.mean(axis=1, keepdims=True) * (len(table.names) > 1))
    )
    return Form(form, names, scale=spread if 0 < spread < np.inf else 1.0)


def _said(table: Table) -> str | None:
    return {"probs": "probabilities"}.get(table.form, table.form) if table.form else None


def _guessed(table: Table, truth: Truth) -> str:
    names = table.names
    if truth.kind is Values:
        levels = [quantile_level(name) for name in names] if table.named else [None]
        one = len(truth.columns) == 1
        return "quantiles" if one and None not in levels and len(names) > 1 else "values"
    texts = [name for name in names if table.is_text(name)]
    if truth.kind is Probabilities and len(names) == 1:
        name = names[0]
        whole = table.columns[name].dtype.kind in "iub"
        if texts or (whole and (name.lower() in LABEL_COLUMNS or not table.named)):
            return "labels"
        only_class = truth.columns == (name,) and (table.numbers_NC(names) == 1).all()
        if not only_class and (name not in truth.columns or len(truth.columns) != 2):
            raise _ask(f"one column, '{name}'", "labels; or one column per class")
    _check_names(names if table.named else (), truth, "probabilities")
    numbers_NC = table.numbers_NC(names)
    inside_N = np.all((numbers_NC >= 0) & (numbers_NC <= 1), axis=1)
    if truth.kind is Probabilities and len(names) > 1:
        inside_N &= np.abs(numbers_NC.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
    if not len(inside_N) or inside_N.mean() >= MAJORITY or np.isnan(numbers_NC).any():
        return "probabilities"  # with some faults, perhaps, which the kind then names
    row = int((~inside_N).argmax())
    row_name = str(row) if table.ids is None else str(table.ids[row])
    values = ", ".join(f"{value:.4g}" for value in numbers_NC[row, :6])
    raise _ask(f"row '{row_name}' holds ({values}), which are no probabilities", "logits or scores")


def _ask(given: str, choices: str) -> PredictionError:
    return PredictionError(
        given,
        f"probabilities, or to be told what the numbers are ({choices})",
        "Pass --form MEMBER=FORM with the member's name and logits, scores, labels or features.",
    )


def _names_for(table: Table, truth: Truth, columns: Sequence[str]) -> tuple[str, ...]:
    """Names for the columns of an array without names, where they can be known."""
    width = len(table.columns)
    if columns:
        names = tuple(columns)
    elif truth.kind is Values:
        names = truth.columns
    elif sorted(truth.columns) == sorted(map(str, range(width))):
        names = tuple(map(str, range(width)))
    else:
        raise PredictionError(
            f"{width} columns without names",
            f"the order of the classes {name_some(truth.columns)}",
            "Pass --classes with their names in the columns' order, or write a file with names.",
        )
    if len(names) != width:
        raise PredictionError(
            f"{width} columns", f"{len(names)}: {name_some(names)}", "Write one column for each."
        )
    return names


def _check_names(names: Sequence[str], truth: Truth, form: str) -> None:
    if truth.kind is Values or not names:
        return
    if not set(names) & set(truth.columns):
        quantities = all(name.lstrip("-").isdigit() for name in truth.columns)
        raise PredictionError(
            f"the columns are {name_some(names)}, and none is called like a class",
            f"one column per class: {name_some(truth.columns)}",
            "Rename the columns to the class names that the targets use; a file of feature vectors "
            "is passed with --form MEMBER=features."
            + " If the targets are quantities, pass --task regression."
            * quantities,
        )


def _values(table: Table, ids: Ids, form: Form, truth: Truth) -> Values:
    names, numbers_ND = form.columns or table.names, table.numbers_NC(table.names)
    if form.form == "features":
        return Values(ids, names, numbers_ND)
    if form.form == "quantiles":
        known = table.levels or tuple(quantile_level(name) or np.nan for name in names)
        order = np.argsort(known)
        levels = tuple(known[index] for index in order)
        columns = tuple(f"q{level:g}" for level in levels)
        return Values(ids, columns, np.sort(numbers_ND[:, order], axis=1), levels)
    if len(names) == len(truth.columns) == 1:
        names = truth.columns
    if set(names) != set(truth.columns):
        raise PredictionError(
            f"the columns are {name_some(names)}",
            f"the numbers {name_some(truth.columns)}, or quantiles called q0.05, q0.5, ...",
            "Rename the columns like those of the targets file.",
        )
    return Values(ids, names, numbers_ND)


def _one_hot(table: Table, ids: Ids, form: Form) -> Probabilities:
    said_N = _label_column(table)
    position = {name: index for index, name in enumerate(form.classes)}
    strange = sorted(set(said_N.tolist()) - set(position))
    if strange:
        raise PredictionError(
            f"the labels hold {name_some(strange)}",
            f"only the classes {name_some(form.classes)}",
            "Rename these labels.",
        )
    probs_NC = np.zeros((len(ids), len(form.classes)), dtype=np.float32)
    columns_N = np.array([position[name] for name in said_N.tolist()], dtype=np.int64)
    probs_NC[np.arange(len(ids)), columns_N] = 1
    return Probabilities(ids, form.classes, probs_NC)


def _label_column(table: Table) -> Array:
    if len(table.names) != 1:
        raise PredictionError(
            f"the columns are {name_some(table.names)}", "one column of labels", "Remove others."
        )
    return table.texts(table.names[0])
