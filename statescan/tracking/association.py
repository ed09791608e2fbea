"""Which detection belongs to which target."""

import numpy as np
from scipy.optimize import linear_sum_assignment

REFUSED = 1e3  # above the cost of any number of pairs that are let through


def assign(similarity: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """As many pairs of rows and columns above a floor as there can be, of the largest sum.

    Args:
        similarity: (n, m), at most 1, such as intersection over union.
        floor: pairs at or below it are not let through.

    Returns:
        Rows and columns of the pairs, (p,) each.
    """
    allowed = similarity > floor
    rows, columns = linear_sum_assignment(np.where(allowed, 1 - similarity, REFUSED))
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]
