# SPDX-License-Identifier: Apache-2.0
"""Steps run in one spawned worker process of this machine, reused from call to call."""

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from fusetune.errors import FileFailed, FusetuneError, MemberFailed
from fusetune.runtime.runner import Call, Event, Runner

__all__ = ["Local", "serve"]

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


class Local(Runner):
    """One worker process, started by the first call and again after it died.

    Args:
        preload: Module that the worker, started at once, imports while the caller does other work.
    """

    def __init__(self, preload: str = "") -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._preload = preload
        if preload:
            self.start()

    def start(self) -> None:
        """Start the worker unless it lives.

        A fresh interpreter rather than `multiprocessing`'s spawn, which would import the user's
        main script again.
        """
        if self._process is None or self._process.poll() is not None:
            self._pipe, theirs = Pipe()
            code = f"from {__name__} import serve; serve({theirs.fileno()}, {os.getpid()}, {self._preload!r})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdout=2,  # what members print is no result
            )
            theirs.close()

    def call(self, call: Call, on_event: Callable[[Event], None]) -> Any:  # noqa: ANN401
        """Run a step function in the worker to its end and return what it returns."""
        self.start()
        assert self._pipe is not None
        try:
            self._pipe.send(call)
            while True:
                what, value = self._pipe.recv()
                if what == "event":
                    on_event(value)
                elif what == "result":
                    return value
                else:
                    raise value
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise self._death() from error
        except KeyboardInterrupt:
            self.close()
            raise

    def another(self) -> "Local":
        """A runner with a worker of its own, which preloads the same."""
        return Local(self._preload)

    def close(self) -> None:
        """End the worker, and wait until it has gone."""
        if self._process is not None:
            self._process.kill()  # before its pipe is closed: a thread that reads there wakes up
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = self._process = None

    def _death(self) -> MemberFailed:
        assert self._process is not None
        code = self._process.wait(timeout=10)
        self._pipe = self._process = None
        if code < 0:
            name = signal.Signals(-code).name
            out_of_memory = code == -signal.SIGKILL
            return MemberFailed(
                f"its process was killed by {name}" + " (often: out of memory)" * out_of_memory,
                "it to finish",
                "Use a smaller batch_size or model."
                if out_of_memory
                else "Run again to resume it.",
            )
        return MemberFailed(
            f"its process ended with exit code {code}", "it to finish", "Run again to resume it."
        )


def serve(descriptor: int, parent: int, preload: str) -> None:
    """The worker's life: take a call, run it, send what comes of it."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    _die_with(parent)
    if preload:
        with suppress(Exception):  # said properly by the call that needs it
            importlib.import_module(preload)
    while True:
        try:
            call: Call = pipe.recv()
        except EOFError:
            return
        try:
            module, _, name = call.function.partition(":")
            function = getattr(importlib.import_module(module), name)
            result = function(**call.arguments, report=lambda event: pipe.send(("event", event)))
            pipe.send(("result", result))
        except FusetuneError as error:
            pipe.send(("error", error))
        except BaseException as error:
            traceback.print_exc(file=sys.stderr) if os.environ.get("FUSETUNE_DEBUG") else None
            pipe.send(("error", FileFailed.found_in(error) or _for_people(error)))


def _for_people(error: BaseException) -> MemberFailed:
    where = traceback.extract_tb(error.__traceback__)[-1]
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return MemberFailed(
        f"it stopped with {type(error).__name__}: {first_line[:300]} ({os.path.basename(where.filename)}:{where.lineno})",
        "it to finish",
        "Use a smaller batch_size or model."
        if out_of_memory
        else "Run with --debug for the whole traceback.",
    )


def _die_with(parent: int) -> None:
    """End this process when the parent dies, even by SIGKILL: no orphan writes into the run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
