# SPDX-License-Identifier: Apache-2.0
"""Steps are finished when their manifest is there, and only while their bytes are what it says."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fusetune.atomic import replacing
from fusetune.store.artifact import MANIFEST, Status, Step, canonical, fingerprint, write_json
from fusetune.store.differences import differences


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


def test_any_changed_byte_of_a_file_or_the_manifest_is_found_and_named(tmp_path: Path) -> None:
    step = made(tmp_path, {"seed": 0})
    assert step.status() == Status("done")
    for name in ("weights.txt", MANIFEST):
        path = step.folder / name
        good = path.read_bytes()
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert step.finished() is None
            assert step.status().state == "redo"
            if name != MANIFEST:  # whose list may then name a file that is not there
                assert step.status().why == "weights.txt is damaged"
        path.write_bytes(good)
    assert step.status() == Status("done")


def test_a_step_says_what_changed_against_the_nearest_artifact(tmp_path: Path) -> None:
    assert Step(tmp_path, "fit", {"seed": 0}).status() == Status("todo")
    made(tmp_path, {"seed": 0, "rows": "0" * 64, "settings": {"epochs": 3, "lr": 0.1}})
    made(tmp_path, {"seed": 1, "rows": "1" * 64, "settings": {"epochs": 3, "lr": 0.1}})
    new = Step(tmp_path, "fit", {"seed": 1, "rows": "2" * 64, "settings": {"epochs": 3, "lr": 0.2}})
    assert new.status() == Status("redo", "rows changed; settings.lr: 0.1 → 0.2")
    newer = Step(tmp_path, "fit", {"seed": 0}, version=2)
    assert newer.status() == Status("redo", "another version of fusetune made it (1 → 2)")
    assert Step(tmp_path, "fit-more", {"seed": 0}).status() == Status("todo")
    new.work.mkdir(parents=True)
    (new.work / "checkpoint").write_text("epoch 1")
    assert new.status() == Status("todo", "goes on from its checkpoint")


def test_a_step_that_begins_tells_how_far_it_was(tmp_path: Path) -> None:
    told: list[tuple[str, Status]] = []
    made(tmp_path, 1)
    Step(tmp_path, "fit", 2, tell=lambda *status: told.append(status)).begin()
    assert told == [("fit", Status("redo", "inputs: 1 → 2"))]


def test_differences_are_named_and_checksums_not_shown() -> None:
    assert differences({"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}) == []
    assert differences({"a": {"b": 1}}, {"c": {"d": {"e": 1}}}) == ["c is new", "a is gone"]
    assert differences({"a": [{"x": 1}]}, {"a": [{"x": 2}, {"x": 3}]}) == [
        "a.0.x: 1 → 2",
        "a.1 is new",
    ]
    assert differences({"file": "ab12" * 16}, {"file": None}) == ["file changed"]


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
