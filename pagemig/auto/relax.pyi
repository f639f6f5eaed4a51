"""Types of `pagemig.auto.relax`."""

import numpy as np
from numpy.typing import NDArray

def relax(
    counts: NDArray[np.int32] | NDArray[np.int64],
    latency: NDArray[np.float64],
    moves: NDArray[np.float64],
    prices: NDArray[np.float64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    occupied: NDArray[np.int64],
    path: NDArray[np.int8] | None = None,
    togo: NDArray[np.float32] | None = None,
) -> float: ...
def choose(
    epoch: int,
    togo: NDArray[np.float32],
    moves: NDArray[np.float64],
    first: NDArray[np.int32],
    last: NDArray[np.int32],
    node: NDArray[np.int8],
) -> None: ...
