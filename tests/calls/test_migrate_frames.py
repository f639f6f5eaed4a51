"""`Machine.migrate_frames` takes frames in order, however many the host moves together."""

import errno

import numpy as np
import pytest

import pagemig as pm
from support.machines import PAGE, four_nodes, mapped

N = 300


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.18"])
@pytest.mark.parametrize("width", [1, 64])
@pytest.mark.parametrize("pinned", [[], [0], [5, 6, 63, 64, 200], [255, 256, 257, 299]])
def test_a_node_that_fills_up(kernel: str, width: int, pinned: list[int]) -> None:
    """The target of a frame that stays serves the next one; without a target a frame fails."""
    machine = pm.Machine([pm.Node("4MiB", cpus=1), pm.Node("1MiB")], kernel=kernel)
    machine.width = width
    app = machine.spawn()
    base = mapped(app, N)
    for page in pinned:
        app.pin(base + page * PAGE, PAGE)
    free, expected = machine.free(1) // PAGE, []
    assert 0 < free < N
    for page in range(N):
        if not free:
            expected.append(-errno.ENOMEM)
        elif page in pinned:
            expected.append(-errno.EAGAIN)
        else:
            expected.append(1)
            free -= 1
    result = machine.migrate_frames(app.frames(base, N), [1] * N)
    assert result.status.tolist() == expected
    assert result.rc == sum(status < 0 for status in expected)
    assert app.nodes(base, N).tolist() == [max(status, 0) for status in expected]
    assert machine.vmstat["pgmigrate_success"] == expected.count(1)
    assert machine.vmstat["pgmigrate_fail"] == result.rc
    machine.check(full=True)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.18"])
def test_frames_that_are_listed_twice(kernel: str) -> None:
    """One that moved is free by then; one that stayed is tried again."""
    machine = four_nodes(kernel)
    app = machine.spawn()
    base = mapped(app, 3)
    app.pin(base + PAGE, PAGE)
    moves, pinned, back = app.frames(base, 3).tolist()
    result = machine.migrate_frames(
        np.array([moves, moves, pinned, pinned, back, back]), [1, 1, 1, 1, 1, 2]
    )
    busy, again = -errno.EBUSY, -errno.EAGAIN
    assert result.status.tolist() == [1, busy, again, again, 1, busy]
    assert machine.vmstat["pgmigrate_fail"] == 2
    assert app.nodes(base, 3).tolist() == [1, 0, 1]


def test_how_often_a_frame_is_tried() -> None:
    """6.1 tries ten times unless the errno is final, and each time locks the frame and a target."""
    machine = four_nodes("6.1")
    app = machine.spawn()
    base = mapped(app, 3)
    app.pin(base, PAGE)
    stuck = mapped(app, 1, 10, file=machine.file("ramfs", PAGE), shared=True)  # dirty: EINVAL
    pfns = [*app.frames(base, 3), *app.frames(stuck, 1)]
    before = machine.counters["lock_page"]
    again = -errno.EAGAIN
    assert machine.migrate_frames(pfns, [1] * 4).status.tolist() == [again, 1, 1, again]
    assert machine.counters["lock_page"] - before == 2 * (10 + 1 + 1 + 1)
