# SPDX-License-Identifier: Apache-2.0
"""A recipe: one YAML file that says what to fine-tune and fuse, read into validated objects."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from fusetune.calibrate.calibrator import Calibrator
from fusetune.data.dataset import Dataset
from fusetune.data.roles import Roles
from fusetune.errors import RecipeError, unknown_name
from fusetune.evaluate.verdict import VerdictRule
from fusetune.finetune.settings import FineTune
from fusetune.finetune.soup_entry import SoupOf, check_soup, names_of
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.soup import Soup
from fusetune.members.source import Source
from fusetune.metric import Metric, check_kind
from fusetune.plugins import find
from fusetune.predictions.stack import RESERVED_MEMBERS
from fusetune.store.artifact import write_text
from fusetune.task import Task
from fusetune.values import (
    build,
    check_keys,
    checked,
    expand,
    mapping,
    merged,
    plain,
    read_yaml,
    short,
    text,
)

__all__ = [
    "DEFAULT_CALIBRATOR",
    "Data",
    "Fuse",
    "MemberEntry",
    "Recipe",
    "as_mapping",
    "load_recipe",
    "save_recipe",
]

T = TypeVar("T")

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
class MemberEntry:
    """One member of the ensemble to be.

    Args:
        name: Unique in the run and safe as a file name.
        source: Where its pretrained model comes from; of a soup, its first member's.
        finetune: How it is fine-tuned; None: used as it is, or a soup.
        soup: What it is a soup of; None: no soup.
        in_soup: True for a member of a soup: what is new in it (a head, `weights: none`) is drawn
            from the run's seed alone, so that the soup's members share a start.
    """

    name: str
    source: Source
    finetune: FineTune | None
    soup: SoupOf | None = None
    in_soup: bool = False


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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated recipe; every plug-in is found, every path absolute."""

    task: Task
    data: Data
    members: tuple[MemberEntry, ...]
    fuse: Fuse
    metric: Metric[Any]
    seed: int = 0
    verdict: VerdictRule = field(default_factory=VerdictRule)


def load_recipe(source: Path | str | Mapping[str, Any], *, seed: int | None = None) -> Recipe:
    """Read a recipe from a YAML file, or from a mapping of the same form.

    Args:
        source: A file, whose folder relative paths start at, or a mapping, for which they start at
            the working folder.
        seed: Replaces the recipe's.

    Raises:
        RecipeError: No file, no YAML, a key twice, an unknown key, a value of the wrong type, an
            unset `${NAME}`; the place in the recipe is named.
        FusetuneError: What a plug-in says of its own values.
    """
    if isinstance(source, Mapping):
        content, folder = dict(source), Path.cwd()
    else:
        path = Path(source)
        content, folder = read_yaml(path), path.absolute().parent
    known = [f.name for f in fields(Recipe)] + ["finetune"]
    check_keys("the recipe", content, known)
    for key in ("task", "data", "members"):
        if key not in content:
            raise RecipeError(
                f"the recipe has no `{key}:`", "task, data and members", f"Add `{key}:`."
            )
    content = expand(content)
    task = find(Task, text(content["task"], "task"))()
    if task.objective is None:
        raise RecipeError(
            f"task is '{task.name}', which fine-tunes nothing",
            "a task whose members are fine-tuned: image_classification",
            "Fuse prediction files of this task with `fusetune fuse`.",
        )
    metric = _plugin(Metric, "metric", content.get("metric", task.default_metric), "metric", folder)
    check_kind(metric, task.kind)
    default = _finetune(content.get("finetune", {}), "finetune", FineTune(), folder)
    return Recipe(
        task=task,
        data=_data(content["data"], folder),
        members=_members(content["members"], default, folder),
        fuse=_fuse(content.get("fuse", {}), task, folder),
        metric=metric,
        seed=checked(int, content.get("seed", 0) if seed is None else seed, "seed"),
        verdict=build(VerdictRule, content.get("verdict", {}), "verdict", folder),
    )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    import yaml

    heading = "# The recipe of this run, resolved: `fusetune run` takes it again from anywhere.\n"
    content = yaml.safe_dump(as_mapping(recipe), sort_keys=False, allow_unicode=True, width=100)
    write_text(path, heading + content)


def as_mapping(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain values: written as YAML, it runs again from anywhere."""
    members = [_member_as_mapping(entry) for entry in recipe.members]
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
        "members": members,
        "fuse": {"methods": methods, "choose": recipe.fuse.choose, **calibrators},
        "metric": {"metric": recipe.metric.name, **plain(recipe.metric)},
        "seed": recipe.seed,
        "verdict": plain(recipe.verdict),
    }


def _member_as_mapping(entry: MemberEntry) -> dict[str, Any]:
    if entry.soup is not None:
        method, of = entry.soup.method, list(entry.soup.of)
        return {"name": entry.name, "soup": method.name, **plain(method), "of": of}
    finetune = "none" if entry.finetune is None else plain(entry.finetune)
    source = {"source": entry.source.name, **plain(entry.source)}
    return {"name": entry.name, **source, "finetune": finetune}


def _data(content: object, folder: Path) -> Data:
    block = mapping(content, "data")
    roles = build(Roles, block.pop("roles", {}), "data.roles", folder)
    limit = _limit(block.pop("limit", None), "data.limit")
    if "source" in block:
        return Data(
            datasets={"all": _plugin(Dataset, "source", block, "data", folder)},
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
        datasets[role] = _plugin(Dataset, "source", entry, f"data.{role}", folder)
    return Data(datasets=datasets, limit=limit, roles=roles)


def _members(content: object, default: FineTune | None, folder: Path) -> tuple[MemberEntry, ...]:
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise RecipeError(
            f"members is {short(content)}",
            "a list of at least one member",
            "Write `- mini:resnet`.",
        )
    entries: list[MemberEntry] = []
    for index, item in enumerate(content):
        where = f"members[{index}]"
        if isinstance(item, str):
            source_name, colon, model = item.partition(":")
            if not colon:
                raise RecipeError(
                    f"{where} is '{item}'",
                    "`source:model`",
                    "Write for example `torchvision:resnet18`.",
                )
            item = {"source": source_name, "model": model}
        block = mapping(item, where)
        if "soup" in block:
            later = [other["name"] for other in content[index + 1 :] if _has_name(other)]
            entries.append(_soup(block, where, entries, later, folder))
            continue
        finetune = default
        if "finetune" in block:
            finetune = _finetune(block.pop("finetune"), f"{where}.finetune", default, folder)
        given = block.pop("name", None)
        source = _plugin(Source, "source", block, where, folder)
        name = _member_name(given, source.member_name, where, entries)
        entries.append(MemberEntry(name=name, source=source, finetune=finetune))
    souped = {name for entry in entries if entry.soup is not None for name in entry.soup.of}
    return tuple(replace(entry, in_soup=entry.name in souped) for entry in entries)


def _has_name(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("name"), str)


def _soup(
    block: dict[str, Any],
    where: str,
    before: Sequence[MemberEntry],
    later: Sequence[str],
    folder: Path,
) -> MemberEntry:
    """A member that averages the weights of members above it."""
    given, of = block.pop("name", None), block.pop("of", None)
    names = names_of(of, where, [entry.name for entry in before], later)
    method = _plugin(Soup, "soup", block, where, folder)
    soup = SoupOf(method=method, of=tuple(names))
    members = {entry.name: (entry.source, entry.finetune, entry.soup) for entry in before}
    check_soup(soup, where, members)
    name = _member_name(given, method.name, where, before)
    return MemberEntry(name=name, source=members[names[0]][0], finetune=None, soup=soup)


def _member_name(given: object, default: str, where: str, before: Sequence[MemberEntry]) -> str:
    taken = {entry.name for entry in before} | set(RESERVED_MEMBERS)
    if given is None:
        names = (f"{default}-{n}" if n > 1 else default for n in range(1, len(before) + 3))
        return next(name for name in names if name not in taken)
    name = text(given, f"{where}.name")
    if name in taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        reason = "taken" if name in taken else "no safe file name"
        raise RecipeError(
            f"{where}.name is '{name}', which is {reason}",
            "a name of its own made of letters, digits, '.', '_' and '-'",
            "Rename it.",
        )
    return name


def _finetune(
    content: object, where: str, default: FineTune | None, folder: Path
) -> FineTune | None:
    """A `finetune:` block; what a member's block leaves out comes from the recipe's."""
    if content in ("none", None, False):
        return None
    block = mapping(content, where)
    whole = merged({} if default is None else plain(default), block)
    return build(FineTune, whole, where, folder)


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
        method = _plugin(FusionMethod, "method", item, f"fuse.methods[{index}]", folder)
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
    return _plugin(Calibrator, "calibrator", content, f"fuse.{key}", folder)


def _plugin(interface: type[T], key: str, content: object, where: str, folder: Path) -> T:
    """A plug-in from its bare name, or from a mapping that names it under `key`."""
    block = {key: content} if isinstance(content, str) else mapping(content, where)
    if key not in block:
        raise RecipeError(
            f"{where} does not say its `{key}:`", "the name of one", f"Add `{key}: ...`."
        )
    cls = find(interface, text(block.pop(key), f"{where}.{key}"))
    return build(cls, block, where, folder)


def _limit(value: object, where: str) -> int | None:
    limit = checked(int | None, value, where)
    if limit is not None and limit < 1:
        raise RecipeError(
            f"{where} is {limit}", "a number of rows above 0", "Leave it out to take all rows."
        )
    return limit
