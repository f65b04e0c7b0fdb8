# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import MisalignedMembers, PredictionError
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack, probabilities_MNC, rows_of
from fusetune.predictions.targets import Targets
from pools import pool, pools

some = settings(max_examples=40, deadline=None)


@some
@given(drawn=pools(rows=(1, 8)), data=st.data())
def test_members_in_any_order_of_rows_and_classes_line_up(drawn, data):
    stack, _ = drawn
    shuffled = {}
    for name, part in zip(stack.members, stack.parts, strict=True):
        order = np.array(data.draw(st.permutations(range(len(part)))))
        shuffled[name] = part.take(order)
    aligned = Stack.align(shuffled, ids=stack.ids, classes=stack.classes)
    for one, two in zip(stack.parts, aligned.parts, strict=True):
        assert one.ids.tolist() == two.ids.tolist()
        assert one.probs_NC.tobytes() == two.probs_NC.tobytes()
    probs_MNC, known_MC = probabilities_MNC(aligned)
    for m, part in enumerate(stack.parts):
        for c, name in enumerate(stack.classes):
            assert known_MC[m, c] == (name in part.classes)
            column = part.probs_NC[:, part.classes.index(name)] if known_MC[m, c] else 0
            assert (probs_MNC[m, :, c] == column).all()


def test_missing_and_extra_rows_are_counted_and_named():
    stack, _ = pool(rows=5)
    one, two = stack.parts[:2]
    with pytest.raises(MisalignedMembers, match=r"'two' .*2 ids are missing \(first: 'row3'\)"):
        Stack.align({"one": one, "two": two.take(np.arange(3))})
    with pytest.raises(
        MisalignedMembers, match=r"'two' .*1 ids belong to no other row \(first: 'row4'"
    ):
        Stack.align({"one": one.take(np.arange(4)), "two": two})
    with pytest.raises(MisalignedMembers, match="no member was given"):
        Stack.align({})
    chosen = Stack.align({"one": one, "two": two}, ids=one.ids[[4, 0]])
    assert chosen.ids.tolist() == ["row4", "row0"]


@some
@given(drawn=pools(members=(2, 3), rows=(1, 10)), memory_bytes=st.integers(1, 400))
def test_pieces_cover_every_row_once(drawn, memory_bytes):
    stack, _ = drawn
    pieces = list(stack.chunks(memory_bytes))
    assert np.concatenate([piece.ids for piece in pieces]).tolist() == stack.ids.tolist()
    for piece in pieces:
        assert piece.members == stack.members
        size = sum(part.probs_NC.nbytes for part in piece.parts)
        assert size <= memory_bytes or len(piece) == 1


@some
@given(
    have=st.lists(st.sampled_from("abcdefgh"), unique=True),
    wanted=st.lists(st.sampled_from("abcdefghxyz")),
)
def test_rows_of_finds_positions(have, wanted):
    found = rows_of(np.array(have, dtype="U1"), np.array(wanted, dtype="U1"))
    assert found.tolist() == [have.index(name) if name in have else -1 for name in wanted]


def test_targets_are_matched_by_name():
    targets = Targets.from_names(["x", "y", "z"], ["b", "a", "b"])
    assert targets.classes == ("a", "b")
    assert targets.names().tolist() == ["b", "a", "b"]
    assert targets.columns(("b", "c")).tolist() == [0, -1, 0]
    assert targets.take(np.array([2, 1])).names().tolist() == ["b", "a"]
    assert Targets.from_names([], [], ("a",)).columns(("a",)).shape == (0,)


def test_targets_outside_the_known_classes_are_named():
    with pytest.raises(
        PredictionError, match="the targets hold 'c'; expected only the classes 'a'"
    ):
        Targets.from_names(["x", "y"], ["c", "a"], ["a"])


def test_classes_of_the_targets_come_first():
    one = Probabilities(["x"], ("c", "b"), np.array([[0.5, 0.5]]))
    assert Stack.align({"one": one}, classes=("a", "b")).classes == ("a", "b", "c")
