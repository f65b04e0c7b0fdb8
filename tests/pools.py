# SPDX-License-Identifier: Apache-2.0
"""Pools of members for tests: seeded ones that look real, and drawn ones full of ties and zeros."""

import os

import numpy as np
from hypothesis import strategies as st

from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

EXAMPLES = int(os.environ.get("FUSETUNE_EXAMPLES", "4"))  # of a law; `make test` draws more


def pool(members=3, rows=60, classes=4, *, seed=0, skill=2.0, noise=1.0, dtype=np.float64):
    """A stack of members that err partly together, its targets, and two features of the rows."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(classes, size=rows)
    names = tuple(f"class{c}" for c in range(classes))
    ids = np.array([f"row{n}" for n in range(rows)])
    shared_NC = random.normal(size=(rows, classes))
    shared_NC[np.arange(rows), labels_N] += skill
    parts = {}
    for m in range(members):
        own_NC = noise * random.uniform(0.5, 1.5) * random.normal(size=(rows, classes))
        logits_NC = shared_NC * random.uniform(0.5, 1.5) + own_NC
        exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        probs_NC = exp_NC / exp_NC.sum(axis=1, keepdims=True)
        parts[f"member{m}"] = Probabilities(ids, names, probs_NC.astype(dtype))
    features = {"seen": Values(ids, ("x", "y"), shared_NC[:, :1] + random.normal(size=(rows, 2)))}
    return Stack.align(parts, classes=names, features=features), Targets(ids, names, labels_N)


@st.composite
def pools(draw, members=(1, 4), rows=(1, 10), classes=(1, 4), *, unknown=True):
    """A stack and targets: eighths as probabilities, so that ties and zeros are common and exact.

    So are ties of the distances between the rows' features, which are whole numbers. Members may
    order the classes differently and, with `unknown`, may not know some of them.
    """
    num_classes = draw(st.integers(*classes))
    num_rows = draw(st.integers(*rows))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    names = tuple("abcdef"[:num_classes])
    ids = np.array([f"row{n}" for n in range(num_rows)])
    parts = {}
    for m in range(draw(st.integers(*members))):
        own = draw(st.permutations(names))
        if unknown:
            own = own[: draw(st.integers(1, num_classes))]
        probs_NC = np.zeros((num_rows, len(own)), dtype=dtype)
        for n in range(num_rows):
            for c in draw(st.lists(st.integers(0, len(own) - 1), min_size=8, max_size=8)):
                probs_NC[n, c] += 1 / 8
        parts[f"member{m}"] = Probabilities(ids, tuple(own), probs_NC)
    labels = st.lists(st.integers(0, num_classes - 1), min_size=num_rows, max_size=num_rows)
    places = draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    features = {"place": Values(ids, ("x",), np.array(places, dtype=float)[:, None])}
    stack = Stack.align(parts, classes=names, features=features)
    return stack, Targets(ids, names, np.array(draw(labels)))


def other_pool(kind, members=3, rows=60, columns=4, *, seed=0, noise=1.0, dtype=np.float64):
    """As `pool`, of another kind: `marginals`, `values` or `quantiles`."""
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    names = tuple(f"class{c}" for c in range(columns))
    truth_NC = random.normal(size=(rows, 1 if kind == "quantiles" else columns))
    shared_NC = truth_NC + 0.5 * random.normal(size=truth_NC.shape)
    seen_N2 = shared_NC[:, :1] + random.normal(size=(rows, 2))
    arrays = [
        shared_NC + noise * random.uniform(0.5, 1.5) * random.normal(size=truth_NC.shape)
        for _ in range(members)
    ]
    if kind == "quantiles":
        spread_C = np.linspace(-1, 1, columns)
        arrays = [array_N1 + random.uniform(0.5, 2) * spread_C for array_N1 in arrays]
    parts = {
        f"member{m}": made(kind, ids, names, array_NC.astype(dtype))
        for m, array_NC in enumerate(arrays)
    }
    features = {"seen": Values(ids, ("x", "y"), seen_N2)}
    return Stack.align(parts, classes=names, features=features), truth(kind, ids, names, truth_NC)


def made(kind, ids, names, numbers_NC):
    """A prediction from numbers of any size; sigmoids of them for label sets."""
    if kind == "marginals":
        return Marginals.from_logits(ids, names, 2 * numbers_NC)
    return Values(ids, names, numbers_NC, LEVELS[: len(names)] if kind == "quantiles" else ())


def truth(kind, ids, names, numbers_NC):
    """What `made` predicts."""
    if kind == "marginals":
        return LabelSets(ids, names, numbers_NC > 0.3)
    return Numbers(ids, names if kind == "values" else ("target",), numbers_NC)


@st.composite
def other_pools(draw, kind, members=(1, 4), rows=(1, 10), columns=(1, 4)):
    """As `pools`, of another kind: eighths from 0 to 1, in which ties, 0, 1/2 and 1 are common.

    Members may order the columns differently, but for quantiles, and may not know some labels.
    """
    num_columns, num_rows = draw(st.integers(*columns)), draw(st.integers(*rows))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    names = tuple("abcdef"[:num_columns])
    ids = np.array([f"row{n}" for n in range(num_rows)])

    def eighths(width):
        cells = st.lists(st.integers(0, 8), min_size=num_rows * width, max_size=num_rows * width)
        return np.array(draw(cells), dtype=dtype).reshape(num_rows, width) / dtype(8)

    parts = {}
    for m in range(draw(st.integers(*members))):
        own = names
        if kind != "quantiles":
            own = tuple(draw(st.permutations(names)))
        if kind == "marginals":
            own = own[: draw(st.integers(1, num_columns))]
        array_NC = eighths(len(own))
        if kind == "marginals":
            parts[f"member{m}"] = Marginals(ids, own, array_NC)
        elif kind == "values":
            parts[f"member{m}"] = Values(ids, own, array_NC)
        else:
            parts[f"member{m}"] = Values(ids, own, np.sort(array_NC), LEVELS[:num_columns])
    places = draw(st.lists(st.integers(0, 2), min_size=num_rows, max_size=num_rows))
    features = {"place": Values(ids, ("x",), np.array(places, dtype=float)[:, None])}
    stack = Stack.align(parts, classes=names, features=features)
    targets = truth(kind, ids, names, eighths(1 if kind == "quantiles" else num_columns))
    return stack, targets


def arrays(stack):
    """The arrays of a stack, to compare them later."""
    return [part.array_NC.copy() for part in stack.parts]
