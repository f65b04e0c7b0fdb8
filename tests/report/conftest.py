# SPDX-License-Identifier: Apache-2.0
"""A finished run folder with plausible members: every score in it is computed from its predictions."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusetune.evaluate.compare import bootstrap_gain, bootstrap_intervals, mcnemar_p
from fusetune.evaluate.cost import Cost, cost_ratio, total_cost
from fusetune.evaluate.diagnosis import (
    calibration_results,
    contribution_results,
    diversity_results,
    significance_results,
)
from fusetune.evaluate.score import correct
from fusetune.evaluate.verdict import Comparison, decide
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from fusetune.report.contents import THUMBNAILS, gather
from fusetune.report.html import render
from fusetune.report.rows import disputed

ADVICE = ("Two members differ on 7.9 % of the rows.", "Weights can be learned.")
METRICS = ("accuracy", "log_loss", "brier", "expected_calibration_error", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """What the run looks like; the defaults resemble the demo."""

    members: Sequence[str] = ("mini-residual", "mini-plain", "mini-inception")
    classes: Sequence[str] = tuple(str(digit) for digit in range(10))
    num_rows: int = 1000
    skill: float = 4.6
    failed: dict[str, str] | None = None
    error: str = "loss became NaN in epoch 3, step 41"
    images: bool = True
    side: int = 8
    bare: bool = False  # as after fusing prediction files: no images, curves, costs, recipe
    note: str = ""
    seed: int = 0


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder that looks as its keywords say; see `Synthetic`."""
    return lambda name="run", **looks: write_run(tmp_path / name, Synthetic(**looks))


@pytest.fixture(scope="session")
def demo_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run like the demo's, with a failed member."""
    folder = write_run(tmp_path_factory.mktemp("demo"), Synthetic(failed={"broken": "failed"}))
    page = folder / "report.html"
    page.write_text(render(gather(folder)), encoding="utf-8")
    return page


def write_run(folder: Path, run: Synthetic = Synthetic()) -> Path:
    random = np.random.default_rng(run.seed)
    targets = Targets(
        [f"test-{row:05d}" for row in range(run.num_rows)],
        tuple(run.classes),
        random.integers(len(run.classes), size=run.num_rows),
    )
    parts = _predictions(run, targets, random)
    weights = dict(zip(parts, random.dirichlet(np.full(len(parts), 4.0)).round(4), strict=True))
    fusions = _fused(parts, weights)
    results = _results(run, targets, parts, fusions, weights)
    _write_table(folder / "targets/test.parquet", {"id": targets.ids, "target": targets.names()})
    for name, part in {**parts, "ensemble": fusions["auto"]}.items():
        columns = {"id": part.ids} | dict(zip(part.classes, part.probs_NC.T, strict=True))
        _write_table(folder / f"predictions/{name}/test.parquet", columns)
    if run.images and not run.bare:
        _write_thumbnails(folder / THUMBNAILS, run, disputed(parts, targets), targets)
    if not run.bare:
        (folder / "recipe.yaml").write_text(RECIPE + f"# {run.note}\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def _predictions(
    run: Synthetic, targets: Targets, random: np.random.Generator
) -> dict[str, Probabilities]:
    """Members share what is hard about a row, and have errors of their own."""
    shape = (len(targets), len(targets.classes))
    truth_NC = np.eye(shape[1])[targets.labels_N]
    hard_NC = random.normal(size=shape)
    parts = {}
    for index, name in enumerate(run.members):
        skill = run.skill * (0.92 + 0.16 * random.random())
        own_NC = random.normal(size=shape)
        logits_NC = 1.1 * (skill * truth_NC + 1.1 * hard_NC + 1.2 * own_NC)
        order = random.permutation(shape[1]) if index % 2 else np.arange(shape[1])
        names = [targets.classes[column] for column in order]
        parts[name] = Probabilities.from_logits(targets.ids, names, logits_NC[:, order])
    return parts


def _fused(parts: dict[str, Probabilities], weights: dict[str, float]) -> dict[str, Probabilities]:
    first = next(iter(parts.values()))
    columns = [[part.classes.index(name) for name in first.classes] for part in parts.values()]
    probs_MNC = np.stack(
        [part.probs_NC[:, order] for part, order in zip(parts.values(), columns, strict=True)]
    )
    weights_M = np.array(list(weights.values()))
    mixed = {
        "mean": probs_MNC.mean(axis=0),
        "weighted_mean": np.tensordot(weights_M / weights_M.sum(), probs_MNC, axes=1),
        "stacking": probs_MNC.prod(axis=0) ** (1 / 1.3),
        "auto": (probs_MNC**0.8).mean(axis=0),
    }
    return {
        name: Probabilities(first.ids, first.classes, probs / probs.sum(axis=1, keepdims=True))
        for name, probs in mixed.items()
    }


def _results(
    run: Synthetic,
    targets: Targets,
    parts: dict[str, Probabilities],
    fusions: dict[str, Probabilities],
    weights: dict[str, float],
) -> dict[str, Any]:
    metrics = [find(Metric, name)() for name in METRICS]
    everybody = parts | fusions
    statistics = {
        (name, metric.name): metric.statistics(part, targets)
        for name, part in everybody.items()
        for metric in metrics
    }
    intervals = dict(
        zip(
            statistics,
            bootstrap_intervals(
                [(find(Metric, metric)(), found) for (_, metric), found in statistics.items()],
                resamples=400,
                seed=run.seed,
            ),
            strict=True,
        )
    )
    scored = {
        name: {
            "scores": {"test": {m: intervals[name, m].value for m in METRICS}},
            "intervals": {m: [intervals[name, m].low, intervals[name, m].high] for m in METRICS},
        }
        for name in everybody
    }
    best = max(parts, key=lambda name: scored[name]["scores"]["test"]["accuracy"])
    costs = {
        name: Cost(
            fit_s=4.0 + 3 * i, predict_s_per_row=0.0004 * (1 + i), parameters=120_000 * (1 + i)
        )
        for i, name in enumerate(parts)
    }
    own = Cost(fit_s=0.021, predict_s_per_row=2e-6)
    gain = bootstrap_gain(
        metrics[0], statistics["auto", "accuracy"], statistics[best, "accuracy"], seed=run.seed
    )
    verdict = decide(
        gain,
        p_value=mcnemar_p(correct(fusions["auto"], targets), correct(parts[best], targets)),
        cost_ratio=None if run.bare else cost_ratio(total_cost(costs.values(), own), costs[best]),
        compared=Comparison(metric="accuracy", chosen="auto", best_member=best),
    )
    members = [
        {"name": name, "source": "mini", "status": "ok", "error": None, **scored[name]}
        | (
            {}
            if run.bare
            else {
                "seconds": {
                    "finetune": costs[name].fit_s,
                    "predict_per_row": costs[name].predict_s_per_row,
                },
                "parameters": costs[name].parameters,
                "notes": [run.note] if run.note else [],
                "best_epoch": 7,
            }
        )
        for name in parts
    ]
    for name, status in (run.failed or {}).items():
        members.append({"name": name, "source": "mini", "status": status, "error": run.error})
    tests = significance_results(
        metrics[0],
        list(fusions),
        "auto",
        lambda name: statistics[name, "accuracy"],
        statistics[best, "accuracy"],
        seed=run.seed,
    )
    by_fusion = {"weighted_mean": weights, "mean": dict.fromkeys(parts, 1 / len(parts))}
    stack = Stack.align(parts, ids=targets.ids)
    explained = contribution_results(stack, targets, metrics[0], weights=weights, seed=run.seed)
    return {
        "version": "0.1.0",
        "task": "image_classification",
        "metric": "accuracy",
        "rows": {"train": 260, "validation": 40, "holdout": 300, "test": len(targets)},
        "members": members,
        "fusions": [
            {"name": name, "method": name, "weights": by_fusion.get(name, weights), **scored[name]}
            | tests[name]
            | ({} if run.bare else {"seconds": {"fit": 0.021, "predict_per_row": 2e-6}})
            | ({"weights": None} if name == "stacking" else {})
            for name in fusions
        ],
        "chosen": "auto",
        "best_member": best,
        "verdict": verdict.as_results(),
        "learning_curves": {}
        if run.bare
        else {name: _curve(run, i) for i, name in enumerate(parts)},
        **diversity_results(stack, targets),
        "contributions": explained and {"of": "weights", **explained},
        "calibration": calibration_results(
            "temperature", fusions["mean"], fusions["auto"], targets, metrics
        ),
        "advice": list(ADVICE),
        "environment": {"python": "3.11.7", "fusetune": "0.1.0", "packages": {"numpy": "2.4.6"}},
        "seed": run.seed,
    }


def _curve(run: Synthetic, index: int) -> list[dict[str, float]]:
    random = np.random.default_rng(index)
    epochs = np.arange(1, 11)
    train = 2.1 * np.exp(-epochs / (2.2 + 0.4 * index)) + 0.05 * random.random(10)
    validation = 2.0 * np.exp(-epochs / (2.4 + 0.4 * index)) + 0.18 + 0.03 * random.random(10)
    validation[7:] += [0.02, 0.05, 0.07]
    return [
        {
            "epoch": int(epoch),
            "train_loss": float(train[i]),
            "validation_loss": float(validation[i]),
            "validation_accuracy": float(0.97 - validation[i] / 3.5),
            "lr": 0.01,
            "images_per_second": 800.0 + 10 * i,
        }
        for i, epoch in enumerate(epochs)
    ]


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(np.asarray(v)) for name, v in columns.items()}), path)


def _write_thumbnails(path: Path, run: Synthetic, ids: Sequence[str], targets: Targets) -> None:
    """Real scans where the classes are digits, else colored noise with a shape in it."""
    random = np.random.default_rng(run.seed)
    if run.side == 8:
        from sklearn.datasets import load_digits

        digits = load_digits()
        label = dict(zip(targets.ids.tolist(), targets.labels_N % 10, strict=True))
        rows = [int(random.choice(np.flatnonzero(digits.target == label[name]))) for name in ids]
        gray = digits.images[rows] / 16 + random.normal(scale=0.2, size=(len(ids), 8, 8))
        pixels = np.repeat((255 * gray.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=-1)
    else:
        ramp = np.linspace(0, 255, run.side)
        base = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), axis=-1)
        shape = (len(ids), run.side, run.side, 3)
        pixels = (base + random.normal(scale=20, size=shape)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, ids=np.asarray(ids, dtype=str), pixels=pixels)


RECIPE = """\
task: image_classification
data: {source: digits, noise: 0.2, roles: {train: 260, validation: 40, holdout: 300}}
members:
  - {source: mini, model: residual, finetune: {epochs: 10, optimizer: {name: adamw, lr: 3.0e-3}}}
  - {source: mini, model: plain}
  - {source: mini, model: inception}
fuse: {methods: [vote, mean, weighted_mean, stacking, greedy_selection], choose: auto}
metric: accuracy
seed: 0
"""
