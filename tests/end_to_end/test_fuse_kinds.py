# SPDX-License-Identifier: Apache-2.0
"""Files of every kind and form: fused, judged, and applied to new files of the same members."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusetune.ensemble import Ensemble
from fusetune.fuse.fusion import load_fusion
from fusetune.predictions.files import read_columnar, write_columnar, write_targets
from fusetune.predictions.kinds import Columnar, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from support import fusetune

pytestmark = pytest.mark.slow

ROWS = 200
CLASSES = ("ant", "bee", "cat")
LEVELS = (0.1, 0.5, 0.9)


class Data:
    """Truth and what members see of it, for rows to fuse on or for new ones."""

    def __init__(self, seed: int, rows: int = ROWS) -> None:
        self.rng = np.random.default_rng(seed)
        self.ids = np.array([f"row-{seed}-{n}" for n in range(rows)])
        self.labels = self.rng.integers(0, 3, rows)
        self.numbers = 100 + 10 * self.rng.normal(size=(rows, 2))
        self.present = self.rng.random((rows, 3)) < (0.5, 0.3, 0.1)

    def logits(self) -> np.ndarray:
        return 1.5 * np.eye(3)[self.labels] + self.rng.normal(size=(len(self.ids), 3))

    def label_logits(self) -> np.ndarray:
        return 3 * (self.present - 0.5) + self.rng.normal(size=(len(self.ids), 3))

    def values(self, columns: int = 1) -> np.ndarray:
        return self.numbers[:, :columns] + 5 * self.rng.normal(size=(len(self.ids), columns))


def csv(path: Path, ids: Sequence[str], columns: dict[str, Any]) -> Path:
    lines = ["id," + ",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(ids, *columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def fuse(folder: Path, files: list[Path], targets: Path, *more: str) -> dict[str, Any]:
    """Results of the command on these files."""
    done = fusetune("fuse", *files, "--targets", targets, "--out", folder / "run", *more)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())
    return results


def predicted(folder: Path, files: list[Path], kind: type[Columnar]) -> Columnar:
    """What `fusetune predict` makes of new files."""
    done = fusetune("predict", folder / "run", *files, "--out", folder / "fused.parquet")
    assert done.returncode == 0, done.stderr
    return read_columnar(folder / "fused.parquet", kind)


def by_hand(folder: Path, files: list[Path], kind: type[Columnar]) -> Columnar:
    """What the saved fusion makes of them, read without any inference of forms."""
    stack: Stack[Any] = Stack.align({file.stem: read_columnar(file, kind) for file in files})
    fused: Columnar = load_fusion(folder / "run" / "ensemble" / "fusion")(stack)
    return fused


def agree(one: Columnar, other: Columnar) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert sorted(one.columns) == sorted(other.columns)
    order = [other.columns.index(name) for name in one.columns]
    np.testing.assert_allclose(one.array_NC, other.array_NC[:, order], rtol=1e-6, atol=1e-6)


def score(results: dict[str, Any], name: str, metric: str) -> float:
    (entry,) = [e for e in results["fusions"] + results["members"] if e["name"] == name]
    value: float = entry["scores"]["test"][metric]
    return value


@pytest.mark.parametrize("columns", [1, 2])
def test_numbers(columns: int, tmp_path: Path) -> None:
    names = ("target",) if columns == 1 else ("height", "weight")

    def members(data: Data, folder: Path) -> list[Path]:
        folder.mkdir()
        paths = [folder / f"m{m}.{suffix}" for m, suffix in enumerate(("csv", "parquet", "csv"))]
        for path in paths:
            write_columnar(path, Values(data.ids, names, data.values(columns)))
        return paths

    data, fresh = Data(0), Data(1, 30)
    targets = tmp_path / "targets.csv"
    write_targets(targets, Numbers(data.ids, names, data.numbers[:, :columns]))
    results = fuse(tmp_path, members(data, tmp_path / "fused"), targets)
    assert results["task"] == "regression"
    assert results["metric"] == "rmse"
    assert results["chosen"] == "auto"
    assert {"mean", "median", "weighted_mean", "stacking", "greedy_selection"} <= {
        entry["name"] for entry in results["fusions"]
    }
    assert score(results, "auto", "rmse") < score(results, results["best_member"], "rmse")
    assert results["verdict"]["decision"] == "worth_it"
    new = members(fresh, tmp_path / "fresh")
    agree(predicted(tmp_path, new, Values), by_hand(tmp_path, new, Values))


def test_quantiles_are_averaged_level_by_level(tmp_path: Path) -> None:
    def members(data: Data, folder: Path) -> list[Path]:
        folder.mkdir()
        paths = [folder / f"m{m}.csv" for m in range(3)]
        for m, path in enumerate(paths):
            quantiles = data.values() + (2 + 3 * m) * np.array([-1.28, 0, 1.28])
            columns = dict(zip(("q0.1", "q0.5", "q0.9"), quantiles.T, strict=True))
            csv(path, data.ids, columns)
        return paths

    data, fresh = Data(0), Data(1, 30)
    write_targets(tmp_path / "targets.csv", Numbers(data.ids, ("target",), data.numbers[:, :1]))
    results = fuse(tmp_path, members(data, tmp_path / "fused"), tmp_path / "targets.csv")
    assert results["metric"] == "pinball"
    assert "stacking" not in {entry["name"] for entry in results["fusions"]}
    assert score(results, "auto", "pinball") < score(results, results["best_member"], "pinball")
    new = members(fresh, tmp_path / "fresh")
    fused = predicted(tmp_path, new, Values)
    agree(fused, by_hand(tmp_path, new, Values))
    assert isinstance(fused, Values)
    assert fused.levels == LEVELS
    assert (np.diff(fused.values_ND, axis=1) >= 0).all()
    refused = fusetune(
        *("fuse", *(tmp_path / "fused").glob("*.csv"), "--targets", tmp_path / "targets.csv"),
        *("--method", "stacking", "--out", tmp_path / "refused"),
    )
    assert refused.returncode == 2
    assert "quantiles" in refused.stderr
    assert not (tmp_path / "refused").exists()


def test_label_sets(tmp_path: Path) -> None:
    def members(data: Data, folder: Path) -> list[Path]:
        folder.mkdir()
        paths = [folder / f"m{m}.parquet" for m in range(3)]
        for path in paths:
            order = data.rng.permutation(3)
            names = tuple(np.array(CLASSES)[order])
            write_columnar(
                path, Marginals.from_logits(data.ids, names, data.label_logits()[:, order])
            )
        return paths

    data, fresh = Data(0), Data(1, 30)
    write_targets(tmp_path / "targets.csv", LabelSets(data.ids, CLASSES, data.present))
    results = fuse(
        *(tmp_path, members(data, tmp_path / "fused"), tmp_path / "targets.csv"),
        *("--metric", "multilabel_log_loss"),
    )
    assert results["task"] == "multilabel"
    assert {"vote", "log_pool", "stacking"} <= {entry["name"] for entry in results["fusions"]}
    best = score(results, results["best_member"], "multilabel_log_loss")
    assert score(results, "auto", "multilabel_log_loss") < best
    new = members(fresh, tmp_path / "fresh")
    agree(predicted(tmp_path, new, Marginals), by_hand(tmp_path, new, Marginals))


def mixed(data: Data, folder: Path) -> list[Path]:
    """One member each of probabilities, logits, scores of another scale, and labels."""
    folder.mkdir()
    prediction = Probabilities.from_logits(data.ids, CLASSES, data.logits())
    write_columnar(folder / "probs.parquet", prediction)
    csv(folder / "logits.csv", data.ids, dict(zip(CLASSES, data.logits().T, strict=True)))
    np.savez(folder / "scores.npz", ids=data.ids, scores=40 * data.logits(), classes=CLASSES)
    said = np.array(CLASSES)[data.logits().argmax(axis=1)]
    csv(folder / "said.csv", data.ids, {"label": said})
    return [folder / name for name in ("probs.parquet", "logits.csv", "scores.npz", "said.csv")]


def test_logits_scores_and_labels_beside_probabilities(tmp_path: Path) -> None:
    data, fresh = Data(0, 400), Data(1, 30)
    write_targets(tmp_path / "targets.csv", Targets(data.ids, CLASSES, data.labels))
    files = mixed(data, tmp_path / "fused")
    refused = fusetune(
        "fuse", *files, "--targets", tmp_path / "targets.csv", "--out", tmp_path / "run"
    )
    assert refused.returncode == 2
    assert "--form MEMBER=FORM" in refused.stderr
    results = fuse(tmp_path, files, tmp_path / "targets.csv", "--form", "logits=logits")
    forms = {entry["name"]: entry["form"] for entry in results["members"]}
    assert forms == {
        "probs": "probabilities",
        "logits": "logits",
        "scores": "scores",
        "said": "labels",
    }
    best = score(results, results["best_member"], "accuracy")
    assert score(results, "auto", "accuracy") > best
    new = mixed(fresh, tmp_path / "fresh")
    fused = predicted(tmp_path, new, Probabilities)
    assert isinstance(fused, Probabilities)
    right = fused.labels() == np.array(CLASSES)[fresh.labels]
    assert right.mean() > 0.6
    agree(fused, Ensemble.load(tmp_path / "run").predict(new))


def test_members_that_give_labels_only(tmp_path: Path) -> None:
    def members(data: Data, folder: Path) -> list[Path]:
        folder.mkdir()
        said = [np.array(CLASSES)[data.logits().argmax(axis=1)] for _ in range(3)]
        return [csv(folder / f"m{m}.csv", data.ids, {"label": s}) for m, s in enumerate(said)]

    data, fresh = Data(0), Data(1, 30)
    write_targets(tmp_path / "targets.csv", Targets(data.ids, CLASSES, data.labels))
    results = fuse(
        *(tmp_path, members(data, tmp_path / "fused"), tmp_path / "targets.csv"),
        *("--metric", "log_loss"),
    )
    best = score(results, results["best_member"], "log_loss")
    assert score(results, "auto", "log_loss") < best
    assert len(predicted(tmp_path, members(fresh, tmp_path / "fresh"), Probabilities)) == 30


@pytest.mark.parametrize("method", ["gating", "dynamic_selection"])
def test_feature_vectors_say_which_member_to_believe(method: str, tmp_path: Path) -> None:
    def members(data: Data, folder: Path) -> list[Path]:
        """Each of two members sees the class on one side of a place, and nothing beyond."""
        folder.mkdir()
        place = data.rng.normal(size=(len(data.ids), 2))
        for name, side in (("left", place[:, 0] < 0), ("right", place[:, 0] >= 0)):
            seen = 4 * np.eye(3)[data.labels] * side[:, None]
            logits = seen + data.rng.normal(size=seen.shape)
            write_columnar(
                folder / f"{name}.csv", Probabilities.from_logits(data.ids, CLASSES, logits)
            )
        np.savez(folder / "place.npz", ids=data.ids, features=place, names=["x", "y"])
        return [folder / name for name in ("left.csv", "right.csv", "place.npz")]

    data, fresh = Data(0, 400), Data(1, 100)
    write_targets(tmp_path / "targets.csv", Targets(data.ids, CLASSES, data.labels))
    files, targets = members(data, tmp_path / "fused"), tmp_path / "targets.csv"
    results = fuse(tmp_path, files, targets, "--method", method)
    assert [entry["name"] for entry in results["members"]] == ["left", "right"]
    best = score(results, results["best_member"], "accuracy")
    assert score(results, method, "accuracy") > best + 0.1
    new = members(fresh, tmp_path / "fresh")
    fused = predicted(tmp_path, new, Probabilities)
    assert isinstance(fused, Probabilities)
    assert (fused.labels() == np.array(CLASSES)[fresh.labels]).mean() > 0.75
    without = fusetune("predict", tmp_path / "run", *new[:2], "--out", tmp_path / "x.csv")
    assert without.returncode == 2
    assert "'place'" in without.stderr
    assert not (tmp_path / "x.csv").exists()


def test_dynamic_selection_without_features_is_refused(tmp_path: Path) -> None:
    data = Data(0)
    write_targets(tmp_path / "targets.csv", Targets(data.ids, CLASSES, data.labels))
    prediction = Probabilities.from_logits(data.ids, CLASSES, data.logits())
    write_columnar(tmp_path / "one.csv", prediction)
    done = fusetune(
        *("fuse", tmp_path / "one.csv", "--targets", tmp_path / "targets.csv"),
        *("--method", "dynamic_selection", "--out", tmp_path / "run"),
    )
    assert done.returncode == 2
    assert "; expected " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_roles_say_which_rows_fit_and_which_judge(tmp_path: Path) -> None:
    data = Data(0)
    role = np.where(
        np.arange(ROWS) < 120, "holdout", np.where(np.arange(ROWS) < 190, "test", "train")
    )
    targets = {"target": data.numbers[:, 0], "role": role}
    csv(tmp_path / "targets.csv", data.ids, targets)
    files = [csv(tmp_path / f"m{m}.csv", data.ids, {"v": data.values()[:, 0]}) for m in range(3)]
    results = fuse(tmp_path, files, tmp_path / "targets.csv")
    assert results["rows"] == {"holdout": 120, "test": 70}
    assert results["judged"] == "test"


def test_all_rows_may_fit_and_judge_and_the_verdict_says_so(tmp_path: Path) -> None:
    data = Data(0)
    write_targets(tmp_path / "targets.csv", Targets(data.ids, CLASSES, data.labels))
    files = [tmp_path / f"m{m}.csv" for m in range(3)]
    for file in files:
        write_columnar(file, Probabilities.from_logits(data.ids, CLASSES, data.logits()))
    results = fuse(tmp_path, files, tmp_path / "targets.csv", "--holdout", "1")
    assert results["judged"] == "in_sample"
    assert any("n-sample" in note for note in results["notes"])
    assert "in-sample" in results["verdict"]["sentence"].lower()
    assert "in-sample" in (tmp_path / "run" / "report.html").read_text().lower()


@pytest.mark.parametrize("kind", ["probabilities", "values"])
def test_rows_that_a_member_lacks_are_the_others_mean(kind: str, tmp_path: Path) -> None:
    data = Data(0)
    targets = tmp_path / "targets.csv"
    if kind == "values":
        write_targets(targets, Numbers(data.ids, ("target",), data.numbers[:, :1]))
        parts: list[Columnar] = [Values(data.ids, ("target",), data.values()) for _ in range(3)]
    else:
        write_targets(targets, Targets(data.ids, CLASSES, data.labels))
        parts = [Probabilities.from_logits(data.ids, CLASSES, data.logits()) for _ in range(3)]
    parts[2] = parts[2].take(np.arange(150))
    files = [tmp_path / f"m{m}.csv" for m in range(3)]
    for file, part in zip(files, parts, strict=True):
        write_columnar(file, part)
    refused = fusetune("fuse", *files, "--targets", targets, "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert "50 ids are missing" in refused.stderr
    results = fuse(
        *(tmp_path, files, targets, "--missing", "renormalize", "--method", "mean"),
        *("--calibrate", "none"),
    )
    assert any("m2 does not predict 50 of 200 rows" in note for note in results["notes"])
    fused = read_columnar(
        tmp_path / "run" / "predictions" / "ensemble" / "test.parquet", type(parts[0])
    )
    at = {name: row for row, name in enumerate(fused.ids.tolist())}
    rows = [at[name] for name in data.ids[150:].tolist()]
    expected = (parts[0].array_NC[150:] + parts[1].array_NC[150:]) / 2
    np.testing.assert_allclose(fused.array_NC[rows], expected, rtol=1e-5, atol=1e-5)


def test_arrays_without_ids_have_the_targets_rows(tmp_path: Path) -> None:
    data = Data(0)
    write_targets(tmp_path / "targets.csv", Numbers(data.ids, ("target",), data.numbers[:, :1]))
    for m in range(2):
        np.save(tmp_path / f"m{m}.npy", data.values()[:, 0])
    files = [tmp_path / "m0.npy", tmp_path / "m1.npy"]
    fuse(tmp_path, files, tmp_path / "targets.csv", "--method", "mean")
    fused = predicted(tmp_path, files, Values)
    np.testing.assert_allclose(
        fused.array_NC[:, 0], np.mean([np.load(file) for file in files], axis=0)
    )
    write_targets(tmp_path / "classes.csv", Targets(data.ids, CLASSES, data.labels))
    for m in range(2):
        prediction = Probabilities.from_logits(data.ids, CLASSES, data.logits())
        np.save(tmp_path / f"m{m}.npy", prediction.probs_NC)
    done = fusetune(
        "fuse", *files, "--targets", tmp_path / "classes.csv", "--out", tmp_path / "other"
    )
    assert done.returncode == 2
    assert "--classes" in done.stderr
    named = fuse(
        *(tmp_path, files, tmp_path / "classes.csv", "--classes", ",".join(CLASSES)),
        *("--method", "vote"),
    )
    assert named["chosen"] == "vote"
