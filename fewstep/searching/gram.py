"""The cost of every jump between fine timesteps, from inner products of how trajectories bend.

One long Euler step from timestep j to timestep k lands off the fine trajectory by

    r[j, k] = x_k - x_j - (t_k - t_j) v_j = sum_{j<i<k} (t_k - t_i) e_i + sum_{j<=i<k} d_i

(e_i and d_i as in fewstep.searching.fine), so all K^2 / 2 costs |r[j, k]|^2 follow from the Gram
matrix of the e_i and d_i: one matrix product instead of a pass over all states for each pair. The
Gram matrix of the velocities themselves would do in theory, but in float32 it loses the small costs.

A Gram matrix here is float64 (..., R, R) in the order e_1 ... e_{K-1}, d_0 ... d_{K-1}; without the
d_i, R = K - 1, and the cost of a single fine step is exactly 0. It may be that of one sample or the
mean over samples; leading dimensions are kept.
"""

from collections.abc import Sequence

import numpy as np

BY_GRAM = ("euler", "ab2")
"""Solvers whose steps are made of velocities on the trajectory; others must be tried, one by one."""


def jump_squares(times: Sequence[float], gram: np.ndarray) -> np.ndarray:
    """Return |r[j, k]|^2, float64 (..., K + 1, K + 1), inf unless j < k.

    From r[j-1, k] = r[j, k] + w[j, k] with w[j, k] = (t_k - t_j) e_j + d_{j-1},

        c[j-1, k] = c[j, k] + 2 <r[j, k], w[j, k]> + |w[j, k]|^2.

    Args:
        times: The K + 1 timesteps.
        gram: (..., R, R).
    """
    timesteps = np.asarray(times)
    steps = len(timesteps) - 1
    to = _left(timesteps)  # (K, K + 1); row j - 1 holds t_k - t_j, 0 where that is not positive
    ee, residual = _blocks(gram, steps)
    growth = to * (2 * np.triu(ee, 1) @ to + _diagonal(ee) * to)
    if residual:
        de, dd = residual
        beyond = np.triu(np.ones((steps, steps)), 1)  # [j - 1, i] is 1 where i >= j
        on_e = to * _until_last(beyond * np.swapaxes(de, -1, -2))
        on_d = np.triu(de, 1) @ to + _until_last(beyond * np.swapaxes(dd, -1, -2))
        own = 2 * to * _diagonal(de) + _diagonal(dd)
        growth = growth + np.triu(2 * (on_e + on_d) + own, 1)  # [j - 1, k], for k >= j
    squares = np.zeros((*gram.shape[:-2], steps + 1, steps + 1))
    squares[..., :-1, :] = growth[..., ::-1, :].cumsum(axis=-2)[..., ::-1, :]
    squares = squares.clip(min=0)  # rounding alone can make it negative, on a flow that is straight
    squares[..., *np.tril_indices(steps + 1)] = np.inf
    return squares


def ab2_squares(times: Sequence[float], gram: np.ndarray, *, last_is_euler: bool) -> np.ndarray:
    """Return the squared error of an AB2 step, float64 (K + 1, K + 1, K + 1) [i, j, k].

    The step goes from timestep j to timestep k and remembers the slope at timestep i; inf unless i < j < k.
    With h = t_k - t_j it adds h^2 / (2 (t_j - t_i)) (v_j - v_i) to the Euler step, and v_j - v_i is the sum
    of the e_l with i < l <= j.

    Args:
        times: The K + 1 timesteps.
        gram: (R, R).
        last_is_euler: Whether a step to the last timestep is an Euler step after all.
    """
    timesteps = np.asarray(times)
    steps = len(timesteps) - 1
    to, euler = _left(timesteps), jump_squares(times, gram)
    ee, residual = _blocks(gram, steps)
    costs = np.full((steps + 1,) * 3, np.inf)
    for j in range(1, steps):
        off_e = to[j:, j + 1 :].T @ ee[j:, :j]  # (k, l): <r[j, k], e_l> for l <= j
        if residual:
            off_e = off_e + residual[0][j:, :j].cumsum(axis=0)
        off = off_e[:, ::-1].cumsum(axis=1)[:, ::-1]  # (k, i): <r[j, k], v_j - v_i>
        turn = ee[:j, :j][::-1, ::-1].cumsum(axis=0).cumsum(axis=1).diagonal()[::-1]  # |v_j - v_i|^2
        weight = (timesteps[j + 1 :, None] - timesteps[j]) ** 2 / (2 * (timesteps[j] - timesteps[:j]))
        costs[:j, j, j + 1 :] = (euler[j, j + 1 :, None] - 2 * weight * off + weight**2 * turn).T
    if last_is_euler:
        costs[:, :, -1] = np.where(np.isinf(costs[:, :, -1]), np.inf, euler[None, :, -1])
    return costs.clip(min=0)


def _left(timesteps: np.ndarray) -> np.ndarray:
    return np.maximum(timesteps[None, :] - timesteps[1:, None], 0)


def _blocks(gram: np.ndarray, steps: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Return <e_i, e_j>, and <d_i, e_j> with <d_i, d_j> if there are any, each (..., K, K).

    Rows and columns start at d_0 and at e_1; there is no e_K, and its place is filled with 0.
    """
    room = [(0, 0)] * (gram.ndim - 1)
    wide = np.insert(gram, steps - 1, 0, axis=-1)
    ee = np.pad(gram[..., : steps - 1, : steps - 1], [*room[:-1], (0, 1), (0, 1)])
    if gram.shape[-1] == steps - 1:
        return ee, None
    return ee, (wide[..., steps - 1 :, :steps], wide[..., steps - 1 :, steps:])


def _diagonal(square: np.ndarray) -> np.ndarray:
    return np.diagonal(square, axis1=-2, axis2=-1)[..., None]


def _until_last(rows: np.ndarray) -> np.ndarray:
    """Return for each k the sum of rows[..., i] over i < k, (..., K, K + 1)."""
    return np.concatenate([np.zeros((*rows.shape[:-1], 1)), rows.cumsum(axis=-1)], axis=-1)
