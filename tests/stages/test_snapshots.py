# SPDX-License-Identifier: Apache-2.0
"""Members that share one fine-tuning: what became of it is there for all of them."""

from pathlib import Path

from fusetune.entries import MemberEntry
from fusetune.finetune.settings import FineTune
from fusetune.members.sources.mini import Mini
from fusetune.stages.members import Outcome
from fusetune.stages.snapshots import begins_run, of_same_run, own_files
from fusetune.store.artifact import Artifact

RUN = MemberEntry(name="a", source=Mini(model="vgg"), finetune=FineTune(snapshots=2))
FIRST, SECOND = RUN.snapshots()
FILES = {"weights-1.safetensors": "1", "weights-2.safetensors": "2", "history.json": "h"}


def test_the_first_snapshot_begins_the_run_and_the_others_find_it() -> None:
    assert begins_run(FIRST) and not begins_run(SECOND)
    assert of_same_run(FIRST, {}) is None
    made = Artifact(Path("folder"), FILES)
    other = MemberEntry(name="b", source=RUN.source, finetune=FineTune())
    before = {"b": Outcome(other, finetuned=made, predicted=made)}
    assert of_same_run(FIRST, before) is None
    before["a-1"] = Outcome(FIRST, finetuned=made, error="predicting it failed")
    assert vars(of_same_run(SECOND, before)) == vars(Outcome(SECOND, finetuned=made))


def test_a_run_that_failed_or_was_cut_short_is_so_for_its_later_snapshots() -> None:
    failed = Outcome(FIRST, error="diverged")
    assert vars(of_same_run(SECOND, {"a-1": failed})) == vars(Outcome(SECOND, error="diverged"))
    late = Outcome(FIRST, error="no time", not_run=True)
    found = of_same_run(SECOND, {"a-1": late})
    assert vars(found) == vars(Outcome(SECOND, error="no time", not_run=True))
    short = Artifact(Path("folder"), {"weights-1.safetensors": "1"})
    found = of_same_run(SECOND, {"a-1": Outcome(FIRST, finetuned=short, predicted=short)})
    assert found is not None and found.finetuned is None and found.status == "not_run"
    assert found.error == (
        "the time limit stopped the fine-tuning that it shares before its cycle ended"
    )


def test_a_snapshots_files_are_those_of_a_member_of_its_own() -> None:
    assert own_files(SECOND, FILES) == {"weights.safetensors": "2", "history.json": "h"}
    plain = {"weights.safetensors": "w", "member.json": "m"}
    assert own_files(MemberEntry(name="c", source=RUN.source, finetune=None), plain) == plain
    assert own_files(SECOND, {"weights-1.safetensors": "1"}) == {}
