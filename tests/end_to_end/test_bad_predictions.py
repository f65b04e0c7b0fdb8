# SPDX-License-Identifier: Apache-2.0
"""Prediction files that are wrong end with one clean paragraph; odd ones that are right just work."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusetune.predictions.files import read_columnar, write_columnar, write_targets
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from support import fusetune

pytestmark = pytest.mark.slow

ROWS = 40
IDS = np.array([f"r{row}" for row in range(ROWS)])
Cells = dict[str, list[str]]
Change = Callable[[Cells], Cells | None]


def cells(seed: int, columns: str = "abc") -> Cells:
    """A good file of probabilities, as text."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(len(columns)), ROWS).round(6)
    probs[:, -1] = 1 - probs[:, :-1].sum(axis=1)
    return {"id": IDS.tolist()} | {
        name: [f"{p:.6f}" for p in column] for name, column in zip(columns, probs.T, strict=True)
    }


def targets_of(columns: str = "abc") -> Cells:
    return {"id": IDS.tolist(), "target": [columns[row % len(columns)] for row in range(ROWS)]}


def write(path: Path, columns: Cells) -> Path:
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def put(column: str, row: int, text: str) -> Callable[[Cells], Cells]:
    def change(table: Cells) -> Cells:
        table[column][row] = text
        return table

    return change


def row_of(*values: str) -> Callable[[Cells], Cells]:
    """The last row holds these probabilities."""

    def change(table: Cells) -> Cells:
        for name, value in zip("abc", values, strict=True):
            table[name][-1] = value
        return table

    return change


def renamed(table: Cells, names: dict[str, str]) -> Cells:
    return {names.get(name, name): column for name, column in table.items()}


def many_columns(table: Cells) -> Cells:
    """Fifty classes, none of which the targets know."""
    return {"id": table["id"]} | {f"class_{c}": ["0.02"] * ROWS for c in range(50)}


def only(rows: int) -> Callable[[Cells], Cells]:
    return lambda table: {name: column[:rows] for name, column in table.items()}


def as_it_is(table: Cells) -> Cells:
    return table


# name: (change of one member's file, change of the targets, what is named, what is to be done)
WRONG: dict[str, tuple[Change, Change, str, str]] = {
    "NaN": (row_of("nan", "0.5", "0.5"), as_it_is, "'r39'", "."),
    "an empty cell": (row_of("", "0.5", "0.5"), as_it_is, "'r39'", "."),
    "infinity": (row_of("inf", "0.5", "0.5"), as_it_is, "'r39'", "."),
    "minus infinity": (row_of("0.5", "-inf", "0.5"), as_it_is, "'r39'", "."),
    "negative": (row_of("-0.5", "1.0", "0.5"), as_it_is, "(-0.5, 1, 0.5)", "softmax"),
    "unnormalized": (row_of("0.5", "0.5", "0.5"), as_it_is, "sum to 1.5", "softmax"),
    "repeated ids": (put("id", 1, "r0"), as_it_is, "1 ids occur more than once: 'r0'", "unique"),
    "disjoint ids": (
        lambda table: {**table, "id": [f"x{row}" for row in range(ROWS)]},
        as_it_is,
        "40 ids are missing (first: 'r0')",
        "same split",
    ),
    "a row too few": (only(ROWS - 1), as_it_is, "'r39'", "same split"),
    "no rows": (only(0), as_it_is, "40 ids are missing", "same split"),
    "fifty columns with a wrong header": (
        many_columns,
        as_it_is,
        "'class_0', 'class_1', 'class_2', 'class_3', 'class_4' and 45 more",
        "Rename the columns to the class names",
    ),
    "no column of ids": (
        lambda table: renamed(table, {"id": "image"}),
        as_it_is,
        "the columns are 'image'",
        "Rename the column",
    ),
    "targets of no rows": (as_it_is, only(0), "targets.csv', there is no row", "Write them"),
    "a target is missing": (as_it_is, put("target", 3, ""), "empty in row 'r3' (1 such", "Fill"),
    "targets called otherwise": (
        as_it_is,
        lambda table: renamed(table, {"target": "truth"}),
        "'truth'",
        "Rename the column",
    ),
    "repeated targets": (as_it_is, put("id", 1, "r0"), "'r0'", "unique"),
    "a target that no member knows": (as_it_is, put("target", 3, "zebra"), "'zebra'", "."),
    "an unknown role": (
        as_it_is,
        lambda table: {**table, "role": ["holdout"] * (ROWS - 1) + ["tset"]},
        "'tset'",
        "role",
    ),
    "no row of the holdout": (
        as_it_is,
        lambda table: {**table, "role": ["test"] * ROWS},
        "'holdout'",
        "role",
    ),
}


def refused(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """The paragraph of a clean refusal that wrote nothing."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    paragraph = done.stderr.strip().splitlines()[-1]
    assert "; expected " in paragraph
    assert done.stdout == ""
    assert not (folder / "out").exists()
    return paragraph


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    change, change_targets, offender, remedy = WRONG[name]
    files = [write(tmp_path / "good.csv", cells(0))]
    changed, truth = change(cells(1)), change_targets(targets_of())
    assert changed is not None and truth is not None
    files.append(write(tmp_path / "odd.csv", changed))
    targets = write(tmp_path / "targets.csv", truth)
    done = fusetune("fuse", *files, "--targets", targets, "--out", tmp_path / "out")
    paragraph = refused(done, tmp_path)
    assert offender in paragraph
    assert remedy in paragraph


def numbers(seed: int, rows: int = ROWS) -> Cells:
    values = np.random.default_rng(seed).normal(size=rows)
    return {"id": IDS.tolist()[:rows], "target": [f"{value:.4f}" for value in values]}


REGRESSION: dict[str, tuple[Change, Change, str]] = {
    "NaN": (put("target", 5, "nan"), as_it_is, "'r5'"),
    "infinity": (put("target", 5, "inf"), as_it_is, "'r5'"),
    "an empty cell": (put("target", 5, ""), as_it_is, "'r5'"),
    "text": (put("target", 5, "many"), as_it_is, "'many'"),
    "a target is missing": (as_it_is, put("target", 5, ""), "empty in row 'r5'"),
    "a target is NaN": (as_it_is, put("target", 5, "nan"), "target"),
}


@pytest.mark.parametrize("name", REGRESSION)
def test_wrong_numbers_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    change, change_targets, offender = REGRESSION[name]
    changed, truth = change(numbers(1)), change_targets(numbers(2))
    assert changed is not None and truth is not None
    files = [write(tmp_path / "good.csv", numbers(0)), write(tmp_path / "odd.csv", changed)]
    targets = write(tmp_path / "targets.csv", truth)
    command = ("--targets", targets, "--task", "regression", "--out", tmp_path / "out")
    assert offender in refused(fusetune("fuse", *files, *command), tmp_path)


def test_marginals_above_one_are_refused(tmp_path: Path) -> None:
    table = {"id": IDS.tolist(), "cat": ["0.5"] * ROWS, "dog": ["0.5"] * (ROWS - 1) + ["1.5"]}
    truth = {"id": IDS.tolist(), "cat": ["0", "1"] * 20, "dog": ["1", "0"] * 20}
    member = write(tmp_path / "m.csv", table)
    targets = write(tmp_path / "targets.csv", truth)
    done = fusetune("fuse", member, "--targets", targets, "--out", tmp_path / "out")
    assert "'r39' holds (0.5, 1.5)" in refused(done, tmp_path)


def test_repeated_columns_are_refused(tmp_path: Path) -> None:
    _, targets = good_pool(tmp_path)
    text = "\n".join(["id,a,b,b,c", *(f"r{row},0.2,0.3,0.3,0.5" for row in range(ROWS))])
    (tmp_path / "odd.csv").write_text(text)
    done = fusetune("fuse", tmp_path / "odd.csv", "--targets", targets, "--out", tmp_path / "out")
    assert "the columns 'b' occur more than once" in refused(done, tmp_path)


def test_files_that_end_too_early_are_refused(tmp_path: Path) -> None:
    pool, targets = good_pool(tmp_path)
    whole = pool[0].read_bytes()
    pool[0].write_bytes(whole[: len(whole) // 2])
    done = fusetune("fuse", *pool, "--targets", targets, "--out", tmp_path / "out")
    paragraph = refused(done, tmp_path)
    assert "m0.parquet" in paragraph
    assert "a complete parquet file" in paragraph
    pool[0].write_bytes(b"")
    assert "m0.parquet" in refused(
        fusetune("fuse", *pool, "--targets", targets, "--out", tmp_path / "out"), tmp_path
    )


@pytest.mark.parametrize("content", ["", "\n", "id,target\n"])
def test_empty_targets_are_refused(content: str, tmp_path: Path) -> None:
    pool, targets = good_pool(tmp_path)
    targets.write_text(content)
    done = fusetune("fuse", *pool, "--targets", targets, "--out", tmp_path / "out")
    assert "targets.csv" in refused(done, tmp_path)


def test_targets_that_are_not_there_are_refused(tmp_path: Path) -> None:
    pool, _ = good_pool(tmp_path)
    done = fusetune("fuse", *pool, "--targets", tmp_path / "no.csv", "--out", tmp_path / "out")
    assert "no.csv" in refused(done, tmp_path)


def good_pool(folder: Path, rows: int = ROWS) -> tuple[list[Path], Path]:
    """Three members in Parquet and their targets in CSV."""
    rng = np.random.default_rng(0)
    ids = np.array([f"r{row}" for row in range(rows)])
    labels = np.arange(rows) % 3
    paths = [folder / f"m{m}.parquet" for m in range(3)]
    for path in paths:
        logits = rng.normal(size=(rows, 3)) + np.eye(3)[labels]
        write_columnar(path, Probabilities.from_logits(ids, ("a", "b", "c"), logits))
    write_targets(folder / "targets.csv", Targets(ids, ("a", "b", "c"), labels))
    return paths, folder / "targets.csv"


def results_of(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results: dict[str, object] = json.loads((folder / "out" / "results.json").read_text())
    return results


def fuse(folder: Path, files: list[Path], targets: Path, *more: str) -> dict[str, object]:
    """Results of a run that is to succeed, with its report."""
    done = fusetune("fuse", *files, "--targets", targets, "--out", folder / "out", *more)
    return results_of(done, folder)


def test_one_member_is_that_member(tmp_path: Path) -> None:
    pool, targets = good_pool(tmp_path)
    results = fuse(tmp_path, pool[:1], targets)
    assert results["verdict"]["decision"] == "not_shown"  # type: ignore[index]
    assert (tmp_path / "out" / "report.html").exists()


def test_one_row_is_refused_unless_nothing_is_to_be_judged(tmp_path: Path) -> None:
    files = [write(tmp_path / f"m{m}.csv", only(1)(cells(m)) or {}) for m in range(2)]
    targets = write(tmp_path / "targets.csv", only(1)(targets_of()) or {})
    done = fusetune("fuse", *files, "--targets", targets, "--out", tmp_path / "out")
    assert "one row is given" in refused(done, tmp_path)
    results = fuse(tmp_path, files, targets, "--holdout", "1")
    assert results["rows"] == {"holdout": 1, "test": 1}


def test_two_rows_are_fused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"m{m}.csv", only(2)(cells(m)) or {}) for m in range(2)]
    targets = write(tmp_path / "targets.csv", only(2)(targets_of()) or {})
    results = fuse(tmp_path, files, targets)
    assert results["verdict"]["decision"] == "not_shown"  # type: ignore[index]


def test_one_class_is_fused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"m{m}.csv", cells(m, "a")) for m in range(2)]
    results = fuse(tmp_path, files, write(tmp_path / "targets.csv", targets_of("a")))
    assert results["verdict"]["decision"] == "not_shown"  # type: ignore[index]


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "roc_auc", "balanced_accuracy"])
def test_targets_of_one_class_are_judged_where_the_metric_can(metric: str, tmp_path: Path) -> None:
    pool, targets = good_pool(tmp_path)
    write(targets, targets_of("b"))
    done = fusetune(
        "fuse", *pool, "--targets", targets, "--metric", metric, "--out", tmp_path / "out"
    )
    if metric == "roc_auc":
        assert "roc_auc has no value on the 40 holdout rows" in refused(done, tmp_path)
    else:
        results_of(done, tmp_path)


def test_constant_numbers_are_fused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"m{m}.csv", numbers(m)) for m in range(3)]
    truth = {"id": IDS.tolist(), "target": ["2.5"] * ROWS}
    results = fuse(tmp_path, files, write(tmp_path / "targets.csv", truth))
    assert results["task"] == "regression"


def test_labels_that_nothing_or_everything_has_are_fused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("always", "never", "some")
    present = np.stack([np.ones(ROWS), np.zeros(ROWS), np.arange(ROWS) % 2], axis=1) > 0
    write_targets(tmp_path / "targets.csv", LabelSets(IDS, names, present))
    files = [tmp_path / f"m{m}.parquet" for m in range(2)]
    for file in files:
        write_columnar(file, Marginals(IDS, names, rng.uniform(size=(ROWS, 3))))
    assert fuse(tmp_path, files, tmp_path / "targets.csv")["task"] == "multilabel"


def limited(size: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command where no file may grow above so many bytes; Python ignores SIGXFSZ."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "fusetune", *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )


@pytest.mark.parametrize("size", [0, 10, 1_000, 3_000, 6_000, 12_000, 40_000])
def test_a_limit_on_the_size_of_files_leaves_nothing_half_written(
    size: int, tmp_path: Path
) -> None:
    pool, targets = good_pool(tmp_path, rows=600)
    command = ("fuse", *pool, "--targets", targets, "--out", tmp_path / "out", "--method", "mean")
    done = limited(size, *command)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    paragraph = done.stderr.strip().splitlines()[-1]
    assert "File too large" in paragraph
    assert "; expected " in paragraph
    out = tmp_path / "out"
    assert not list(out.rglob(".*.tmp*"))
    assert not (out / "report.html").exists()
    for path in out.rglob("*.json"):
        json.loads(path.read_text())  # absent, or whole
    for path in (out / "predictions").rglob("*.parquet"):
        assert len(read_columnar(path, Probabilities)) == 600
    results = fuse(tmp_path, pool, targets, "--method", "mean")  # goes on where it was
    assert results["verdict"]["sentence"]  # type: ignore[index]
    assert (out / "report.html").exists()


def test_a_limit_leaves_the_file_of_predictions_that_was_there(tmp_path: Path) -> None:
    ids = np.array([f"r{row}" for row in range(3_000)])
    random = np.random.default_rng(0)
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for file in files:
        write_columnar(file, Values(ids, ("target",), random.normal(size=(3_000, 1))))
    write_targets(
        tmp_path / "targets.csv", Numbers(ids, ("target",), random.normal(size=(3_000, 1)))
    )
    fuse(tmp_path, files, tmp_path / "targets.csv", "--method", "mean", "--no-report")
    fused = tmp_path / "fused.csv"
    fused.write_text("old\n")
    done = limited(5_000, "predict", tmp_path / "out", *files, "--out", fused)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert fused.read_text() == "old\n"
