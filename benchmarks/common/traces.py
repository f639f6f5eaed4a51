"""Synthetic accesses: uniform, and Zipf as of a cache."""

import numpy as np
import numpy.typing as npt

WRITES = 0.3
_SPREAD = 0x9E3779B1  # odd: permutes the pages, so that popular ones are no neighbours


def uniform(pages: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Pages, each as likely as any other."""
    return rng.integers(0, pages, n, dtype=np.uint64)


def zipf(pages: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Pages, the k-th most popular with probability 1/k; ``pages`` is a power of two."""
    rank = np.exp(rng.random(n) * np.log(pages)).astype(np.uint64) - np.uint64(1)
    return (rank * np.uint64(_SPREAD) + np.uint64(12345)) & np.uint64(pages - 1)


def writes(n: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which of the accesses write."""
    return rng.random(n) < WRITES
