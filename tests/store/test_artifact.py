# SPDX-License-Identifier: Apache-2.0
"""Steps are finished when their manifest is there, and only while their bytes are what it says."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fusetune.atomic import replacing
from fusetune.store.artifact import Step, canonical, fingerprint, write_json


@dataclass(frozen=True)
class Settings:
    rate: float
    sizes: tuple[int, ...]
    file: Path


def made(root: Path, inputs: object = None, content: str = "result") -> Step:
    step = Step(root, "fit", inputs)
    (step.begin() / "weights.txt").write_text(content)
    step.finish()
    return step


def test_a_step_is_finished_after_its_manifest_and_not_before(tmp_path: Path) -> None:
    step = Step(tmp_path, "fit", {"seed": 0})
    assert step.finished() is None
    (step.begin() / "weights.txt").write_text("result")
    assert step.finished() is None
    step.finish()
    artifact = step.finished()
    assert artifact is not None
    assert artifact.path("weights.txt").read_text() == "result"


def test_the_name_hangs_on_inputs_and_version_only(tmp_path: Path) -> None:
    here, there = Step(tmp_path / "a", "fit", {"x": 1}), Step(tmp_path / "b", "fit", {"x": 1})
    assert here.folder.name == there.folder.name
    assert Step(tmp_path, "fit", {"x": 2}).folder.name != here.folder.name
    assert Step(tmp_path, "fit", {"x": 1}, version=2).folder.name != here.folder.name


def test_a_changed_byte_is_found_and_the_step_is_not_finished(tmp_path: Path) -> None:
    step = made(tmp_path)
    (step.folder / "weights.txt").write_text("resulT")
    assert step.finished() is None
    assert step.finished() is None  # the stale manifest is gone as well


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    step = made(tmp_path)
    (step.folder / "weights.txt").unlink()
    assert step.finished() is None


def test_checkpoints_survive_a_kill_and_go_at_the_end(tmp_path: Path) -> None:
    step = Step(tmp_path, "fit", None)
    step.begin()
    (step.work / "checkpoint").write_text("epoch 3")
    (step.folder / "half-written").write_text("...")
    step.begin()  # the next attempt
    assert (step.work / "checkpoint").read_text() == "epoch 3"
    assert not (step.folder / "half-written").exists()
    artifact = step.finish()
    assert not step.work.exists()
    assert artifact.checksums == {}


def test_a_kill_between_manifest_and_clean_up_leaves_nothing_over(tmp_path: Path) -> None:
    step = made(tmp_path)
    step.work.mkdir()
    (step.work / "checkpoint").write_text("old")
    assert step.finished() is not None
    assert not step.work.exists()


def test_equal_content_has_equal_fingerprints(tmp_path: Path) -> None:
    one = made(tmp_path / "a").finished()
    two = made(tmp_path / "b").finished()
    other = made(tmp_path / "c", content="another").finished()
    assert one is not None and two is not None and other is not None
    assert one.fingerprint_of("") == two.fingerprint_of("") != other.fingerprint_of("")


def test_canonical_keeps_settings_and_drops_paths() -> None:
    settings = Settings(rate=0.1, sizes=(1, 2), file=Path("/home/me/weights"))
    assert canonical(settings) == {"type": "test_artifact.Settings", "rate": 0.1, "sizes": [1, 2]}
    assert canonical({"a": None, "b": [True, "x"]}) == {"a": None, "b": [True, "x"]}


def test_fingerprint_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint(float("nan"))


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
