"""Types of `pagemig.auto.tally`."""

import numpy as np
from numpy.typing import NDArray

def tally(
    index: NDArray[np.int32],
    count: NDArray[np.uint32],
    by_page: NDArray[np.int64],
    pages: NDArray[np.int32] | None = None,
    at: NDArray[np.int64] | None = None,
    listed: int = 0,
    before: int = 0,
) -> int: ...
def absent(
    pages: NDArray[np.int32],
    at: NDArray[np.int64],
    node: NDArray[np.int64],
    found: NDArray[np.int64],
    runs: NDArray[np.int64],
) -> int: ...
def by_node(
    pages: NDArray[np.int32],
    by_page: NDArray[np.int64],
    node: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None: ...
def block_sums(count: NDArray[np.uint32], block: int, sums: NDArray[np.int64]) -> None: ...
def sampled(
    index: NDArray[np.int32],
    count: NDArray[np.uint32],
    times: NDArray[np.int64],
    before: int,
    pages: NDArray[np.int64],
) -> int: ...
