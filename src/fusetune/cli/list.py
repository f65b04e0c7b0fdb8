# SPDX-License-Identifier: Apache-2.0
"""`fusetune list`."""

import json
from typing import Annotated

import typer

from fusetune.cli.options import AsJson

__all__ = ["list_names"]


def list_names(
    what: Annotated[
        str | None,
        typer.Argument(help="tasks, datasets, sources, decoders, methods, soups, metrics, scores"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What there is to choose from, with one line on each.

    Example: fusetune list methods
    """
    from fusetune.errors import unknown_name

    folders = _folders()
    if what is not None and what not in folders:
        raise unknown_name("list", what, folders)
    wanted = folders if what is None else {what: folders[what]}
    found = {title: _described(interface) for title, interface in wanted.items()}
    if as_json:
        print(json.dumps(found if what is None else found[what], indent=2))
        return
    for title, lines in found.items():
        if what is None:
            print(f"{title}:")
        indent = "  " * (what is None)
        width = max(map(len, lines), default=0)
        for name, line in lines.items():
            print(f"{indent}{name:<{width}}  {line}")


def _folders() -> dict[str, type]:
    """Title → interface of the plug-ins below it."""
    from fusetune.data.dataset import Dataset
    from fusetune.fuse.method import FusionMethod
    from fusetune.fuse.soup import Soup
    from fusetune.members.decoder import Decoder
    from fusetune.members.source import Source
    from fusetune.metric import Metric
    from fusetune.scout.score import TransferScore
    from fusetune.task import Task

    return {
        "tasks": Task,
        "datasets": Dataset,
        "sources": Source,
        "decoders": Decoder,
        "methods": FusionMethod,
        "soups": Soup,
        "metrics": Metric,
        "scores": TransferScore,
    }


def _described(interface: type) -> dict[str, str]:
    """Name → first line of the plug-in's docstring."""
    from fusetune.plugins import discover

    plugins: dict[str, type] = discover(interface)
    return {name: (cls.__doc__ or "").partition("\n")[0] for name, cls in plugins.items()}
