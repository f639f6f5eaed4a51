"""What recordings cannot show: states between the steps of a call, and threads that meet there."""

import numpy as np

import pagemig as pm


def test_target_cannot_be_isolated_before_it_is_published() -> None:
    """By number, anybody finds a target; isolating it under the plain store that publishes it would lose a reference."""
    machine = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"])
    app = machine.spawn()
    base = app.mmap(8 * 4096)
    app.touch(base, 8 * 4096, write=True)
    targets = np.arange(256, 512)
    met: list[int] = []

    def isolate_targets(step: str, _: list[int]) -> None:
        if step in ("freeze", "copy"):
            machine.at_step(None)
            in_use = targets[machine.frames.refcount[256:] > 0]
            result = machine.migrate_frames(in_use, np.zeros(len(in_use), np.int32))
            met.extend(result.status.tolist())

    machine.at_step(isolate_targets)
    app.move_pages(base + 4096 * np.arange(8, dtype=np.uint64), 1)
    assert met == [-16] * 8
    machine.check(full=True)
