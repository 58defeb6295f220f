"""Two variances of a power law, between sizes and between cells, and what they leave unknown about a new size.

The model of the log optima of cells c in sizes g is

    y_c = x_c . beta + u_g(c) + e_c,    u_g ~ N(0, S),    e_c ~ N(0, v_c + T),

with v the known variance of a cell's optimum.  The restricted likelihood of (S, T) (Patterson and Thompson 1971) is
evaluated on a grid; with Jeffreys' prior, the root of the determinant of its expected information, and a flat prior on
beta it gives weights of the nodes of the grid, and at each node beta is normal.  For a balanced design that prior is
1 / (within mean square x between mean square) (Tiao and Tan 1965).  S may be below 0 as far as variances stay
positive, as a between mean square can by chance be below the within one, and then counts as 0: without that, S would
be overrated wherever sizes deviate little, since all chance would be on one side.  For balanced designs this is the
generalised pivot of Tsui and Weerahandi (1989) and Weerahandi (1993).  Where S dominates, the predictive distribution
of a new size is Student's t with (sizes - coefficients between sizes) degrees of freedom; where not, it is less wide.
Nothing in it is chosen by hand, and it does not change when y is multiplied by a number.

With W = 1/(v + T) and rows multiplied by its root, the part of the sizes' dummies that no regressor explains has
singular values sqrt(d_k) and left vectors U: the contrasts z = U'y have variance 1 + S d_k, and the others 1.

Suffixes: C cells, G sizes, P coefficients, Z contrasts between sizes, K nodes of the grid, R rows of y, each a law's.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

_TINY = 1e-24  # the least variance of a natural log that is told from none
_BELOW = 3.0  # how far below the observed spread the grid goes, in ln
_STEP = 0.2  # of the grid in ln(1 + S d)


@dataclass(frozen=True)
class Model:
    """Regressors [C, P], known variances [C] and sizes [C] (numbers 0, 1, ...) of a law's cells.

    `equal`: beta is estimated by ordinary least squares, whatever the variances; else by generalised least squares.
    """

    design_CP: np.ndarray
    variance_C: np.ndarray
    group_C: np.ndarray
    equal: bool = False


@dataclass(frozen=True)
class Posterior:
    """Nodes of the grid: weights and beta for each row, and what they share."""

    weight_RK: np.ndarray
    mean_RKP: np.ndarray
    covariance_KPP: np.ndarray
    between_K: np.ndarray  # S
    within_K: np.ndarray  # T


@dataclass(frozen=True)
class Freedom:
    """Degrees of freedom between sizes, beyond the coefficients, and within them."""

    between: int
    within: int


@dataclass(frozen=True)
class _Whitened:
    """Everything about one value of T, and of the rows of y, that does not depend on S."""

    q_CP: np.ndarray
    inverse_PP: np.ndarray
    constant: float
    d_Z: np.ndarray
    u_CZ: np.ndarray
    cross_PZ: np.ndarray  # q'A V sqrt(d): how contrasts go with coefficients
    spread_PG: np.ndarray  # q'A
    weight_C: np.ndarray


@dataclass(frozen=True)
class Grid:
    """Nodes of (S, T) for a model: of each T what `_whiten` gives, T, the values of S, and the log of their prior
    mass."""

    model: Model
    parts: tuple[tuple[_Whitened, float, np.ndarray, np.ndarray], ...]


def some(model: Model, here_C: np.ndarray) -> Model:
    """The model of some of its cells; the sizes are numbered anew."""
    group_H = np.unique(model.group_C[here_C], return_inverse=True)[1]
    return Model(model.design_CP[here_C], model.variance_C[here_C], group_H, model.equal)


def freedom(model: Model) -> Freedom:
    """How many contrasts between sizes, and within them, are left when the coefficients are fitted."""
    dummies_CG = _dummies(model.group_C)
    rank = int(np.linalg.matrix_rank(np.column_stack([model.design_CP, dummies_CG])))
    return Freedom(rank - model.design_CP.shape[1], len(model.group_C) - rank)


def posterior(model: Model, y_RC: np.ndarray) -> Posterior:
    """The weighted grid for each row of `y_RC`; the rows share a grid that is wide enough for all of them.

    Where no contrast between sizes is left, S is 0.  Where none within is left, only S + T can be known, which is what
    a new size needs: it is all in T.
    """
    return on(grid(model, y_RC), y_RC)


def grid(model: Model, y_RC: np.ndarray, coarse: float = 1.0) -> Grid:
    """The nodes of (S, T) that the rows of `y_RC` need, and all about them that does not depend on y; steps are
    `coarse` times as long as usual."""
    model = _merged(model)
    free = freedom(model)
    parts = []
    for tau2, area in _within_nodes(model, y_RC, free, coarse):
        white = _whiten(model, tau2)
        nodes_N, steps_N = _between_nodes(white, y_RC, free, coarse)
        parts.append((white, tau2, nodes_N, _jeffreys(white, nodes_N) + np.log(steps_N) + math.log(area)))
    return Grid(model, tuple(parts))


def on(held: Grid, y_RC: np.ndarray) -> Posterior:
    """The posterior of each row of `y_RC` at the nodes of a grid."""
    parts, between, within = [], [], []
    for white, tau2, nodes_N, prior_N in held.parts:
        log_RN, mean_RNP, covariance_NPP = _at(held.model, white, y_RC, nodes_N)
        parts.append((log_RN + prior_N, mean_RNP, covariance_NPP))
        between.append(np.maximum(nodes_N, 0.0))
        within.append(np.full(len(nodes_N), tau2))
    log_RK = np.concatenate([part[0] for part in parts], axis=1)
    weight_RK = np.exp(log_RK - log_RK.max(axis=1, keepdims=True))
    return Posterior(
        weight_RK / weight_RK.sum(axis=1, keepdims=True),
        np.concatenate([part[1] for part in parts], axis=1),
        np.concatenate([part[2] for part in parts]),
        np.concatenate(between),
        np.concatenate(within),
    )


def likelihood(model: Model, y_RC: np.ndarray, held: Posterior) -> np.ndarray:
    """Log restricted likelihood, up to a constant, at the nodes of a posterior [R, K]."""
    parts = [
        _at(model, _whiten(model, float(within)), y_RC, held.between_K[held.within_K == within])[0]
        for within in dict.fromkeys(held.within_K.tolist())
    ]
    return np.concatenate(parts, axis=1)


def restricted(model: Model, y_C: np.ndarray, between: float, within: float) -> float:
    """Log of the restricted likelihood at (S, T), up to a constant; of several rows the mean."""
    white = _whiten(model, within)
    return float(_at(model, white, np.atleast_2d(y_C), np.array([between]))[0].mean())


def estimate(model: Model, y_C: np.ndarray, start: Posterior) -> tuple[float, float]:
    """(S, T) of the largest restricted likelihood: by halving steps in ln, from the best node of a grid.

    Of several rows it is the mean likelihood: with rows that complete censored cells, the step of an EM algorithm
    (Dempster, Laird and Rubin 1977).
    """
    model = _merged(model)
    log_K = likelihood(model, np.atleast_2d(y_C), start).mean(axis=0)
    best = int(log_K.argmax())
    place, value, step = np.array([start.between_K[best], start.within_K[best]]), float(log_K[best]), 0.5
    while step > 1e-4:
        trials = [
            place * np.exp(step * np.array(move)) for move in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))
        ]
        values = [restricted(model, y_C, *trial) for trial in trials]
        top = int(np.argmax(values))
        if values[top] > value:
            place, value = trials[top], values[top]
        else:
            step /= 2
    for empty in ((0.0, place[1]), (place[0], 0.0)):  # the edges, which no step in ln reaches
        if min(model.variance_C.min(), 1.0) + empty[1] > _TINY and restricted(model, y_C, *empty) >= value - 1e-6:
            place = np.array(empty)
    return float(place[0]), float(place[1])


def _merged(model: Model) -> Model:
    """The model with one group for all cells, where each is the only one of its size: then S + T is T."""
    free = freedom(model)
    if free.within > 0 or free.between == 0:
        return model
    return replace(model, group_C=np.zeros(len(model.group_C), dtype=int))


def _dummies(group_C: np.ndarray) -> np.ndarray:
    return (group_C[:, None] == np.unique(group_C)[None, :]).astype(float)


def _whiten(model: Model, tau2: float) -> _Whitened:
    weight_C = 1 / np.maximum(model.variance_C + tau2, _TINY)
    root_C1 = np.sqrt(weight_C)[:, None]
    q_CP, r_PP = np.linalg.qr(root_C1 * model.design_CP)
    dummies_CG = root_C1 * _dummies(model.group_C)
    spread_PG = q_CP.T @ dummies_CG
    left_CG, singular_G, right_GG = np.linalg.svd(dummies_CG - q_CP @ spread_PG, full_matrices=False)
    kept = singular_G > 1e-7 * max(singular_G.max(), np.linalg.norm(dummies_CG))
    constant = 0.5 * float(np.log(weight_C).sum()) - float(np.log(np.abs(np.diag(r_PP))).sum())
    cross_PZ = spread_PG @ right_GG[kept].T * singular_G[kept]
    return _Whitened(
        q_CP, np.linalg.inv(r_PP), constant, singular_G[kept] ** 2, left_CG[:, kept], cross_PZ, spread_PG, weight_C
    )


def _at(
    model: Model, white: _Whitened, y_RC: np.ndarray, between_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log likelihood [R, N], beta [R, N, P], its covariance [N, P, P]) at one T and several S, of which those below 0
    count as 0 for beta."""
    y_RC = y_RC * np.sqrt(white.weight_C)
    fitted_RP, z_RZ = y_RC @ white.q_CP, y_RC @ white.u_CZ
    rest_RC = y_RC - fitted_RP @ white.q_CP.T - z_RZ @ white.u_CZ.T
    spread_NZ = 1 + between_N[:, None] * white.d_Z
    log_RN = white.constant - 0.5 * np.log(spread_NZ).sum(axis=1) - 0.5 * (z_RZ**2) @ (1 / spread_NZ).T
    log_RN = log_RN - 0.5 * (rest_RC**2).sum(axis=1)[:, None]
    between_N = np.maximum(between_N, 0.0)
    if model.equal:
        plain_PC = np.linalg.pinv(model.design_CP)
        beta_RP = y_RC / np.sqrt(white.weight_C) @ plain_PC.T
        mean_RNP = np.broadcast_to(beta_RP[:, None, :], (len(y_RC), len(between_N), beta_RP.shape[1]))
        sums_PG = plain_PC @ _dummies(model.group_C)
        own_PP = plain_PC / white.weight_C @ plain_PC.T
        return log_RN, mean_RNP, own_PP + between_N[:, None, None] * (sums_PG @ sums_PG.T)
    share_NZ = between_N[:, None] / (1 + between_N[:, None] * white.d_Z)
    moving_NPZ = share_NZ[:, None, :] * white.cross_PZ
    count, size = moving_NPZ.shape[:2]
    moves_RNP = z_RZ @ moving_NPZ.reshape(count * size, -1).T if z_RZ.size else np.zeros((len(z_RZ), count * size))
    moved_RNP = fitted_RP[:, None, :] - moves_RNP.reshape(-1, count, size)
    inner_NPP = (
        np.eye(len(white.inverse_PP))
        + between_N[:, None, None] * (white.spread_PG @ white.spread_PG.T)
        - between_N[:, None, None] * (moving_NPZ @ white.cross_PZ.T)
    )
    return log_RN, moved_RNP @ white.inverse_PP.T, white.inverse_PP @ inner_NPP @ white.inverse_PP.T


def _jeffreys(white: _Whitened, between_N: np.ndarray) -> np.ndarray:
    """Half the log determinant of the expected information of (S, T) [N]; of T alone where sizes leave no contrast.

    The information is half the trace of P dV P dV (Harville 1977) with P = I - qq' - U diag(e) U' in whitened rows,
    dV/dS the sizes' blocks, dV/dT = diag(W).
    """
    w_C, q_CP, u_CZ = white.weight_C, white.q_CP, white.u_CZ
    # relative to the mean weight: only ratios matter, and W can be 1e24
    w_C = w_C / w_C.mean()
    q_PP = q_CP.T @ (w_C[:, None] * q_CP)
    total = (w_C**2).sum() - 2 * (w_C**2 @ (q_CP**2).sum(axis=1)) + (q_PP**2).sum()
    if not len(white.d_Z):
        return np.full(len(between_N), 0.5 * math.log(max(total, 1e-300)) + math.log(white.weight_C.mean()))
    weighted_CZ = w_C[:, None] * u_CZ
    u_ZZ = u_CZ.T @ weighted_CZ
    mixed_Z = (weighted_CZ**2).sum(axis=0) - ((q_CP.T @ weighted_CZ) ** 2).sum(axis=0)
    spread_NZ = 1 + between_N[:, None] * white.d_Z
    e_NZ = 1 - 1 / spread_NZ
    ss_N = ((white.d_Z / spread_NZ) ** 2).sum(axis=1)
    st_N = (white.d_Z / spread_NZ**2) @ np.diag(u_ZZ)
    tt_N = total - 2 * e_NZ @ mixed_Z + np.einsum("nz,zy,ny->n", e_NZ, u_ZZ**2, e_NZ)
    return 0.5 * np.log(np.maximum(ss_N * tt_N - st_N**2, 1e-300)) + math.log(white.weight_C.mean())


def _within_nodes(model: Model, y_RC: np.ndarray, free: Freedom, coarse: float) -> list[tuple[float, float]]:
    """(T, width of its step) in equal steps of ln(median v + T), over where the within-size residuals allow it."""
    floor = float(np.median(model.variance_C))
    if free.within == 0:
        return [(max(_TINY - floor, 0.0), 1.0)]
    columns = [model.design_CP, _dummies(model.group_C)] if free.between else [model.design_CP]
    basis_CB = _basis(np.column_stack(columns))
    rest_RC = y_RC - y_RC @ basis_CB @ basis_CB.T
    squares_R = np.maximum((rest_RC**2).sum(axis=1) / free.within, _TINY)
    sd = math.sqrt(2 / free.within)
    lowest = max(math.log(max(floor, _TINY)), math.log(float(squares_R.min())) - 5 * sd)
    largest = max(math.log(max(float(np.median(squares_R)), floor, _TINY)), math.log(float(squares_R.max())))
    highest = max(largest, lowest) + 4 * sd + 16 / free.within
    count = max(8, min(200, math.ceil((highest - lowest) / (0.5 * sd * coarse))))
    edges_E = np.linspace(lowest, highest, count + 1)
    total = np.exp((edges_E[1:] + edges_E[:-1]) / 2)
    return [(float(max(t - floor, 0.0)), float(t * (edges_E[1] - edges_E[0]))) for t in total]


def _between_nodes(white: _Whitened, y_RC: np.ndarray, free: Freedom, coarse: float) -> tuple[np.ndarray, np.ndarray]:
    """(S, width of its step) [N] in equal steps of ln(1 + S max d): far enough out for tails S^(-1 - freedom/2)."""
    if not free.between:
        return np.zeros(1), np.ones(1)
    z_RZ = (y_RC * np.sqrt(white.weight_C)) @ white.u_CZ
    square_R = np.maximum((z_RZ**2).mean(axis=1), 1e-3)
    bottom, top = math.log(float(square_R.min())) - _BELOW, math.log(float(square_R.max())) + 20 / free.between
    edges_E = np.linspace(bottom, max(top, 1.0), math.ceil((max(top, 1.0) - bottom) / (_STEP * coarse)) + 1)
    middle_N = (edges_E[1:] + edges_E[:-1]) / 2
    scale = 1 / float(white.d_Z.max())
    return np.expm1(middle_N) * scale, np.exp(middle_N) * scale * (edges_E[1] - edges_E[0])


def _basis(columns_CB: np.ndarray) -> np.ndarray:
    left_CB, singular_B, _ = np.linalg.svd(columns_CB, full_matrices=False)
    return left_CB[:, singular_B > 1e-10 * singular_B.max()]
