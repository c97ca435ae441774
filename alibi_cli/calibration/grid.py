"""Calibrated slopes on Press et al.'s grid, so that a GGUF file can hold them (`alibi export`).

Every layer gets the set of slopes that llama.cpp computes from one number, in the order that is nearest to what calibration found: a linear
assignment of slopes to heads, by the squared difference of logarithms. Query heads that share a key-value head stay together, because
llama.cpp's heads can only change places in groups. Where the architecture reads the number, max_bias, from the file, it is fitted too.
"""

import numpy as np

from alibi_cli.slopes import get_slopes

STARTS = (2.0, 4.0, 8.0, 16.0)
ROUNDS = 50
LIMITS = (0.25, 64.0)  # of max_bias


def on_grid(slopes: list[list[float]], n_groups: int, max_bias: float | None = None) -> tuple[list[list[float]], float]:
    """(slopes of every layer on the grid, max_bias). slopes: (layers, heads). n_groups: key-value heads. max_bias: None fits it."""
    if max_bias is None:
        max_bias = _fitted(slopes, n_groups)
    grid = np.array(get_slopes(len(slopes[0]), max_bias))
    return [grid[_assigned(row, grid, n_groups)].tolist() for row in np.array(slopes)], max_bias


def _fitted(slopes: list[list[float]], n_groups: int) -> float:
    """Least squares in turns: heads to places, then the number that suits these places."""
    rows = np.array(slopes)
    wanted, best = np.log2(rows), (np.inf, STARTS[0])
    exponents = -np.log2(get_slopes(rows.shape[1], 1.0))  # a slope is 2^(-max_bias e)
    for start in STARTS:
        before, max_bias = np.inf, start
        for _ in range(ROUNDS):
            places = np.stack([exponents[_assigned(row, 2.0 ** (-max_bias * exponents), n_groups)] for row in rows])
            if abs(max_bias - before) < 1e-9:
                break
            before, max_bias = max_bias, float(np.clip(-(places * wanted).sum() / (places**2).sum(), *LIMITS))
        best = min(best, (float(((wanted + max_bias * places) ** 2).sum()), max_bias))
    return best[1]


def _assigned(slopes: np.ndarray, grid: np.ndarray, n_groups: int) -> np.ndarray:
    """(H,) the place in the grid of each head of a layer."""
    wanted, places = (np.log2(values).reshape(n_groups, -1) for values in (slopes, grid))  # (G, H / G)
    heads, chunks = (
        np.argsort(wanted, 1),
        np.argsort(places, 1),
    )  # within a group, in the same order: no other is nearer
    ordered, sorted_places = np.take_along_axis(wanted, heads, 1), np.take_along_axis(places, chunks, 1)
    cost = ((ordered[:, None] - sorted_places) ** 2).sum(-1)  # (groups, chunks)
    found = np.empty(wanted.shape, dtype=int)
    for group, chunk in enumerate(linear_assignment(cost)):
        found[group, heads[group]] = chunk * wanted.shape[1] + chunks[chunk]
    return found.reshape(-1)


def linear_assignment(cost: np.ndarray) -> list[int]:
    """The column of each row of a square matrix, so that the sum of costs is least: the Hungarian method with potentials, n^3.

    Rows are added one by one; each follows the shortest augmenting path through those before it.
    """
    n = len(cost)
    of_rows, of_columns = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.full(n + 1, n)  # row in each column; column n holds the row that is being added
    for row in range(n):
        row_of[n], column = row, n
        distance, before, done = np.full(n, np.inf), np.full(n, n), np.zeros(n + 1, dtype=bool)
        while row_of[column] != n:
            done[column], current = True, row_of[column]
            reduced = cost[current] - of_rows[current] - of_columns[:n]
            nearer = ~done[:n] & (reduced < distance)
            distance[nearer], before[nearer] = reduced[nearer], column
            column = int(np.where(done[:n], np.inf, distance).argmin())
            step = distance[column]
            of_rows[row_of[done]] += step
            of_columns[done] -= step
            distance[~done[:n]] -= step
        while column != n:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
        row_of[n] = n
    order = np.empty(n, dtype=int)
    order[row_of[:n]] = np.arange(n)
    return order.tolist()
