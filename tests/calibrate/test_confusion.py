# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.calibrate.calibrators.confusion import Confusion
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets

NAMES = ("a", "b", "c")


def labels(named):
    ids = [f"row{n}" for n in range(len(named))]
    return Probabilities(ids, NAMES, np.eye(3)[[NAMES.index(name) for name in named]])


def beliefs_by_hand(named, true, prior_rows):
    """The definition, one number at a time."""
    total = len(named)
    accuracy = (sum(n == t for n, t in zip(named, true, strict=True)) + 1) / (total + 2)
    shares = {c: (true.count(c) + 1) / (total + 3) for c in NAMES}
    rows = []
    for name in NAMES:
        seen = [t for n, t in zip(named, true, strict=True) if n == name]
        others = sum(shares[c] for c in NAMES if c != name)
        row = []
        for c in NAMES:
            expected = accuracy if c == name else (1 - accuracy) * shares[c] / others
            row.append((seen.count(c) + 3 * prior_rows * expected) / (len(seen) + 3 * prior_rows))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("prior_rows", [0.1, 1.0, 5.0])
def test_counts_by_hand(prior_rows):
    named, true = list("aaaabbba"), list("aabcbbab")
    member = labels(named)
    targets = Targets.from_names(member.ids, true, NAMES)
    fitted = Confusion(prior_rows=prior_rows).fit(member, targets)
    expected_CC = beliefs_by_hand(named, true, prior_rows)
    np.testing.assert_allclose(fitted.beliefs_CC, expected_CC)
    np.testing.assert_allclose(fitted.beliefs_CC.sum(axis=1), 1)
    given_NC = fitted(labels(list("cab"))).probs_NC
    np.testing.assert_allclose(given_NC, expected_CC[[2, 0, 1]])


def test_a_class_never_named_is_believed_by_the_members_accuracy():
    member = labels(["a"] * 50 + ["b"] * 50)
    targets = Targets.from_names(member.ids, ["a"] * 45 + ["b"] * 55, NAMES)
    fitted = Confusion().fit(member, targets)
    assert fitted(labels(["c"])).probs_NC[0, 2] == pytest.approx(96 / 102)


def test_softer_rows_count_by_their_most_probable_class():
    member = labels(list("aabbc"))
    soft = member.with_array(NAMES, 0.4 * member.probs_NC + 0.2)
    targets = Targets.from_names(member.ids, list("abbcc"), NAMES)
    plain = Confusion().fit(member, targets)
    assert np.array_equal(Confusion().fit(soft, targets).beliefs_CC, plain.beliefs_CC)
    assert np.array_equal(plain(soft).probs_NC, plain(member).probs_NC)


def test_many_rows_approach_the_confusion_matrix():
    random = np.random.default_rng(0)
    truth_CC = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.05, 0.05, 0.9]])
    named_N = random.integers(3, size=60_000)
    true_N = (truth_CC[named_N].cumsum(axis=1) < random.random((60_000, 1))).sum(axis=1)
    member = labels([NAMES[c] for c in named_N])
    fitted = Confusion().fit(member, Targets(member.ids, NAMES, true_N))
    np.testing.assert_allclose(fitted.beliefs_CC, truth_CC, atol=0.015)
