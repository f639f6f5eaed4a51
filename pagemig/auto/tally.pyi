"""Types of `pagemig.auto.tally`."""

import numpy as np
from numpy.typing import NDArray

def missing(
    index: NDArray[np.int32],
    node: NDArray[np.int64],
    pages: NDArray[np.int64],
    at: NDArray[np.int64],
) -> int: ...
def tally(
    index: NDArray[np.int32],
    count: NDArray[np.uint32],
    node: NDArray[np.int64],
    by_node: NDArray[np.int64],
    by_page: NDArray[np.int64] | None = None,
) -> None: ...
def block_sums(count: NDArray[np.uint32], block: int, sums: NDArray[np.int64]) -> None: ...
