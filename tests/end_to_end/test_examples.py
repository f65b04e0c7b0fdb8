# SPDX-License-Identifier: Apache-2.0
"""The examples and the README's snippets run as they stand, on fewer rows where they are large."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from support import fusetune

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_valid_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusetune.recipe import as_mapping, load_recipe

    monkeypatch.setenv("FUSETUNE_DATA", "/data")
    recipe = load_recipe(path)
    again = load_recipe(as_mapping(recipe))
    assert again == recipe or as_mapping(again) == as_mapping(recipe)


def test_the_usual_strategy_averages_and_smooths_nothing() -> None:
    from fusetune.recipe import load_recipe

    members = load_recipe(ROOT / "examples" / "cifar10_seed.yaml").members
    for entry in members:
        assert entry.finetune is not None
        assert not entry.finetune.averages
        assert entry.finetune.label_smoothing == 0


@pytest.mark.slow
@pytest.mark.data
def test_the_usual_strategy_on_on_a_few_hundred_images(tmp_path: Path, data_folder: Path) -> None:
    recipe = yaml.safe_load((ROOT / "examples" / "cifar10_seed.yaml").read_text())
    for split, rows in (("train", 400), ("test", 500)):
        file = data_folder / "cifar10" / f"jpeg_{split}.parquet"
        first = next(pyarrow.parquet.ParquetFile(file).iter_batches(rows))
        pyarrow.parquet.write_table(pa.Table.from_batches([first]), tmp_path / f"{split}.parquet")
        recipe["data"][split] = {"source": "table", "path": str(tmp_path / f"{split}.parquet")}
    recipe["finetune"]["epochs"] = 1
    for member in recipe["members"]:
        member["weights"] = "none"
    (tmp_path / "seed.yaml").write_text(yaml.safe_dump(recipe))
    done = fusetune("run", tmp_path / "seed.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rows"]["test"] == 500
    assert results["chosen"] == "vote"
    assert [member["status"] for member in results["members"]] == ["ok"] * 3


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sentence, page = done.stdout.strip().splitlines()
    assert "points of accuracy" in sentence
    assert (tmp_path / page).exists()


def test_the_readmes_recipe_is_valid(tmp_path: Path) -> None:
    from fusetune.recipe import load_recipe

    text = (ROOT / "README.md").read_text()
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert len(load_recipe(tmp_path / "recipe.yaml").members) == 3
