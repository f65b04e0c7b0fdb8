# SPDX-License-Identifier: Apache-2.0
"""The documents name what there is, and what they name is there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import fusetune
from fusetune.data.dataset import Dataset
from fusetune.data.roles import Roles
from fusetune.evaluate.verdict import VerdictRule
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer, Schedule
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.soup import Soup
from fusetune.members.decoder import Decoder
from fusetune.members.member import PreprocessOverride
from fusetune.members.source import Source
from fusetune.metric import Metric
from fusetune.plugins import discover
from fusetune.recipe import Fuse, Recipe, Scout, load_recipe
from fusetune.scout.score import TransferScore
from fusetune.scout.settings import ScoutSettings
from fusetune.task import Task

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "docs" / "recipe.md").read_text()
METHODS = (ROOT / "docs" / "methods.md").read_text()
SCOUT = (ROOT / "docs" / "scout.md").read_text()
FUSING = (ROOT / "docs" / "fusing.md").read_text()
SETTINGS = [
    Augmentation,
    FineTune,
    Fuse,
    Optimizer,
    PreprocessOverride,
    Recipe,
    Roles,
    Schedule,
    Scout,
    ScoutSettings,
    VerdictRule,
]


INTERFACES = [Dataset, Decoder, FusionMethod, Metric, Soup, Source, Task, TransferScore]


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_plug_in_and_its_keys_are_documented(interface: type) -> None:
    plugins: dict[str, type] = discover(interface)
    for name, cls in plugins.items():
        assert re.search(rf"\b{name}\b", RECIPE + METHODS + FUSING + SCOUT), name
        for field in fields(cls):  # type: ignore[arg-type]
            assert re.search(rf"\b{field.name}\b", RECIPE + METHODS + SCOUT), (name, field.name)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_key_is_documented(settings: type) -> None:
    for field in fields(settings):  # type: ignore[arg-type]
        if field.name in ("member_calibrators", "settings"):
            continue  # from the form of a file; its own keys stand below
        assert re.search(rf"\b{field.name}\b", RECIPE), field.name


def test_the_documented_recipe_is_valid(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```yaml\n(.*?)```", RECIPE, flags=re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    loaded = load_recipe(tmp_path / "recipe.yaml")
    assert [entry.finetune.epochs for entry in loaded.members if entry.finetune] == [10, 3]


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_decision_records_are_short_and_numbered() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    assert all(len(path.read_text().splitlines()) <= 30 for path in records)


def test_exported_names_are_real_and_no_modules() -> None:
    package = Path(fusetune.__file__).parent
    for name in fusetune.__all__:
        assert hasattr(fusetune, name)
        assert not (package / f"{name}.py").exists()
        assert not (package / name).is_dir()
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        _ = fusetune.fly
