# SPDX-License-Identifier: Apache-2.0
"""Interface of a runner: where step functions run."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from fusetune.plugins import plugin_name

__all__ = ["Call", "Event", "Runner"]

Event = Mapping[str, Any]
"""Progress of a running step: plain values under string keys."""


@dataclass(frozen=True)
class Call:
    """One call of a step function.

    Args:
        function: `package.module:function`, importable where it runs. It takes the arguments and
            `report`, a callable that sends an `Event` home, and returns a picklable value.
        arguments: Picklable keyword arguments.
    """

    function: str
    arguments: Mapping[str, Any]


class Runner(abc.ABC):
    """Runs step functions away from the caller's process. A context manager.

    A runner outlives what it runs: a crash, an out-of-memory kill or a leaking framework is one
    failed call.
    """

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def call(self, call: Call, on_event: Callable[[Event], None]) -> Any:  # noqa: ANN401
        """Run a step function to its end and return what it returns.

        Raises:
            FusetuneError: What the function raised for people, unchanged.
            FileFailed: The disk is full, or cannot be written.
            MemberFailed: Any other error of the function, or the death of its process.
        """

    @abc.abstractmethod
    def another(self) -> Self:
        """One more of the same kind, for calls at the same time; the caller closes it."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the processes that were started; a call that another thread waits for fails."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
