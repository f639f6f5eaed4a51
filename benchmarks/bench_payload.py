"""``move_pages`` of real bytes, against the host's own copies of the same frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from common.reference import Reference, bytes_of
from common.rows import Target
from common.worlds import World

from pagemig.testing import host


class Trip:
    """The frames that the last migration copied from and to, for the host to copy again."""

    def __init__(self, world: World) -> None:
        self._memory = bytes_of(world.machine.content)
        self._world = world
        self._targets = self._frames()
        world.move()
        self.follow()

    def _frames(self) -> npt.NDArray[np.uint32]:
        return self._world.prove().astype(np.uint32)

    def follow(self) -> None:
        """Take over where the pages went, and prove that they are scattered."""
        self._sources, self._targets = self._targets, self._frames()

    def copy(self, how: str) -> Callable[[], None]:
        """Copy every page from the old frame to the new, where the same bytes are already."""
        return lambda: host.copy_pages(self._memory, self._targets, self._sources, how)


def bench_payload(
    measure: Callable[..., Any], lines: Reference, size: Callable[[int], int]
) -> None:
    world = World(size(1 << 18), scattered=True, page_bytes=4096)
    trip = Trip(world)
    best = Reference("streaming copy", trip.copy("stream"), world.pages)
    libc = Reference("memcpy", trip.copy("memcpy"), world.pages)
    own = Reference("the model's copy", trip.copy("pairs"), world.pages)
    row = measure(
        "move_pages with 4096 bytes a page, scattered",
        world.move,
        per="pages",
        amount=world.pages,
        reference=[best, libc, own],
        target=[Target(0.95, at_least=True), Target(1.5, at_least=True)],
        prove=trip.follow,
        warm_ups=2,
    )
    assert row.result > 0
