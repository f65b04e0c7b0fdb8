# SPDX-License-Identifier: Apache-2.0
"""Real pools: scikit-learn models fitted on real rows, predicting rows that they did not see.

Shapes: M members, N rows, C classes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pool_sources import DATA, SOURCES, Rows

__all__ = ["POOLS", "Pool", "Predicted", "predicted"]

Model: TypeAlias = Any
"""A scikit-learn estimator."""
Array: TypeAlias = Any
MOST_ROWS = 8_000  # predicted of a pool: holdout and test together
Members = Mapping[str, Callable[[int], Any]]
"""Name → from a seed to an unfitted model."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What to fit, on what, and how it is judged.

    Args:
        source: Key of `SOURCES`, or "files" for predictions that lie in `../shared/data`.
        train: Rows that fit the members.
        holdout: Rows that fit the fusion.
        members: Made anew for every seed.
        metrics: What the fusion is judged by, each in turn.
        about: What is special, for the table.
    """

    source: str
    train: int
    holdout: int
    members: Callable[[], Members]
    metrics: tuple[str, ...]
    about: str = ""


@dataclass(frozen=True)
class Predicted:
    """Predictions of the rows that fitted no member.

    Args:
        members: M names.
        classes: C names; empty for regression.
        array_MNC: `(M, N, C)` probabilities, or values with C = 1.
        targets_N: `(N,)` columns of the true classes, or numbers.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    array_MNC: Any
    targets_N: Any


@dataclass
class Part:
    """A model that sees some of its rows, columns or targets only.

    Args:
        model: What is fitted.
        columns: Columns it sees; None: all.
        rows: Share of the training rows it sees, or a group's name.
        wrong: Share of the training targets that are drawn anew: a harmful member.
        sharpen: Its log-probabilities are multiplied by this: an over-confident member.
    """

    model: Any
    columns: slice | None = None
    rows: float | str = 1.0
    wrong: float = 0.0
    sharpen: float = 1.0
    seed: int = 0
    features: Any = field(default=None, repr=False)

    def fit(self, rows: Rows) -> "Part":
        """Fit on the rows that it may see."""
        random = np.random.default_rng(self.seed)
        features, targets_N = self._seen(rows.features), rows.targets_N.copy()
        if isinstance(self.rows, str):
            kept = np.flatnonzero(rows.groups_N == self.rows)
        else:
            kept = random.permutation(len(targets_N))[: max(2, int(self.rows * len(targets_N)))]
        changed = random.random(len(targets_N)) < self.wrong
        targets_N[changed] = random.permutation(targets_N[changed])
        self.model.fit(features[kept], targets_N[kept])
        return self

    def predict(self, features: Array, classes: tuple[str, ...]) -> Array:
        """`(N, C)` probabilities over all classes, or values."""
        seen = self._seen(features)
        if not classes:
            return np.asarray(self.model.predict(seen), dtype=np.float64).reshape(-1, 1)
        if hasattr(self.model, "predict_proba"):
            probs_NC = self.model.predict_proba(seen)
        else:
            scores = self.model.decision_function(seen)
            probs_NC = softmax(np.stack([-scores, scores], 1) if scores.ndim == 1 else scores)
        known = [classes.index(name) for name in self.model.classes_]
        full_NC = np.zeros((len(probs_NC), len(classes)))
        full_NC[:, known] = probs_NC
        if self.sharpen != 1:
            full_NC = full_NC**self.sharpen
        return full_NC / full_NC.sum(axis=1, keepdims=True)

    def _seen(self, features: Array) -> Array:
        return features if self.columns is None else features[:, self.columns]


def softmax(logits_NC: Array) -> Array:
    """Scores of a margin classifier as they are often (mis)read."""
    exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def scaled(model: Model) -> Model:
    """The model on standardized features."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)


def words(model: Model, **options: object) -> Model:
    """The model on TF-IDF features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(min_df=2, sublinear_tf=True, **options), model)


def usual() -> Members:
    """Seven usual classifiers of numbers."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    return {
        "logistic": lambda seed: Part(scaled(LogisticRegression(max_iter=300))),
        "bayes": lambda seed: Part(GaussianNB()),
        "neighbors": lambda seed: Part(scaled(KNeighborsClassifier(7))),
        "forest": lambda seed: Part(RandomForestClassifier(60, random_state=seed)),
        "extra": lambda seed: Part(ExtraTreesClassifier(60, random_state=seed)),
        "boosting": lambda seed: Part(
            HistGradientBoostingClassifier(max_iter=40, random_state=seed)
        ),
        "mlp": lambda seed: Part(scaled(MLPClassifier((40,), max_iter=120, random_state=seed))),
    }


def some(*names: str) -> Callable[[], Members]:
    """Some of the usual classifiers."""
    return lambda: {name: model for name, model in usual().items() if name in names}


def near_identical() -> Members:
    """24 small forests that differ in their seed only."""
    from sklearn.ensemble import RandomForestClassifier

    return {
        f"forest{k}": lambda seed, k=k: Part(
            RandomForestClassifier(15, random_state=100 * seed + k)
        )
        for k in range(24)
    }


def harmful() -> Members:
    """Five usual ones, and three that learned from wrong targets."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    bad = {
        "tree_wrong": lambda seed: Part(
            DecisionTreeClassifier(random_state=seed), wrong=0.7, seed=seed
        ),
        "stump": lambda seed: Part(DecisionTreeClassifier(max_depth=1, random_state=seed)),
        "logistic_wrong": lambda seed: Part(
            scaled(LogisticRegression(max_iter=200)), wrong=0.9, seed=seed, sharpen=3.0
        ),
    }
    return {**some("logistic", "bayes", "neighbors", "forest", "mlp")(), **bad}


def miscalibrated() -> Members:
    """Over-confident and under-confident ones."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    return {
        "bayes": lambda seed: Part(GaussianNB()),
        "tree": lambda seed: Part(DecisionTreeClassifier(random_state=seed)),
        "svm": lambda seed: Part(scaled(LinearSVC(random_state=seed))),
        "sharp": lambda seed: Part(scaled(LogisticRegression(max_iter=200)), sharpen=4.0),
        "blunt": lambda seed: Part(
            RandomForestClassifier(80, max_depth=4, random_state=seed), sharpen=0.4
        ),
    }


def dominant() -> Members:
    """One that learned from everything, six from a thirtieth."""
    few = {f"{name}_few": model for name, model in usual().items() if name != "boosting"}

    def starved(model: Callable[[int], Part], k: int) -> Callable[[int], Part]:
        def make(seed: int) -> Part:
            part = model(seed)
            part.rows, part.seed = 1 / 30, 10 * seed + k
            return part

        return make

    starving = {name: starved(model, k) for k, (name, model) in enumerate(few.items())}
    return {"boosting": usual()["boosting"], **starving}


def halves() -> Members:
    """Specialists that see a quarter of the columns each, two models on each."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    made: dict[str, Callable[[int], Part]] = {}
    for k in range(4):
        columns = slice(k, None, 4)
        made[f"logistic{k}"] = lambda seed, columns=columns: Part(
            scaled(LogisticRegression(max_iter=200)), columns=columns
        )
        made[f"neighbors{k}"] = lambda seed, columns=columns: Part(
            scaled(KNeighborsClassifier(5)), columns=columns
        )
    return made


def networks() -> Members:
    """Ten small networks of several widths, on half of the rows each."""
    from sklearn.neural_network import MLPClassifier

    return {
        f"mlp{k}": lambda seed, k=k: Part(
            scaled(MLPClassifier((8 + 8 * (k % 5),), max_iter=80, random_state=10 * seed + k)),
            rows=0.5,
            seed=10 * seed + k,
        )
        for k in range(10)
    }


def forests() -> Members:
    """Twelve trees and forests from hopeless to good."""
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    made: dict[str, Callable[[int], Part]] = {}
    for k, depth in enumerate((1, 2, 4, 6, 9, None)):
        for kind in (RandomForestClassifier, ExtraTreesClassifier):
            made[f"{kind.__name__[:6].lower()}{depth}"] = lambda seed, k=k, d=depth, kind=kind: (
                Part(kind(40, max_depth=d, random_state=10 * seed + k))
            )
    return made


def readers() -> Members:
    """Six classifiers of sentences."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import BernoulliNB, MultinomialNB
    from sklearn.svm import LinearSVC

    return {
        "logistic": lambda seed: Part(words(LogisticRegression(C=3))),
        "letters": lambda seed: Part(
            words(LogisticRegression(C=3), analyzer="char_wb", ngram_range=(2, 4))
        ),
        "bayes": lambda seed: Part(words(MultinomialNB(), ngram_range=(1, 2))),
        "bernoulli": lambda seed: Part(words(BernoulliNB())),
        "hinge": lambda seed: Part(words(LinearSVC(C=0.3, random_state=seed))),
        "sgd": lambda seed: Part(words(SGDClassifier(loss="modified_huber", random_state=seed))),
        "extra": lambda seed: Part(
            words(ExtraTreesClassifier(30, max_depth=40, random_state=seed))
        ),
    }


def subspaces() -> Members:
    """20 classifiers of sentences, on a tenth of the rows each."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    return {
        f"{name}{k}": lambda seed, k=k, model=model: Part(
            words(model()), rows=0.1, seed=100 * seed + k
        )
        for k in range(10)
        for name, model in (("logistic", LogisticRegression), ("bayes", MultinomialNB))
    }


def by_speaker() -> Members:
    """Digits by models that heard one speaker each, and two that heard all."""
    from sklearn.linear_model import LogisticRegression

    made: dict[str, Callable[[int], Part]] = {
        f"heard_{name}": lambda seed, name=name: Part(
            scaled(LogisticRegression(max_iter=200, C=0.1)), rows=name
        )
        for name in ("george", "jackson", "nicolas", "theo")
    }
    return {**made, **some("neighbors", "bayes")()}


def regressors() -> Members:
    """Seven usual regressors."""
    from sklearn.ensemble import (
        ExtraTreesRegressor,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
    )
    from sklearn.linear_model import Lasso, Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.svm import SVR

    return {
        "ridge": lambda seed: Part(scaled(Ridge(1.0))),
        "lasso": lambda seed: Part(scaled(Lasso(0.01))),
        "neighbors": lambda seed: Part(scaled(KNeighborsRegressor(15))),
        "forest": lambda seed: Part(
            RandomForestRegressor(40, min_samples_leaf=3, random_state=seed)
        ),
        "extra": lambda seed: Part(ExtraTreesRegressor(40, min_samples_leaf=3, random_state=seed)),
        "boosting": lambda seed: Part(
            HistGradientBoostingRegressor(max_iter=60, random_state=seed)
        ),
        "svr": lambda seed: Part(scaled(SVR())),
    }


def trees() -> Members:
    """Ten regression trees of several depths, and one line."""
    from sklearn.linear_model import Ridge
    from sklearn.tree import DecisionTreeRegressor

    made: dict[str, Callable[[int], Part]] = {
        f"tree{k}": lambda seed, k=k: Part(
            DecisionTreeRegressor(max_depth=2 + k, random_state=seed, max_features=0.5),
            rows=0.6,
            seed=10 * seed + k,
        )
        for k in range(10)
    }
    return {**made, "ridge": lambda seed: Part(scaled(Ridge(1.0)))}


BOTH, SKEWED = ("log_loss", "accuracy"), ("log_loss", "roc_auc", "balanced_accuracy")
POOLS: dict[str, Pool] = {
    name: Pool(
        source=source, train=train, holdout=holdout, members=members, metrics=metrics, about=about
    )
    for name, source, train, holdout, members, metrics, about in (
        ("digits", "digits", 600, 400, usual, BOTH, "usual"),
        ("digits_few_rows", "digits", 250, 60, usual, BOTH, "few rows"),
        ("digits_alike", "digits", 500, 400, near_identical, BOTH, "near-identical"),
        ("digits_harmful", "digits", 400, 300, harmful, BOTH, "harmful"),
        ("digits_miscalibrated", "digits", 400, 300, miscalibrated, BOTH, "miscalibrated"),
        ("digits_quarters", "digits", 400, 300, halves, BOTH, "specialists"),
        ("breast_cancer", "breast_cancer", 150, 150, usual, BOTH, "usual"),
        ("breast_cancer_few", "breast_cancer", 100, 40, harmful, ("log_loss", "roc_auc"), "few rows"),
        ("wine", "wine", 40, 50, miscalibrated, BOTH, "few rows, miscalibrated"),
        ("iris", "iris", 30, 40, some("logistic", "bayes", "forest"), BOTH, "few rows"),
        ("shoppers", "shoppers", 3000, 3000, some("logistic", "bayes", "forest", "boosting", "mlp"), SKEWED, "skewed"),
        ("shoppers_miscalibrated", "shoppers", 1000, 500, miscalibrated, SKEWED, "miscalibrated"),
        ("shoppers_forests", "shoppers", 2000, 1000, forests, SKEWED, "from weak to good"),
        ("shoppers_dominant", "shoppers", 3000, 400, dominant, SKEWED, "dominant"),
        ("sentences", "sentences", 4000, 2000, readers, ("log_loss", "accuracy", "roc_auc"), "usual"),
        ("sentences_tenths", "sentences", 4000, 1000, subspaces, BOTH, "alike"),
        ("liked", "liked", 4000, 2000, usual, ("log_loss", "accuracy", "roc_auc"), "noisy"),
        ("liked_harmful", "liked", 2000, 300, harmful, BOTH, "noisy, harmful"),
        ("spoken", "spoken", 350, 250, some("logistic", "bayes", "neighbors", "forest", "mlp"), BOTH, "usual"),
        ("spoken_by_speaker", "spoken", 400, 200, by_speaker, BOTH, "specialists"),
        ("speakers", "speakers", 150, 100, halves, BOTH, "specialists, few rows"),
        ("photographs", "photographs", 2000, 1000, usual, BOTH, "usual"),
        ("photographs_networks", "photographs", 2000, 300, networks, BOTH, "alike"),
        ("photographs_miscalibrated", "photographs", 1500, 800, miscalibrated, BOTH, "miscalibrated"),
        ("cifar10", "files", 0, 5000, dict, BOTH, "published networks"),
        ("cifar10_few", "files", 0, 200, dict, BOTH, "published networks, few rows"),
        ("diabetes", "diabetes", 150, 100, regressors, ("rmse",), "noisy, few rows"),
        ("diabetes_trees", "diabetes", 150, 60, trees, ("rmse",), "few rows"),
        ("ratings", "ratings", 4000, 2000, regressors, ("rmse",), "noisy"),
        ("ratings_trees", "ratings", 2000, 400, trees, ("rmse",), "from weak to good"),
    )
}  # fmt: skip


def predicted(name: str, seed: int, cache: Path) -> Predicted:
    """Predictions of a pool, its members fitted with a seed; kept in the folder `cache`."""
    path = cache / f"{name}-{seed}.npz"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        made = from_files() if POOLS[name].source == "files" else fitted(POOLS[name], seed)
        np.savez(
            path,
            members=np.array(made.members),
            classes=np.array(made.classes, dtype=str),
            array_MNC=made.array_MNC.astype(np.float32 if made.classes else np.float64),
            targets_N=made.targets_N,
        )
    with np.load(path) as file:
        return Predicted(
            tuple(file["members"].tolist()),
            tuple(file["classes"].tolist()),
            file["array_MNC"],
            file["targets_N"],
        )


def fitted(pool: Pool, seed: int) -> Predicted:
    """Fit the members on random rows, and predict the others."""
    rows = SOURCES[pool.source]()
    order = np.random.default_rng(seed).permutation(len(rows.targets_N))
    train, others = order[: pool.train], order[pool.train :][:MOST_ROWS]
    groups_N = None if rows.groups_N is None else rows.groups_N[train]
    learned = Rows(rows.features[train], rows.targets_N[train], groups_N)
    is_classes = rows.targets_N.dtype.kind == "U"
    classes = tuple(np.unique(rows.targets_N).tolist()) if is_classes else ()
    arrays = {}
    for name, model in pool.members().items():
        part = model(seed).fit(learned)
        arrays[name] = part.predict(rows.features[others], classes)
    targets_N = rows.targets_N[others]
    if classes:
        targets_N = np.searchsorted(np.array(classes), targets_N)
    return Predicted(tuple(arrays), classes, np.stack(list(arrays.values())), targets_N)


def from_files() -> Predicted:
    """Published networks' predictions of 10,000 recompressed CIFAR-10 images."""
    from fusetune.predictions.files import read_probabilities, read_targets

    folder = DATA / "cifar10_predictions"
    targets = read_targets(folder / "targets.csv")
    parts = {path.stem: read_probabilities(path) for path in sorted(folder.glob("*.parquet"))}
    classes = next(iter(parts.values())).classes
    stacked = aligned(parts.values(), targets.ids, classes)
    return Predicted(tuple(parts), classes, stacked, targets.columns(classes))


def aligned(parts: Iterable[Any], ids: Array, classes: tuple[str, ...]) -> Array:
    """`(M, N, C)` probabilities in the order of the ids and the classes."""
    from fusetune.fuse.forms import over_classes
    from fusetune.predictions.stack import rows_of

    return np.stack(
        [over_classes(part, classes).probs_NC[rows_of(part.ids, ids)] for part in parts]
    )
