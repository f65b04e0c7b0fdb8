# SPDX-License-Identifier: Apache-2.0
"""Images of numbers and of label sets through whole runs: fine-tuned, fused, judged, predicted."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fusetune as library
from support import fusetune

pytestmark = pytest.mark.slow

RECIPE = """
task: {task}
data: {{source: table, path: rows.csv, id: image, label: {label}, roles: {{validation: 30, holdout: 60, test: 60}}}}
finetune: {{epochs: 4, batch_size: 16, optimizer: {{lr: 3e-3}}}}
members: [mini:resnet, mini:vgg]
"""


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """Squares of some size and shade on dark noise, and a table of both as numbers and as tags."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    lines = ["image,area,shade,tags"]
    for number in range(270):
        side, shade = random.integers(2, 12), random.integers(60, 250)
        pixels = random.integers(0, 30, (16, 16, 3)).astype(np.uint8)
        top, left = random.integers(0, 16 - side, 2)
        pixels[top : top + side, left : left + side] = shade
        Image.fromarray(pixels).save(folder / f"{number}.png")
        tags = [tag for tag, there in (("large", side > 6), ("bright", shade > 150)) if there]
        lines.append(f"{number}.png,{side * side},{shade},{';'.join(tags)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(folder: Path, task: str, label: str, out: Path) -> dict:
    (folder / f"{task}.yaml").write_text(RECIPE.format(task=task, label=label))
    done = fusetune("run", folder / f"{task}.yaml", "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())


def test_numbers(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = run(squares, "image_regression", "[area, shade]", out)
    assert found["metric"] == "rmse"
    assert found["classes"] == ["area", "shade"]
    assert [m["status"] for m in found["members"]] == ["ok", "ok"]
    truth = pq.read_table(out / "targets" / "test.parquet").to_pydict()
    assert list(truth) == ["id", "area", "shade"]
    true_ND = np.column_stack([truth["area"], truth["shade"]])
    spread = true_ND.std(axis=0).mean()
    for member in found["members"]:
        path = out / "predictions" / member["name"] / "test.parquet"
        said = pq.read_table(path).to_pydict()
        said_ND = np.column_stack([said["area"], said["shade"]])
        rmse = np.sqrt(np.mean((said_ND - true_ND) ** 2, axis=0)).mean()  # of both numbers
        assert member["scores"]["test"]["rmse"] == pytest.approx(rmse)
        assert rmse < 0.7 * spread  # the images were learned, in the numbers' own units
    page = (out / "report.html").read_text()
    assert "Predicted and true numbers" in page
    assert "Learning curves" in page
    prediction = library.load(out).predict(squares)
    assert prediction.columns == ("area", "shade")
    stored = pq.read_table(out / "predictions" / "ensemble" / "test.parquet").to_pydict()
    row = prediction.ids.tolist().index(stored["id"][0])
    assert prediction.values_ND[row, 1] == pytest.approx(stored["shade"][0], rel=1e-4)
    before = (out / "results.json").read_bytes()
    again = fusetune("run", squares / "image_regression.yaml", "--out", out)
    assert again.returncode == 0, again.stderr
    assert (out / "results.json").read_bytes() == before


def test_label_sets(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = run(squares, "image_multilabel", "tags", out)
    assert found["metric"] == "multilabel_macro_f1"
    assert found["classes"] == ["bright", "large"]
    chosen = next(f for f in found["fusions"] if f["name"] == found["chosen"])
    assert chosen["scores"]["test"]["hamming_accuracy"] > 0.75
    truth = pq.read_table(out / "targets" / "test.parquet").to_pydict()
    said = pq.read_table(out / "predictions" / "mini-vgg" / "test.parquet").to_pydict()
    right = np.mean(
        [(np.array(said[name]) > 0.5) == np.array(truth[name]) for name in ("bright", "large")]
    )
    member = next(m for m in found["members"] if m["name"] == "mini-vgg")
    assert member["scores"]["test"]["hamming_accuracy"] == pytest.approx(right)
    predicted = fusetune("predict", out, squares, "--out", tmp_path / "new.csv")
    assert predicted.returncode == 0, predicted.stderr
    assert (tmp_path / "new.csv").read_text().splitlines()[0] == '"id","bright","large"'


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            RECIPE.replace("epochs: 4,", "epochs: 4, label_smoothing: 0.1,"),
            "finetune.label_smoothing is 0.1, and the objective regression does not use it",
        ),
        (
            RECIPE.replace("label: {label}", "label: tags"),
            "the column 'tags' holds 'large;bright' in row '0.png'; expected a finite number",
        ),
        (
            RECIPE.replace("[mini:resnet, mini:vgg]", "[{{source: mini, model: vgg, head: keep, "
            "weights: {weights}, classes: [area]}}]"),
            "'mini-vgg' keeps its checkpoint's head, whose outputs the objective regression cannot",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_the_run(
    squares: Path, tmp_path: Path, recipe: str, message: str
) -> None:
    import torch
    from safetensors.torch import save_file

    from fusetune.members import mini_nets

    torch.manual_seed(0)
    save_file(mini_nets.build("vgg", 1).state_dict(), tmp_path / "own.safetensors")
    text = recipe.format(
        task="image_regression", label="area", weights=tmp_path / "own.safetensors"
    )
    (squares / "wrong.yaml").write_text(text)
    done = fusetune("run", squares / "wrong.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
