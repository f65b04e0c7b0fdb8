# SPDX-License-Identifier: Apache-2.0
"""A runner without a process of its own, by which tests see which steps are run."""

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

from fusetune.runtime.runner import Call, Event, Runner


class Killed(BaseException):
    """Ends a run in the middle."""


class Here(Runner):
    """Runs steps in this process, and notes which."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    kill_before: str = ""

    def __init__(self, preload: str = "") -> None:
        """Nothing needs to be started."""

    def call(self, call: Call, on_event: Callable[[Event], None]) -> Any:
        module, _, name = call.function.partition(":")
        Here.calls.append((name, dict(call.arguments)))
        if name == Here.kill_before:
            raise Killed
        function = getattr(importlib.import_module(module), name)
        return function(**call.arguments, report=on_event)

    def close(self) -> None:
        """Nothing was started."""

    def another(self) -> "Here":
        return Here()


def made(name: str) -> list[dict[str, Any]]:
    """Arguments of the calls of a step function."""
    return [arguments for function, arguments in Here.calls if function == name]
