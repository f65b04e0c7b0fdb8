# SPDX-License-Identifier: Apache-2.0
"""The log-opinion pool: averages of logarithms, their fitted form, and weights fitted to log-loss.

Shapes: M members, N rows, C classes, A active (not zero) members, P = A + C parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusetune.fuse.logistic import softmax
from fusetune.fuse.method import Fusion
from fusetune.predictions.kinds import Array, Floats, Probabilities
from fusetune.predictions.stack import Stack

__all__ = ["LogAverage", "LogPoolFit", "LogPoolProblem", "log_probs_MCN", "usual_smoothing"]

NEWTON_ROUNDS = 50  # three to six are usual
EXACT_ROWS = 1_000  # up to here each row's leave-one-out correction is solved exactly
SERIES = 3  # terms of its expansion beyond; the next one is of order (P / N)^4


@dataclass(frozen=True, kw_only=True, eq=False)
class LogAverage(Fusion[Probabilities]):
    """Softmax of the members' weighted log-probabilities plus biases of the classes.

    p(c) ∝ exp(b_c + sum_m w_m log q_m(c)), where q_m = (1 - s) p_m + s / C_m is the member's
    prediction with a share s spread evenly over the C_m classes that it knows. A class that a
    member does not know gets, for this member, the mean logarithm of those that know it: at equal
    weights this is the mean over the members that know the class.

    Args:
        members: Names of the members with weight.
        classes: C class names, the order of the biases.
        weights_M: `(M,)` numbers of at least 0; they need not sum to 1.
        biases_C: `(C,)` added to the logarithms.
        smoothing: The share s, so that no logarithm is infinite.

    Reference:
        Genest, Zidek. "Combining probability distributions". Statistical Science, 1986.
    """

    members: tuple[str, ...]
    classes: tuple[str, ...]
    weights_M: Floats
    biases_C: Floats
    smoothing: float

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """The log-opinion pool, over the classes that these members know."""
        parts = stack.select(self.members).parts
        logs_MCN = log_probs_MCN(parts, self.classes, self.smoothing)
        logits_CN = np.einsum("m,mcn->cn", self.weights_M, logs_MCN) + self.biases_C[:, None]
        dtype = np.result_type(*(part.probs_NC.dtype for part in parts))
        return parts[0].with_array(self.classes, softmax(logits_CN.T).astype(dtype))


def usual_smoothing(num_rows: int) -> float:
    """2 / (N + 2) for N holdout rows: as if each member had two rows more, of which it knew nothing.

    What N rows cannot rule out, a member should not either: one row that it got wrong at 1e-7 would
    outweigh all others. On our pools, log-loss and accuracy of `log_pool` and `stacking` were best for
    1 / (N + 1) to 4 / (N + 4); fixed shares from 1e-2 to 1e-7 were worse with few rows or with many.
    """
    return 2 / (num_rows + 2)


def log_probs_MCN(
    parts: Sequence[Probabilities], classes: Sequence[str], smoothing: float
) -> Floats:
    """`(M, C, N)` logarithms of the smoothed probabilities, missing classes filled.

    Args:
        parts: M predictions of the same N rows; each class is known to one of them.
        classes: The order of the columns.
        smoothing: Share of each row spread evenly over the member's classes.
    """
    position = {name: index for index, name in enumerate(classes)}
    logs_MCN = np.zeros((len(parts), len(classes), len(parts[0])))
    known_MC = np.zeros(logs_MCN.shape[:2], dtype=bool)
    for index, part in enumerate(parts):
        probs_CN = part.probs_NC.T.astype(np.float64)
        columns = [position[name] for name in part.classes]
        logs_MCN[index, columns] = np.log((1 - smoothing) * probs_CN + smoothing / len(columns))
        known_MC[index, columns] = True
    if not known_MC.all():
        means_CN = logs_MCN.sum(axis=0) / known_MC.sum(axis=0)[:, None]
        logs_MCN = np.where(known_MC[:, :, None], logs_MCN, means_CN)
    return logs_MCN


@dataclass(frozen=True, eq=False)
class LogPoolFit:
    """What minimizes the penalized log-loss.

    Args:
        weights_M: `(M,)` at least 0.
        biases_C: `(C,)`.
        left_out_loss: Mean log-loss of each row by the pool fitted without it, approximately.
    """

    weights_M: Floats
    biases_C: Floats
    left_out_loss: float


class LogPoolProblem:
    """min over w >= 0 and b of sum_n s_n loss_n + penalty/2 (M |w - 1/M|^2 + |b|^2).

    The factor M makes the penalty of a common temperature the same for any number of members.

    Args:
        logs_MCN: `(M, C, N)` logarithms, as from `log_probs_MCN`.
        columns_N: `(N,)` true classes.
        weights_N: `(N,)` weights of the rows, not negative.
    """

    def __init__(self, logs_MCN: Floats, columns_N: Array, weights_N: Floats) -> None:
        used = np.flatnonzero((weights_N > 0) & (columns_N >= 0))
        if len(used) < len(weights_N):
            logs_MCN, columns_N, weights_N = logs_MCN[:, :, used], columns_N[used], weights_N[used]
        # Differences to the mean over classes: the same pool, and better conditioned.
        self.logs_MCN = logs_MCN - logs_MCN.mean(axis=1, keepdims=True)
        self.columns_N, self.weights_N = columns_N, weights_N
        self.num_members, self.num_classes, self.num_rows = logs_MCN.shape

    def fit(self, penalty: float, start: LogPoolFit | None = None) -> LogPoolFit:
        """The minimizer, by Newton steps on the members that are not held at 0.

        Reference:
            Bertsekas. "Projected Newton methods for optimization problems with simple
            constraints". SIAM J. Control and Optimization, 1982.
        """
        num_members = self.num_members
        point_P = np.concatenate(
            [np.full(num_members, 1 / num_members), np.zeros(self.num_classes)]
        )
        if start is not None:
            point_P = np.concatenate([start.weights_M, start.biases_C])
        ridge_P = penalty * np.repeat([num_members, 1.0], [num_members, self.num_classes])
        center_P = np.repeat([1 / num_members, 0.0], [num_members, self.num_classes])
        value, probs_CN = self._value(point_P, ridge_P, center_P)
        for _ in range(NEWTON_ROUNDS):
            slope_P, curvature_PP = self._slope(probs_CN), self._curvature(probs_CN)
            slope_P = slope_P + ridge_P * (point_P - center_P)
            curvature_PP[np.diag_indices(len(ridge_P))] += ridge_P
            free = self._free(point_P, slope_P)
            step_F = np.linalg.solve(curvature_PP[np.ix_(free, free)], slope_P[free])
            decrease = float(slope_P[free] @ step_F)
            if decrease <= 1e-10 * max(1.0, self.num_rows):
                break
            share, moved = 1.0, False
            while share > 1e-6 and not moved:
                new_P = point_P.copy()
                new_P[free] -= share * step_F
                np.maximum(new_P[:num_members], 0, out=new_P[:num_members])
                new_value, new_probs_CN = self._value(new_P, ridge_P, center_P)
                moved = new_value <= value - 1e-4 * share * decrease
                share /= 2
            if not moved:
                break
            point_P, value, probs_CN = new_P, new_value, new_probs_CN
        loss = self._left_out_loss(point_P, probs_CN, curvature_PP, free)
        return LogPoolFit(point_P[:num_members], point_P[num_members:], loss)

    def _free(self, point_P: Floats, slope_P: Floats) -> Array:
        held_P = (point_P <= 0) & (slope_P > 0)
        held_P[self.num_members :] = False
        return np.flatnonzero(~held_P)

    def _logits(self, point_P: Floats) -> Floats:
        logits_CN: Floats = np.tensordot(point_P[: self.num_members], self.logs_MCN, axes=1)
        logits_CN += point_P[self.num_members :, None]
        return logits_CN

    def _value(self, point_P: Floats, ridge_P: Floats, center_P: Floats) -> tuple[float, Floats]:
        """The objective, and the `(C, N)` probabilities."""
        logits_CN = self._logits(point_P)
        logits_CN -= logits_CN.max(axis=0)
        true_N = logits_CN[self.columns_N, np.arange(self.num_rows)]
        probs_CN = np.exp(logits_CN, out=logits_CN)
        sums_N = probs_CN.sum(axis=0)
        probs_CN /= sums_N
        loss = float((np.log(sums_N) - true_N) @ self.weights_N)
        return loss + float(ridge_P @ (point_P - center_P) ** 2) / 2, probs_CN

    def _errors(self, probs_CN: Floats) -> Floats:
        errors_CN = probs_CN.copy()
        errors_CN[self.columns_N, np.arange(self.num_rows)] -= 1
        errors_CN *= self.weights_N
        return errors_CN

    def _slope(self, probs_CN: Floats) -> Floats:
        errors_CN = self._errors(probs_CN)
        flat = self.logs_MCN.reshape(self.num_members, -1)
        return np.concatenate([flat @ errors_CN.ravel(), errors_CN.sum(axis=1)])

    def _curvature(self, probs_CN: Floats) -> Floats:
        num_members = self.num_members
        weighted_CN = probs_CN * self.weights_N
        scaled_MCN = self.logs_MCN * weighted_CN
        flat = self.logs_MCN.reshape(num_members, -1)
        means_MN = np.einsum("mcn,cn->mn", self.logs_MCN, probs_CN)
        curvature_PP = np.empty((num_members + self.num_classes,) * 2)
        gram_MM = scaled_MCN.reshape(num_members, -1) @ flat.T
        curvature_PP[:num_members, :num_members] = (
            gram_MM - (means_MN * self.weights_N) @ means_MN.T
        )
        cross_MC = scaled_MCN.sum(axis=2) - means_MN @ weighted_CN.T
        curvature_PP[:num_members, num_members:] = cross_MC
        curvature_PP[num_members:, :num_members] = cross_MC.T
        curvature_PP[num_members:, num_members:] = -weighted_CN @ probs_CN.T
        diagonal = np.arange(num_members, len(curvature_PP))
        curvature_PP[diagonal, diagonal] += weighted_CN.sum(axis=1)
        return curvature_PP

    def _left_out_loss(
        self, point_P: Floats, probs_CN: Floats, curvature_PP: Floats, free: Array
    ) -> float:
        """One Newton step away from the full fit, a row's own term taken out of slope and curvature.

        Reference:
            Rad, Maleki. "A scalable estimate of the out-of-sample prediction error via approximate
            leave-one-out cross-validation". JRSS B, 2020.
        """
        inverse_PP = np.zeros_like(curvature_PP)
        inverse_PP[np.ix_(free, free)] = np.linalg.inv(curvature_PP[np.ix_(free, free)])
        errors_CN = self._errors(probs_CN)
        if self.num_rows <= EXACT_ROWS:
            shift_CN = self._exact_shift(inverse_PP, errors_CN, probs_CN)
        else:
            shift_CN = self._shift(inverse_PP, errors_CN)
            for _ in range(SERIES - 1):
                bent_CN = shift_CN - (probs_CN * shift_CN).sum(axis=0)
                bent_CN *= probs_CN * self.weights_N
                shift_CN = self._shift(inverse_PP, errors_CN + bent_CN)
        logits_CN = self._logits(point_P) + shift_CN
        logits_CN -= logits_CN.max(axis=0)
        true_N = logits_CN[self.columns_N, np.arange(self.num_rows)]
        losses_N = np.log(np.exp(logits_CN).sum(axis=0)) - true_N
        return float(losses_N @ self.weights_N / max(self.weights_N.sum(), 1.0))

    def _shift(self, inverse_PP: Floats, errors_CN: Floats) -> Floats:
        """`(C, N)`: how each row's logits move when its errors are taken out of the slope."""
        num_members = self.num_members
        pull_PN = np.concatenate([np.einsum("mcn,cn->mn", self.logs_MCN, errors_CN), errors_CN])
        moved_PN = inverse_PP @ pull_PN
        shift_CN: Floats = np.einsum("mcn,mn->cn", self.logs_MCN, moved_PN[:num_members])
        shift_CN += moved_PN[num_members:]
        return shift_CN

    def _exact_shift(self, inverse_PP: Floats, errors_CN: Floats, probs_CN: Floats) -> Floats:
        num_classes = self.num_classes
        eye_CCN = np.broadcast_to(
            np.eye(num_classes)[:, :, None], (num_classes, num_classes, self.num_rows)
        )
        rows_NPC = np.concatenate([self.logs_MCN, eye_CCN]).transpose(2, 0, 1)
        spread_NCC = rows_NPC.transpose(0, 2, 1) @ (inverse_PP @ rows_NPC)
        probs_NC = probs_CN.T
        bend_NCC = -probs_NC[:, :, None] * probs_NC[:, None, :]
        bend_NCC[:, np.arange(num_classes), np.arange(num_classes)] += probs_NC
        bend_NCC *= self.weights_N[:, None, None]
        left_NCC = np.eye(num_classes) - bend_NCC @ spread_NCC
        solved_NC = np.linalg.solve(left_NCC, errors_CN.T[:, :, None])
        return (spread_NCC @ solved_NC)[:, :, 0].T
