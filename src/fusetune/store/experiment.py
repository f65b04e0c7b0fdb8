# SPDX-License-Identifier: Apache-2.0
"""A run's folder: what lies where, who may write, what is visible when."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from fusetune.atomic import link_or_copy, replacing
from fusetune.errors import RunLocked, UsageError
from fusetune.store.artifact import JSON, MANIFEST, Status, Step

__all__ = ["Experiment"]


@dataclass(eq=False)
class Experiment:
    """The folder of one run, locked while it is open. Use it as a context manager.

    The lock is the kernel's (`flock`): it goes when its process dies, however it dies. Input that
    is found to be wrong before any step is finished leaves no folder that was not there before.

    Args:
        folder: Of the run.
        tell: Is told of every step that begins, how far it was.

    Raises:
        RunLocked: Another process works in the folder.
        UsageError: The folder cannot be made or written.
    """

    folder: Path
    tell: Callable[[str, Status], None] = field(default=lambda name, status: None, repr=False)
    _lock: IO[str] | None = field(default=None, repr=False)
    _made: bool = field(default=False, repr=False)

    def __enter__(self) -> Self:
        self._made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("a+")
        except OSError as error:
            raise UsageError(
                f"the run folder '{self.folder}' cannot be written ({error.strerror})",
                "a folder that you may write to",
                "Give another one with --out.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            lock.close()
            raise RunLocked(
                f"{owner} is working in '{self.folder}'",
                "a run folder of its own for every run at a time",
                "Wait for it to end, or give another folder with --out.",
            ) from error
        with contextlib.suppress(OSError):  # a full disk is met, and told, by the first real file
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"process {os.getpid()}".encode())
        self._lock = lock
        for leftover in list(self.folder.rglob(".*.tmp*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._lock is not None
        if self._made and kind is not None and issubclass(kind, UsageError):
            self._forget()
        self._lock.truncate(0)
        self._lock.close()

    def _forget(self) -> None:
        """Remove the folder, which this process made, unless some step was finished in it."""
        if not any(self.folder.glob(f"steps/*/{MANIFEST}")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def step(self, name: str, inputs: JSON, version: int = 1) -> Step:
        """A step of this run."""
        return Step(self.folder / "steps", name, inputs, version, lambda *told: self.tell(*told))

    def publish(self, source: Path, name: str) -> Path:
        """Show an artifact's file or folder under a name; a folder replaces the one before.

        Files are hard links where the file system has them: artifacts are never changed in place.
        """
        target = self.folder / name
        if not source.is_dir():
            with replacing(target) as temporary:
                link_or_copy(source, temporary)
            return target
        fresh, old = (target.with_name(f".{target.name}.{what}.tmp") for what in ("fresh", "old"))
        for file in sorted(p for p in source.rglob("*") if p.is_file() and p.name != MANIFEST):
            place = fresh / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, place)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        return target

    def withdraw(self, name: str) -> None:
        """Remove a published file or folder that no step stands for any more."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
