# SPDX-License-Identifier: Apache-2.0
"""A recipe: one YAML file that says what to fine-tune and fuse, read into validated objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from fusetune.calibrate.calibrator import Calibrator
from fusetune.data.dataset import Dataset
from fusetune.data.roles import Roles
from fusetune.entries import (
    MemberEntry,
    candidate_entries,
    check_averages,
    check_folds,
    finetune_block,
    member_entries,
)
from fusetune.errors import InvalidValue, RecipeError, name_some, unknown_name
from fusetune.evaluate.verdict import VerdictRule
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric, check_kind
from fusetune.plugins import find
from fusetune.predictions.kinds import Probabilities
from fusetune.scout.settings import ScoutSettings
from fusetune.store.artifact import write_text
from fusetune.task import Task
from fusetune.values import (
    build,
    build_plugin,
    check_keys,
    checked,
    expand,
    mapping,
    plain,
    read_yaml,
    short,
    text,
)

__all__ = [
    "DEFAULT_CALIBRATOR",
    "Data",
    "Fuse",
    "Recipe",
    "Scout",
    "as_mapping",
    "load_recipe",
    "save_recipe",
]

DEFAULT_CALIBRATOR = "temperature"  # one number, safe on few rows; keeps every decision
OFFICIAL_SPLITS = ("train", "validation", "holdout", "test")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows come from and which role each has.

    Args:
        datasets: `all` → one source for every role, or official splits by role.
        limit: Rows kept of train, validation and holdout together; None: all.
        roles: Sizes of the roles.
    """

    datasets: Mapping[str, Dataset]
    limit: int | None = None
    roles: Roles = field(default_factory=Roles)


@dataclass(frozen=True, kw_only=True)
class Scout:
    """Which candidates are looked at before any is fine-tuned, and how."""

    candidates: tuple[MemberEntry, ...]
    settings: ScoutSettings = field(default_factory=ScoutSettings)


@dataclass(frozen=True, kw_only=True)
class Fuse:
    """Which fusions are fitted, and how one of them is chosen.

    Args:
        methods: Name → method; empty: the task's own list.
        choose: `auto` (the blend of cross-fitted candidates), `best`, or a method's name.
        calibrate: Calibrates the chosen fusion, on its cross-fitted predictions; None: nothing.
        calibrate_members: Calibrates every member before it is fused, cross-fitted; None: nothing.
        member_calibrators: Member → calibrator that its form demands: labels and scores are no
            probabilities yet.
    """

    methods: Mapping[str, FusionMethod[Any]] = field(default_factory=dict)
    choose: str = "auto"
    calibrate: Calibrator[Any] | None = None
    calibrate_members: Calibrator[Any] | None = None
    member_calibrators: Mapping[str, Calibrator[Any]] = field(default_factory=dict)

    def check_names(self, members: Iterable[str]) -> None:
        """Refuse members that results could not tell from fusions.

        Raises:
            InvalidValue: One is called like a method that is fitted.
        """
        if taken := [name for name in members if name in self.methods]:
            raise InvalidValue(
                f"{name_some(taken)} is the name of a member and of a fusion method that is fitted",
                "names that tell members from fusions",
                "Rename the member's file, or give it another `name` in the recipe.",
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated recipe; every plug-in is found, every path absolute.

    Where `members` is `scout`, there are none until scouting has proposed some.

    Args:
        task: What is predicted.
        data: From which rows.
        members: By whom.
        fuse: How their predictions become one.
        metric: What decides.
        seed: Of all that is random.
        verdict: When it was worth it.
        scout: What members are chosen from; beside given members, what was looked at when they were
            chosen, whose features they take; None: there is none.
        parallel: How many members are made side by side, each in a process with its share of the
            cores; `auto`: one per core, as far as memory allows, and one on a GPU.
    """

    task: Task
    data: Data
    members: tuple[MemberEntry, ...]
    fuse: Fuse
    metric: Metric[Any]
    seed: int = 0
    verdict: VerdictRule = field(default_factory=VerdictRule)
    scout: Scout | None = None
    parallel: int | Literal["auto"] = 1

    def __post_init__(self) -> None:
        self.fuse.check_names(entry.name for entry in self.members)

    def for_rows(self, num: int) -> "Recipe":
        """The same, every member's number of epochs known.

        Args:
            num: Of train rows.
        """
        members = tuple(entry.for_rows(num) for entry in self.members)
        if self.scout is None:
            return replace(self, members=members)
        candidates = tuple(entry.for_rows(num) for entry in self.scout.candidates)
        scout = replace(self.scout, candidates=candidates)
        return replace(self, members=members, scout=scout)


def load_recipe(
    source: Path | str | Mapping[str, Any],
    *,
    seed: int | None = None,
    candidates: Sequence[str] | None = None,
) -> Recipe:
    """Read a recipe from a YAML file, or from a mapping of the same form.

    Args:
        source: A file, whose folder relative paths start at, or a mapping, for which they start at
            the working folder.
        seed: Replaces the recipe's.
        candidates: Replace those of the recipe's `scout:`; members are then chosen from them.

    Raises:
        RecipeError: No file, no YAML, a key twice, an unknown key, a value of the wrong type, an
            unset `${NAME}`; the place in the recipe is named.
        FusetuneError: What a plug-in says of its own values.
    """
    content, folder = _content(source, candidates)
    content = expand(content)
    task = find(Task, text(content["task"], "task"))()
    if task.objective is None:
        raise RecipeError(
            f"task is '{task.name}', which fine-tunes nothing",
            "a task whose members are fine-tuned: image_classification, image_regression, "
            "image_multilabel, object_detection or semantic_segmentation",
            "Fuse prediction files of this task with `fusetune fuse`.",
        )
    judge = content.get("metric", task.default_metric)
    metric = build_plugin(Metric, "metric", judge, "metric", folder)
    check_kind(metric, task.kind)
    default = finetune_block(content.get("finetune", {}), "finetune", FineTune(), folder)
    members, scout = _members_and_scout(content, task, default, folder)
    data = _data(content["data"], folder)
    check_folds(members, data.roles)
    check_averages(members, data.roles, task)
    objective = find(Objective, task.objective)()
    for entry in (*members, *(scout.candidates if scout else ())):
        if entry.finetune is not None:
            objective.check(entry.finetune)
    return Recipe(
        task=task,
        data=data,
        members=members,
        scout=scout,
        fuse=_fuse(content.get("fuse", {}), task, folder),
        metric=metric,
        seed=checked(int, content.get("seed", 0) if seed is None else seed, "seed"),
        verdict=build(VerdictRule, content.get("verdict", {}), "verdict", folder),
        parallel=_parallel(content.get("parallel", 1)),
    )


def _content(
    source: Path | str | Mapping[str, Any], candidates: Sequence[str] | None
) -> tuple[dict[str, Any], Path]:
    """The recipe's keys, all of them known and the necessary ones there, and its folder."""
    if isinstance(source, Mapping):
        content, folder = dict(source), Path.cwd()
    else:
        path = Path(source)
        content, folder = read_yaml(path), path.absolute().parent
    if candidates is not None:
        scout = mapping(content.get("scout", {}), "scout")
        content |= {"members": "scout", "scout": {**scout, "candidates": list(candidates)}}
    known = [f.name for f in fields(Recipe)] + ["finetune"]
    check_keys("the recipe", content, known)
    for key in ("task", "data", "members"):
        if key not in content:
            raise RecipeError(
                f"the recipe has no `{key}:`", "task, data and members", f"Add `{key}:`."
            )
    return content, folder


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    import yaml

    heading = "# The recipe of this run, resolved: `fusetune run` takes it again from anywhere.\n"
    content = yaml.safe_dump(as_mapping(recipe), sort_keys=False, allow_unicode=True, width=100)
    write_text(path, heading + content)


def as_mapping(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain values: written as YAML, it runs again from anywhere."""
    runs = {entry.run: entry for entry in recipe.members}  # snapshots of one run are one entry
    members: dict[str, Any] = {"members": [_member_as_mapping(e) for e in runs.values()]}
    if recipe.scout is not None:
        candidates = [_member_as_mapping(entry) for entry in recipe.scout.candidates]
        members["members"] = members["members"] or "scout"
        members["scout"] = {"candidates": candidates, **plain(recipe.scout.settings)}
    datasets = {role: {"source": d.name, **plain(d)} for role, d in recipe.data.datasets.items()}
    data: dict[str, Any] = datasets.get("all", datasets)
    data = {**data, "roles": plain(recipe.data.roles)}
    if recipe.data.limit is not None:
        data["limit"] = recipe.data.limit
    calibrators = {
        key: "none" if made is None else {"calibrator": made.name, **plain(made)}
        for key, made in (
            ("calibrate", recipe.fuse.calibrate),
            ("calibrate_members", recipe.fuse.calibrate_members),
        )
    }
    methods = [{"method": name, **plain(method)} for name, method in recipe.fuse.methods.items()]
    return {
        "task": recipe.task.name,
        "data": data,
        **members,
        "fuse": {"methods": methods, "choose": recipe.fuse.choose, **calibrators},
        "metric": {"metric": recipe.metric.name, **plain(recipe.metric)},
        "seed": recipe.seed,
        "verdict": plain(recipe.verdict),
        "parallel": recipe.parallel,
    }


def _member_as_mapping(entry: MemberEntry) -> dict[str, Any]:
    if entry.soup is not None:
        method, of = entry.soup.method, list(entry.soup.of)
        return {"name": entry.name, "soup": method.name, **plain(method), "of": of}
    finetune = "none" if entry.finetune is None else plain(entry.finetune)
    source = {"source": entry.source.name, **plain(entry.source)}
    return {"name": entry.run, **source, "finetune": finetune}


def _data(content: object, folder: Path) -> Data:
    block = mapping(content, "data")
    roles = build(Roles, block.pop("roles", {}), "data.roles", folder)
    limit = _limit(block.pop("limit", None), "data.limit")
    if "source" in block:
        return Data(
            datasets={"all": build_plugin(Dataset, "source", block, "data", folder)},
            limit=limit,
            roles=roles,
        )
    check_keys("data", block, ["source", *OFFICIAL_SPLITS])
    if "train" not in block:
        raise RecipeError(
            "data has neither `source:` nor `train:`",
            "one source, or one per official split",
            "Add one.",
        )
    datasets: dict[str, Dataset] = {}
    for role, split in block.items():
        entry = mapping(split, f"data.{role}")
        if role == "train":
            limit = _limit(entry.pop("limit", limit), "data.train.limit")
        datasets[role] = build_plugin(Dataset, "source", entry, f"data.{role}", folder)
    return Data(datasets=datasets, limit=limit, roles=roles)


def _members_and_scout(
    content: Mapping[str, Any], task: Task, default: FineTune | None, folder: Path
) -> tuple[tuple[MemberEntry, ...], Scout | None]:
    if "scout" in content and task.kind is not Probabilities:
        raise RecipeError(
            f"scout is given, and task is '{task.name}'",
            "image_classification: the scores are of classes",
            "Remove `scout:`, and list the members.",
        )
    scout = _scout(content["scout"], default, folder) if "scout" in content else None
    if content["members"] != "scout":
        return member_entries(content["members"], default, folder), scout
    if scout is None:
        raise RecipeError(
            "members is 'scout', and the recipe has no `scout:`",
            "the candidates that members are chosen from",
            "Add `scout: {candidates: ['mini:*']}`.",
        )
    return (), scout


def _scout(content: object, default: FineTune | None, folder: Path) -> Scout:
    block = mapping(content, "scout")
    if "candidates" not in block:
        raise RecipeError(
            "scout has no `candidates:`",
            "a list like that of members",
            "Add `candidates: ['mini:*']`.",
        )
    entries = candidate_entries(block.pop("candidates"), default, folder)
    return Scout(candidates=entries, settings=build(ScoutSettings, block, "scout", folder))


def _fuse(content: object, task: Task, folder: Path) -> Fuse:
    block = mapping(content, "fuse")
    check_keys("fuse", block, ["methods", "choose", "calibrate", "calibrate_members"])
    listed = block.get("methods", list(task.methods))
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RecipeError(
            f"fuse.methods is {short(listed)}", "a list of names", "Write `methods: [vote, mean]`."
        )
    methods: dict[str, FusionMethod[Any]] = {}
    for index, item in enumerate(listed):
        method = build_plugin(FusionMethod, "method", item, f"fuse.methods[{index}]", folder)
        if method.name in methods:
            raise RecipeError(
                f"fuse.methods names '{method.name}' twice", "every method once", "Remove one."
            )
        methods[method.name] = method
    choose = text(block.get("choose", "auto"), "fuse.choose")
    known = ("auto", "best", *methods)
    if choose not in known:
        raise unknown_name("choice", choose, known, where="fuse.choose", error=RecipeError)
    return Fuse(
        methods=methods,
        choose=choose,
        calibrate=_calibrator(block, "calibrate", DEFAULT_CALIBRATOR, folder),
        calibrate_members=_calibrator(block, "calibrate_members", "none", folder),
    )


def _calibrator(
    block: Mapping[str, Any], key: str, default: str, folder: Path
) -> Calibrator[Any] | None:
    content = block.get(key, default)
    if content in ("none", None):
        return None
    return build_plugin(Calibrator, "calibrator", content, f"fuse.{key}", folder)


def _parallel(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RecipeError(
            f"parallel is {short(value)}",
            "a number of members above 0, or auto",
            "Leave it out to make one after another.",
        )
    return value


def _limit(value: object, where: str) -> int | None:
    limit = checked(int | None, value, where)
    if limit is not None and limit < 1:
        raise RecipeError(
            f"{where} is {limit}", "a number of rows above 0", "Leave it out to take all rows."
        )
    return limit
