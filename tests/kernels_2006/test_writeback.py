"""File systems that cannot migrate: dirty pages and buffers (kernel-2006, 3.3, 3.6, 4.6)."""

import numpy as np
import pytest

import pagemig as pm
from support.machines import PAGE, at, four_nodes, mapped

KERNELS_2006 = ["2.6.17", "2.6.17-mm", "2.6.18-ia64", "pmig"]
N = 8


def written(kernel: str) -> tuple[pm.Process, pm.File]:
    """A process that wrote pages 0 to 7 of a shared mapping; none of it is on the disk yet."""
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    file = machine.file("minix", N * PAGE)
    mapped(app, N, shared=True, file=file, touched=False)
    app.touch(at(0), N * PAGE, write=True, values=range(1, N + 1))
    return app, file


def pfns(file: pm.File) -> list[int]:
    return sorted(file.machine._file_frames(file.index).tolist())


def nodes(file: pm.File) -> set[int]:
    return set(file.machine.node_of(pfns(file)).tolist())


def content(app: pm.Process) -> list[int]:
    values = app.touch(at(0), N * PAGE).values
    assert values is not None
    return values.tolist()


class Passes:
    """Counts attempts at a page by their step "isolate"."""

    def __init__(self, machine: pm.Machine, pfn: int) -> None:
        self.pfn, self.seen = pfn, 0
        machine.at_step(self, step=pm.STEP_ISOLATE)

    def __call__(self, step: str, frames: list[int]) -> None:
        self.seen += self.pfn in frames


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_kernels_of_today_do_not_have_it(kernel: str) -> None:
    with pytest.raises(ValueError, match=f"minix .* kernels of 2006 only, not {kernel}"):
        four_nodes(kernel).file("minix", PAGE)


@pytest.mark.parametrize("kernel", KERNELS_2006)
def test_a_dirty_page_is_written_in_one_pass_and_moves_in_the_next(kernel: str) -> None:
    app, file = written(kernel)
    machine = app.machine
    assert not machine.frames.flag("dirty")[pfns(file)].any()  # the entries know, until 2.6.19
    passes = Passes(machine, pfns(file)[0])
    assert app.migrate_pages([0], [1]) == 0
    assert passes.seen == 2
    machine.at_step(None)
    machine.check()
    assert nodes(file) == {1}
    frames = pfns(file)
    assert not machine.frames.flag("dirty")[frames].any()
    assert not machine.frames.flag("private")[frames].any()  # try_to_release_page
    assert content(app) == list(range(1, N + 1))


@pytest.mark.parametrize("kernel", KERNELS_2006)
def test_what_was_written_is_on_the_disk(kernel: str) -> None:
    app, file = written(kernel)
    app.migrate_pages([0], [1])
    app.munmap(at(0), N * PAGE)
    assert not app.machine.frames.flag("dirty")[pfns(file)].any()
    app.fadvise(file, 0, N * PAGE, "dontneed")  # clean and not mapped: they leave
    assert file.cached == 0
    assert app.fread(file, 0, N).tolist() == list(range(1, N + 1))
    app.machine.check()


@pytest.mark.parametrize("kernel", KERNELS_2006)
def test_mappings_of_a_page_that_is_written_first(kernel: str) -> None:
    # 2.6.17 drops the PTEs of files; with migration entries they are restored around the write.
    app, _ = written(kernel)
    app.migrate_pages([0], [1])
    assert app.touch(at(0), N * PAGE).minflt == (N if kernel == "2.6.17" else 0)


@pytest.mark.parametrize("kernel", KERNELS_2006)
@pytest.mark.parametrize("kind", ["minix", "ext4"])
def test_buffers_that_are_in_use(kernel: str, kind: str) -> None:
    # buffer_migrate_page (3.5) takes the buffers along; the fallback has to release them first.
    machine = four_nodes(kernel, page_bytes=8)
    app = machine.spawn()
    file = machine.file(kind, N * PAGE)
    mapped(app, N, shared=True, file=file, touched=False)
    app.touch(at(0), N * PAGE, write=True, values=range(1, N + 1))
    file.buffers_busy = True
    assert file.buffers_busy
    left = app.migrate_pages([0], [1])
    machine.check()
    assert left == (N if kind == "minix" else 0)
    assert nodes(file) == ({0} if kind == "minix" else {1})
    assert content(app) == list(range(1, N + 1))
    file.buffers_busy = False
    assert app.migrate_pages([0], [1]) == 0
    assert nodes(file) == {1}
    machine.check()


def with_stuck_buffers(kernel: str) -> tuple[pm.Process, pm.File, list[int]]:
    """Pages that are clean and have buffers which cannot be released."""
    app, file = written(kernel)
    file.buffers_busy = True
    app.migrate_pages([0], [1])  # writes them
    frames = pfns(file)
    assert app.machine.frames.flag("private")[frames].all()
    return app, file, frames


def free_at(machine: pm.Machine, file: pm.File, pfn: int, attempt: int) -> list[int]:
    """Release the buffers when a page is unmapped for the ``attempt``-th time; the times."""
    seen: list[int] = []

    def hook(step: str, frames: list[int]) -> None:
        if pfn in frames:
            seen.append(0)
            if len(seen) == attempt:
                file.buffers_busy = False

    machine.at_step(hook, step=pm.STEP_UNMAP)
    return seen


def test_after_pass_4_such_a_page_is_swapped_out_as_the_last_resort() -> None:
    # Passes 0 to 4 unmap the page once each.  From pass 5 on it is unmapped twice: for the move,
    # and for the swap-out that follows, which finds the buffers free now and evicts the page.
    app, file, frames = with_stuck_buffers("2.6.17")
    machine = app.machine
    seen = free_at(machine, file, frames[0], 7)
    result = machine.migrate_lists(frames[:1], 1)
    machine.at_step(None)
    assert (result.rc, result.moved.tolist(), len(seen)) == (0, frames[:1], 7)
    assert file.cached == N - 1  # gone, not moved
    assert machine.vmstat["pgmigrate_success"] == 0
    machine.check()
    assert content(app) == list(range(1, N + 1))  # read back
    machine.check()


@pytest.mark.parametrize(("kernel", "attempt"), [("2.6.17", 5), ("2.6.17-mm", 7)])
def test_before_that_and_without_swap_entries_it_moves(kernel: str, attempt: int) -> None:
    # -mm has no such resort (4.7): each pass unmaps once, and the page moves when it can.
    app, file, frames = with_stuck_buffers(kernel)
    machine = app.machine
    seen = free_at(machine, file, frames[0], attempt)
    result = machine.migrate_lists(frames[:1], 1)
    machine.at_step(None)
    assert (result.rc, result.moved.tolist(), len(seen)) == (0, frames[:1], attempt)
    assert file.cached == N
    assert nodes(file) == {0, 1}
    machine.check()
    assert content(app) == list(range(1, N + 1))


def test_a_page_that_stays_stuck_stays() -> None:
    # 11 passes: 5 attempts to move, then 6 with an attempt to swap out each.
    app, file, frames = with_stuck_buffers("2.6.17")
    machine = app.machine
    seen = free_at(machine, file, frames[0], 10**6)
    result = machine.migrate_lists(frames[:1], 1)
    machine.at_step(None)
    assert (result.rc, result.left.tolist(), len(seen)) == (1, frames[:1], 5 + 2 * 6)
    machine.check()
    assert content(app) == list(range(1, N + 1))


def test_eviction_writes_first_and_needs_the_buffers_gone() -> None:
    # `to` is NULL (3.6): pageout in one pass, remove_mapping in the next.
    app, file = written("2.6.17")
    machine = app.machine
    frames = pfns(file)
    file.buffers_busy = True
    result = machine.migrate_lists(frames)
    assert (result.rc, result.left.tolist()) == (N, frames)
    assert not machine.frames.flag("dirty")[frames].any()
    file.buffers_busy = False
    result = machine.migrate_lists(frames)
    assert (result.rc, sorted(result.moved.tolist()), file.cached) == (0, frames, 0)
    machine.check()
    assert content(app) == list(range(1, N + 1))
    assert np.all(machine.node_of(pfns(file)) == 0)


@pytest.mark.parametrize("kernel", KERNELS_2006)
def test_a_pinned_dirty_page(kernel: str) -> None:
    # pageout leaves a page that somebody else holds; writeout of 2.6.18 does not care.
    app, file = written(kernel)
    machine = app.machine
    pin = app.pin(at(0), PAGE)
    assert app.migrate_pages([0], [1]) == 1
    held = [pfn for pfn in pfns(file) if machine.node_of([pfn])[0] == 0]
    assert len(held) == 1
    assert machine.frames.flag("dirty")[held[0]] == (kernel == "2.6.17")
    app.unpin(pin)
    machine.check()
    assert app.migrate_pages([0], [1]) == 0
    machine.check()
    assert content(app) == list(range(1, N + 1))
