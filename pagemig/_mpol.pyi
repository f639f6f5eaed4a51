"""The arithmetic of memory policies."""

import numpy as np
import numpy.typing as npt

def mpol_effective(mode: int, flags: int, user: bytes, allowed: int) -> int: ...
def mpol_targets(
    mode: int,
    flags: int,
    nodes: int,
    weights: npt.NDArray[np.uint8] | None,
    pages: npt.NDArray[np.uint64],
    local: int,
    out: npt.NDArray[np.int32],
) -> None: ...
