# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.latent_classes import Voters, fit_latent_classes, vote_matrix
from fusetune.fuse.methods.distributions.dawid_skene import DawidSkene
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack

# Twelve rows, four voters, three classes, -1: no vote. Drawn with seed 3; the posteriors after one
# and after eight rounds, and the priors, are those of crowd-kit 1.4.2:
# DawidSkene(n_iter=1 or 8, tol=-1).fit(...).probas_, .priors_
VOTES_NM = np.array(
    [
        *([2, 2, -1, 2], [0, 0, 0, 0], [0, 1, 0, -1], [0, 0, 0, 2], [0, 0, 0, -1], [2, -1, 2, 2]),
        *([2, 2, -1, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 1]),
    ]
)
AFTER_ONE_NC = [
    [0.001749373, 0.0, 0.998250627],
    [0.994015218, 0.005444788, 0.000539994],
    [0.725870527, 0.274129473, 0.0],
    [0.990716021, 0.0, 0.009283979],
    [0.979015558, 0.01913903, 0.001845412],
    [0.0, 0.0, 1.0],
    [0.029342546, 0.0, 0.970657454],
    [0.000821832, 0.999178168, 0.0],
    [0.976948234, 0.023051766, 0.0],
    [0.975526859, 0.021333587, 0.003139554],
    [0.976948234, 0.023051766, 0.0],
    [0.003530602, 0.996469398, 0.0],
]
PRIOR_ONE_C, PRIOR_EIGHT_C = (
    [0.554540417, 0.196816498, 0.248643085],
    [0.581516372, 0.168483628, 0.25],
)
THIRD_ROW_AFTER_EIGHT_C = [0.978196469, 0.021803531, 0.0]


def fit_votes(votes_NM, num_classes, **options):
    """The core on hard votes with gaps: posteriors and the model."""
    num_voters = votes_NM.shape[1]
    voters = Voters.of([range(num_classes)] * num_voters, num_classes)
    columns_NM = np.where(votes_NM < 0, -1, votes_NM + num_classes * np.arange(num_voters))
    votes_NV = vote_matrix(columns_NM, num_classes * num_voters)
    model = fit_latent_classes(votes_NV, np.ones(len(votes_NM)), voters, **options)
    return model.posterior_NC(votes_NV), model


def naive_em(shares_NMC, rounds, smoothing, imagined):
    """Loops over everything: shares_NMC[n, m] are voter m's split votes, all 0 where it is silent."""
    num_rows, num_voters, num_classes = shares_NMC.shape
    posterior = [shares_NMC[n].sum(axis=0) / shares_NMC[n].sum() for n in range(num_rows)]
    for _ in range(rounds + 1):
        chances = np.zeros((num_voters, num_classes, num_classes))  # voter, truth, vote
        for m in range(num_voters):
            for c in range(num_classes):
                for k in range(num_classes):
                    seen = sum(posterior[n][c] * shares_NMC[n, m, k] for n in range(num_rows))
                    chances[m, c, k] = seen + smoothing * imagined(c, k)
                chances[m, c] /= chances[m, c].sum()
        prior = sum(posterior) + smoothing
        prior = prior / prior.sum()
        posterior = []
        for n in range(num_rows):
            joint = prior.copy()
            for m in range(num_voters):
                for k in range(num_classes):
                    joint *= chances[m, :, k] ** shares_NMC[n, m, k]
            posterior.append(joint / joint.sum())
    return np.array(posterior)


def half_right(num_classes):
    return lambda truth, vote: 0.5 * (truth == vote) + 0.5 / num_classes


def members(votes_NM, names="abcd", confidence=0.9, dtype=np.float64):
    """A stack whose members vote as given."""
    num_classes = len(names)
    ids = np.array([f"row{n}" for n in range(len(votes_NM))])
    probs_NMC = np.full((*votes_NM.shape, num_classes), (1 - confidence) / (num_classes - 1))
    np.put_along_axis(probs_NMC, votes_NM[:, :, None], confidence, axis=2)
    parts = {
        f"member{m}": Probabilities(ids, tuple(names), probs_NMC[:, m].astype(dtype))
        for m in range(votes_NM.shape[1])
    }
    return Stack.align(parts, classes=tuple(names))


def drawn(rows, accuracies, classes=4, seed=0):
    random = np.random.default_rng(seed)
    truth_N = random.integers(classes, size=rows)
    right_NM = random.random((rows, len(accuracies))) < accuracies
    wrong_NM = (truth_N[:, None] + random.integers(1, classes, size=right_NM.shape)) % classes
    return truth_N, np.where(right_NM, truth_N[:, None], wrong_NM)


def test_the_core_gives_crowd_kits_posteriors_with_missing_votes():
    posterior_NC, _ = fit_votes(VOTES_NM, 3, max_rounds=0, tolerance=-np.inf)
    np.testing.assert_allclose(posterior_NC, AFTER_ONE_NC, atol=2e-8)
    _, model = fit_votes(VOTES_NM, 3, max_rounds=1, tolerance=-np.inf)
    np.testing.assert_allclose(model.prior_C, PRIOR_ONE_C, atol=2e-8)
    posterior_NC, _ = fit_votes(VOTES_NM, 3, max_rounds=7, tolerance=-np.inf)
    np.testing.assert_allclose(posterior_NC[2], THIRD_ROW_AFTER_EIGHT_C, atol=2e-8)
    _, model = fit_votes(VOTES_NM, 3, max_rounds=8, tolerance=-np.inf)
    np.testing.assert_allclose(model.prior_C, PRIOR_EIGHT_C, atol=2e-8)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rounds"), [("binary_clean", 2), ("multi_4class", 5), ("multi_missing", 5)]
)
def test_the_stored_outputs_of_crowd_kit(data_folder, name, rounds):
    """After as many rounds as it took: it counts the prior once per vote, so it stops earlier."""
    path = data_folder.parent / "conformance" / "crowd-kit" / "categorical.json"
    if not path.is_file():
        pytest.skip("the stored outputs of other tools are not here")
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = stored["inputs"][name]["rows"]
    (case,) = (
        case for case in stored["cases"] if case["input"] == name and case["method"] == "DawidSkene"
    )
    tasks, voters, classes = (list(dict.fromkeys(row[i] for row in rows)) for i in range(3))
    votes_NM = np.full((len(tasks), len(voters)), -1)
    for task, voter, label in rows:
        votes_NM[tasks.index(task), voters.index(voter)] = classes.index(label)
    posterior_NC, _ = fit_votes(votes_NM, len(classes), max_rounds=rounds, tolerance=-np.inf)
    labels = [classes[c] for c in posterior_NC.argmax(axis=1)]
    assert labels == [case["labels"][task] for task in tasks]
    expected_NC = [[case["probas"][task][label] for label in classes] for task in tasks]
    np.testing.assert_allclose(posterior_NC, expected_NC, atol=1e-9)
    _, model = fit_votes(votes_NM, len(classes), max_rounds=rounds + 1, tolerance=-np.inf)
    for voter, label, chances in case["errors"]:
        row = voters.index(voter) * len(classes) + classes.index(label)
        expected_C = [chances[truth] for truth in classes]
        np.testing.assert_allclose(model.chances_VC[row], expected_C, atol=1e-9)


def test_smoothed_and_split_votes_against_loops():
    random = np.random.default_rng(1)
    shares_NMC = random.dirichlet(np.full(3, 0.4), size=(15, 4))
    voters = Voters.of([range(3)] * 4, 3)
    votes_NV = shares_NMC.reshape(15, 12)
    options = {"smoothing": 1.5, "max_rounds": 6, "tolerance": -np.inf}
    model = fit_latent_classes(votes_NV, np.ones(15), voters, **options)
    expected_NC = naive_em(shares_NMC, 6, 1.5, half_right(3))
    np.testing.assert_allclose(model.posterior_NC(votes_NV), expected_NC, rtol=1e-9, atol=1e-12)


def test_a_voter_that_knows_some_classes_guesses_on_the_others():
    voters = Voters.of([[0, 1, 2], [2, 0]], 3)
    expected_VC = [
        [1 / 2 + 1 / 6, 1 / 6, 1 / 6],
        [1 / 6, 1 / 2 + 1 / 6, 1 / 6],
        [1 / 6, 1 / 6, 1 / 2 + 1 / 6],
        [1 / 4, 1 / 2, 1 / 2 + 1 / 4],
        [1 / 2 + 1 / 4, 1 / 2, 1 / 4],
    ]
    np.testing.assert_allclose(voters.doubts_VC(), expected_VC)


def test_every_round_raises_the_likelihood_and_the_tolerance_stops():
    _, votes_NM = drawn(300, [0.8, 0.6, 0.5], seed=2)
    voters = Voters.of([range(4)] * 3, 4)
    votes_NV = vote_matrix(votes_NM + 4 * np.arange(3), 12)

    def likelihood(**options):
        model = fit_latent_classes(votes_NV, np.ones(300), voters, **options)
        return np.log(np.exp(model.log_joint_NC(votes_NV)).sum(axis=1)).mean()

    climbing = [likelihood(max_rounds=r, tolerance=-np.inf) for r in range(12)]
    assert np.all(np.diff(climbing) > -1e-9)
    stopped = likelihood(tolerance=1e-3)
    gains = np.diff(climbing)
    assert stopped == pytest.approx(climbing[int(np.argmax(gains < 1e-3)) + 1], abs=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_the_method_is_the_core_on_the_members_votes(soft):
    _, votes_NM = drawn(40, [0.9, 0.7, 0.6], classes=3)
    stack = members(votes_NM, "xyz", confidence=0.8)
    method = DawidSkene(soft=soft, max_rounds=5, tolerance=0.0, smoothing=2.0)
    fused = method.fit(stack, None, Accuracy())(stack)
    shares_NMC = np.stack([part.probs_NC for part in stack.parts], axis=1)
    if not soft:
        shares_NMC = np.eye(3)[votes_NM]
    expected_NC = naive_em(shares_NMC, 5, 2.0, half_right(3))
    np.testing.assert_allclose(fused.probs_NC, expected_NC, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_it_reads_a_member_that_swaps_two_classes_backwards(soft):
    truth_N, votes_NM = drawn(2_000, [0.85, 0.8, 0.9, 0.75])
    swapped_NM = votes_NM.copy()
    swapped_NM[:, 2] = np.array([1, 0, 2, 3])[votes_NM[:, 2]]
    stack = members(swapped_NM)
    fusion = DawidSkene(soft=soft).fit(stack, None, Accuracy())
    decided_N = fusion(stack).probs_NC.argmax(axis=1)
    straight = members(votes_NM)
    best_N = DawidSkene(soft=soft).fit(straight, None, Accuracy())(straight).probs_NC.argmax(axis=1)
    assert (decided_N == truth_N).mean() > (best_N == truth_N).mean() - 0.005
    if not soft:
        third_CC = fusion.chances_VC[8:12]
        assert third_CC[0, 1] > 0.8
        assert third_CC[1, 0] > 0.8


def test_confusion_matrices_are_found_again():
    truth_N, votes_NM = drawn(20_000, [0.8, 0.7, 0.6])
    fusion = DawidSkene(tolerance=1e-9, max_rounds=1000).fit(members(votes_NM), None, Accuracy())
    counted_VC = np.concatenate(
        [np.eye(4)[votes_NM[:, m]].T @ np.eye(4)[truth_N] for m in range(3)]
    ) / np.bincount(truth_N)
    np.testing.assert_allclose(fusion.chances_VC, counted_VC, atol=0.04)
    np.testing.assert_allclose(fusion.prior_C, 1 / 4, atol=0.03)


def test_fewer_than_three_members_that_differ_are_averaged():
    _, votes_NM = drawn(50, [0.9, 0.4])
    pair = members(votes_NM)
    fusion = DawidSkene().fit(pair, None, Accuracy())
    assert isinstance(fusion, WeightedAverage)
    assert fusion.weights() == {"member0": 0.5, "member1": 0.5}
    copied = members(votes_NM[:, [0, 1, 0, 1]])
    assert isinstance(DawidSkene().fit(copied, None, Accuracy()), WeightedAverage)
    third = members(np.c_[votes_NM, votes_NM[::-1, 0]])
    assert not isinstance(DawidSkene().fit(third, None, Accuracy()), WeightedAverage)


def test_a_vote_and_a_class_never_seen_stay_possible():
    _, votes_NM = drawn(60, [0.9, 0.8, 0.9], classes=3)
    stack = members(votes_NM, "abcd")  # nobody ever votes 'd'
    fusion = DawidSkene().fit(stack, None, Accuracy())
    fused = fusion(members(np.array([[3, 3, 3], [0, 3, 0]])))
    assert fused.labels().tolist() == ["d", "a"]
    assert fused.probs_NC.min() > 0


def test_rows_are_counted_by_their_weights():
    _, votes_NM = drawn(30, [0.9, 0.8, 0.6])
    counts_N = np.tile([1, 2, 3], 10)
    rows = np.repeat(np.arange(30), counts_N)
    twice = DawidSkene(smoothing=0.0).fit(members(votes_NM[rows]), None, Accuracy())
    weighted = DawidSkene(smoothing=0.0).fit(
        members(votes_NM), None, Accuracy(), sample_weights_N=5 * counts_N
    )
    np.testing.assert_allclose(weighted.chances_VC, twice.chances_VC, atol=1e-6)


def test_single_precision_stays():
    _, votes_NM = drawn(30, [0.9, 0.8, 0.6])
    stack = members(votes_NM, dtype=np.float32)
    assert DawidSkene().fit(stack, None, Accuracy())(stack).probs_NC.dtype == np.float32


def test_errors_have_three_parts():
    with pytest.raises(InvalidValue, match=r"smoothing is -1.*0 or more.*Change it"):
        DawidSkene(smoothing=-1)
    with pytest.raises(InvalidValue, match="max_rounds is 0"):
        DawidSkene(max_rounds=0)
    with pytest.raises(InvalidValue, match="tolerance is nan"):
        DawidSkene(tolerance=float("nan"))
    _, votes_NM = drawn(30, [0.9, 0.8, 0.6])
    with pytest.raises(PredictionError, match="no holdout row"):
        DawidSkene().fit(members(votes_NM).take(np.arange(0)), None, Accuracy())
