# SPDX-License-Identifier: Apache-2.0
"""Write-once artifacts of steps, named by what went into them.

A step's folder is `steps/<step>-<hash12>/`. Its `manifest.json`, with a checksum per file, is
written last by an atomic rename: it exists, so the step is finished. Until then `work/` inside
holds checkpoints, which a killed step finds again; afterwards it is gone.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fusetune.atomic import replacing
from fusetune.store.differences import differences

__all__ = [
    "JSON",
    "MANIFEST",
    "Artifact",
    "Status",
    "Step",
    "canonical",
    "file_checksum",
    "fingerprint",
    "write_json",
    "write_text",
]

JSON: TypeAlias = Any
"""None, bool, int, float, str, and lists and string-keyed mappings of these."""

MANIFEST = "manifest.json"
WORK = "work"


def fingerprint(value: JSON) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a value's canonical JSON.

    Example:
        >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
        True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def canonical(value: object) -> JSON:
    """A value as JSON for `Step.inputs`: settings by field name, plug-ins by name too, no paths.

    Example:
        >>> canonical({"size": (1, 2), "file": Path("a")})
        {'size': [1, 2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        module = type(value).__module__.rpartition(".")[2]
        return {"type": f"{module}.{type(value).__qualname__}", **canonical(content)}
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items() if not isinstance(v, Path)}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value if not isinstance(item, Path)]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


@dataclass(frozen=True)
class Artifact:
    """The finished result of a step.

    Args:
        folder: Where its files lie.
        checksums: Relative path → SHA-256 of the file.
    """

    folder: Path
    checksums: Mapping[str, str]

    def fingerprint_of(self, prefix: str, suffix: str | tuple[str, ...] = "") -> str:
        """Hash of some files' content: what the steps that read them depend on."""
        names = [n for n in self.checksums if n.startswith(prefix) and n.endswith(suffix)]
        assert names, (prefix, suffix)
        return fingerprint({name: self.checksums[name] for name in names})

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        assert name in self.checksums, (name, sorted(self.checksums))
        return self.folder / name


@dataclass(frozen=True)
class Status:
    """How far a step is.

    Args:
        state: `done`; `redo`, if another artifact of it is there; else `todo`.
        why: What changed or is damaged; empty where it is done or was never begun.
    """

    state: Literal["done", "todo", "redo"]
    why: str = ""


@dataclass(frozen=True)
class Step:
    """One unit of work with named inputs.

    Args:
        root: The folder that holds all steps of a run.
        name: Of the step, with the member's name where it has one: `finetune-resnet18`.
        inputs: Canonical parameters and input fingerprints; never paths, host, dates or timings.
        version: Raised when the step's code changes what it makes of the same inputs.
        tell: Is told the status of a step that begins.
    """

    root: Path
    name: str
    inputs: JSON
    version: int = 1
    tell: Callable[[str, Status], None] = field(
        default=lambda name, status: None, compare=False, repr=False
    )

    @property
    def folder(self) -> Path:
        """`steps/<step>-<hash12>/`."""
        return self.root / f"{self.name}-{fingerprint([self.name, self.version, self.inputs])}"

    @property
    def work(self) -> Path:
        """Folder for checkpoints of the unfinished step."""
        return self.folder / WORK

    def finished(self) -> Artifact | None:
        """The artifact, if the step is finished and every file still has its checksum."""
        artifact = self.promised()
        if artifact is None or self._damaged(artifact):
            return None
        if self.work.exists():
            shutil.rmtree(self.work)
        return artifact

    def promised(self) -> Artifact | None:
        """What the manifest says is there: what the step makes of these inputs, damaged or not."""
        manifest = _manifest(self.folder)
        return None if manifest is None else Artifact(self.folder, manifest["files"])

    def status(self) -> Status:
        """How far the step is; nothing is changed."""
        artifact = self.promised()
        if artifact is not None:
            damaged = self._damaged(artifact)
            return Status("redo", f"{damaged} is damaged") if damaged else Status("done")
        if (self.folder / MANIFEST).exists():
            return Status("redo", f"{MANIFEST} is damaged")
        if self.work.exists() and any(self.work.iterdir()):
            return Status("todo", "goes on from its checkpoint")
        others: list[list[str]] = [
            differences(manifest["inputs"], self.inputs)
            if manifest["version"] == self.version
            else [f"another version of fusetune made it ({manifest['version']} → {self.version})"]
            for folder in sorted(self.root.glob(f"{glob.escape(self.name)}-{'[0-9a-f]' * 12}"))
            if (manifest := _manifest(folder)) and manifest["step"] == self.name
        ]
        nearest = min(others, key=len, default=None)
        return Status("todo") if nearest is None else Status("redo", "; ".join(nearest))

    def _damaged(self, artifact: Artifact) -> str:
        """The first file that is not what the manifest says, or nothing."""
        for name, checksum in artifact.checksums.items():
            path = self.folder / name
            if not path.is_file() or file_checksum(path) != checksum:
                return name
        return ""

    def begin(self) -> Path:
        """Make the folder ready for work; checkpoints of a killed attempt stay, all else goes."""
        self.tell(self.name, self.status())
        self.work.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path != self.work:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self.folder

    def set_aside(self, more: Mapping[str, JSON]) -> Artifact:
        """Finish what is there as the artifact of further inputs; this step's checkpoints stay."""
        other = Step(self.root, self.name, {**self.inputs, **more}, self.version)
        folder = other.begin()
        for path in self.folder.iterdir():
            if path != self.work:
                path.rename(folder / path.name)
        return other.finish()

    def finish(self) -> Artifact:
        """Write the manifest over all files but the checkpoints, then drop the checkpoints."""
        files = sorted(
            p for p in self.folder.rglob("*") if p.is_file() and self.work not in p.parents
        )
        checksums = {
            path.relative_to(self.folder).as_posix(): file_checksum(path) for path in files
        }
        write_json(
            self.folder / MANIFEST,
            {"step": self.name, "version": self.version, "inputs": self.inputs, "files": checksums},
        )
        shutil.rmtree(self.work, ignore_errors=True)
        return Artifact(self.folder, checksums)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: JSON) -> None:
    """Write a JSON file atomically, keys in the order given; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; of a folder, of its files' names and checksums."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        named = [[one.relative_to(path).as_posix(), file_checksum(one)] for one in files]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any] | None:
    """A finished step's manifest; None where there is none, or it is not the folder's own."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        parts = [manifest[key] for key in ("step", "version", "inputs")]
        named = f"{parts[0]}-{fingerprint(parts)}" == folder.name
        good = all(isinstance(c, str) for c in manifest["files"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return manifest if named and good else None
