"""Policies at work on processes: the modelled kernel stands for one of two nodes, ours for one."""

import errno
import subprocess
import sys

import numpy as np
import pytest

import pagemig as pm
from pagemig import auto, live
from pagemig.auto import AccessedBits, HintFaults, Policy, PolicyError, Regions
from pagemig.commands import main as cli
from pagemig.errors import SyscallError
from pagemig.live import Topology, process, topology
from pagemig.live.places import Imagined

PAGE = 4096


class Modelled:
    """A process of a modelled machine, with the calls of `live.Process`.

    What was accessed comes from ``use``, as the model counts no accessed bits for others to clear.
    """

    pid, cpu, tells = 7, 0, True

    def __init__(self, pages=64, fast="160KiB", slow="1MiB"):
        self.machine = pm.Machine([pm.Node(fast, cpus=1), pm.Node(slow)])
        self.mover, self.model = self.machine.spawn(), self.machine.spawn(cpu=0)
        self.base = self.model.mmap(pages * PAGE)
        self.model.access(self.base + PAGE * np.arange(pages), write=True)
        self.alive, self.used, self.stored = True, set(), set()
        self.calls = 0

    def use(self, pages, write=False):
        for page in pages:
            self.used.add(self.base + PAGE * page)
            if write:
                self.stored.add(self.base + PAGE * page)

    def vmas(self):
        return self.model.vmas()

    def smaps(self):
        return self.model.smaps()

    def pagemap(self, addr, n):
        return self.model.pagemap(addr, n)

    def clear(self):
        self.used, self.stored = set(), set()

    def _among(self, chosen, addr, n):
        return np.array([addr + PAGE * k in chosen for k in range(n)])

    def dirty(self, addr, n):
        return self._among(self.stored, addr, n) if self.tells else None

    def mark_idle(self, addr, n):
        return self.tells

    def accessed(self, addr, n):
        return self._among(self.used, addr, n) if self.tells else None

    def move_pages(self, pages, nodes=None):
        self.calls += nodes is not None
        result = self.mover.move_pages(pages, nodes, pid=self.model)
        self.machine.check()
        return result

    def nodes(self):
        """The nodes, with room that the agent's reserve of 5 % takes nothing of."""
        return Topology(
            (0, 3),
            {0: (0,), 3: ()},
            {0: 40 * PAGE, 3: 256 * PAGE},
            {0: self.machine.free(0) + 2 * PAGE, 3: self.machine.free(1) + 13 * PAGE},
            np.array([[10, 30], [30, 10]]),
        )


class Numbered(Modelled):
    """The same where the second node has number 3, as nodes of real machines may."""

    def move_pages(self, pages, nodes=None):
        targets = None if nodes is None else np.where(np.asarray(nodes) == 3, 1, nodes)
        result = super().move_pages(pages, targets)
        status = np.where(result.status == 1, 3, result.status).astype(np.int32)
        return type(result)(result.rc, status)


def watched(target, uses, policy, **options):
    """Run a policy while the process uses the given pages, epoch by epoch."""
    steps = iter(uses)
    return live.run(
        policy,
        target,
        epochs=len(uses),
        period=0,
        machine=target.nodes,
        sleep=lambda seconds: target.use(*next(steps)),
        **options,
    )


def test_a_policy_moves_the_pages_that_are_used():
    target = Numbered()
    before = target.model.nodes(target.base, 64)
    fast = np.flatnonzero(before == 0)
    assert 30 < fast.size < 41  # the first touched, as many as fit
    hot = range(56, 64)
    done = watched(target, [(hot,)] * 6, auto.Age(active=2, idle=3))
    after = target.model.nodes(target.base, 64)
    assert (after[56:] == 0).all()  # used scan after scan
    assert (after[:56] == 1).all()  # idle for three scans
    assert sum(epoch.moved for epoch in done) == fast.size + 8
    assert done[-1].per_node.tolist() == [8, 56]
    assert [epoch.accessed for epoch in done] == [8] * 6
    assert done[0].near == 0 and done[-1].near == 8
    assert [epoch.began for epoch in done] == [True] + [False] * 5
    assert not any(epoch.refused for epoch in done)


def test_a_dry_run_moves_nothing():
    target = Numbered()
    before = target.model.nodes(target.base, 64)
    done = watched(target, [(range(56, 64),)] * 4, auto.Age(active=2, idle=3), dry_run=True)
    assert (target.model.nodes(target.base, 64) == before).all()
    assert target.calls == 0
    assert sum(epoch.asked for epoch in done) > 0 == sum(epoch.moved for epoch in done)


class Scripted(Policy):
    """Answers what it is told to, and keeps what it saw."""

    def __init__(self, *answers, needs=None):
        self.answers, self.needs, self.seen = answers, needs or (AccessedBits(),), []

    def start(self, view):
        self.seen = []

    def epoch(self, view):
        keep = ("accessed", "dirty", "node", "free", "last", "home", "epoch")
        self.seen.append({name: getattr(view, name, None) for name in keep})
        answer = self.answers[view.epoch] if view.epoch < len(self.answers) else auto.NO_MOVES
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_view_has_what_the_kernel_tells():
    target = Numbered()
    script = Scripted(([60, 61], 0), ([0], 1))
    watched(target, [([1, 2], True), ([3],), ([],)], script)
    first, second, third = script.seen
    assert np.flatnonzero(first["accessed"]).tolist() == [1, 2]
    assert np.flatnonzero(first["dirty"]).tolist() == [1, 2]
    assert np.flatnonzero(second["accessed"]).tolist() == [3] and not second["dirty"].any()
    assert not third["accessed"].any()
    # The fast node was full, so only page 0, which left it, has moved since.
    assert np.flatnonzero(first["node"] != target.model.nodes(target.base, 64)).tolist() == [0]
    assert set(second["last"].tolist()) <= {0, -errno.ENOMEM, -(2**31)}
    assert third["last"].tolist() == [1]
    assert (first["home"] == 0).all()


def test_what_found_no_room_is_told_by_name():
    target = Numbered()
    done = watched(target, [([],)], Scripted((np.arange(45, 64), 0)))
    assert done[0].asked == 19
    assert done[0].moved + sum(done[0].refused.values()) == 19
    assert done[0].refused


def test_without_bits_of_pages_mappings_tell():
    target = Numbered()
    target.tells = False
    script = Scripted()
    done = watched(target, [([],)], script)
    # The model's pages stay referenced, so the whole mapping counts.
    assert done[0].accessed == 64 and done[0].written == 0


def test_regions_and_faults_see_the_scans():
    target = Numbered()
    told = []
    policy = Scripted(needs=(Regions(samples=4), HintFaults(pages=64)))
    done = live.run(
        policy,
        target,
        epochs=2,
        period=8,
        machine=target.nodes,
        sleep=lambda seconds: (told.append(seconds), target.use(range(16))),
    )
    assert told == [2.0] * 8  # four looks in each epoch
    assert [epoch.accessed for epoch in done] == [16, 16]


def test_a_process_that_grows_is_shown_again():
    target = Numbered()
    grown = []

    def sleep(seconds):
        if not grown:
            base = target.model.mmap(40 * PAGE)
            target.model.access(base + PAGE * np.arange(40), write=True)
        grown.append(seconds)

    script = Scripted()
    done = live.run(script, target, epochs=3, period=0, machine=target.nodes, sleep=sleep)
    assert [epoch.pages for epoch in done] == [64, 104, 104]
    assert [epoch.began for epoch in done] == [True, True, False]
    assert [seen["epoch"] for seen in script.seen] == [0, 1]


def test_a_process_that_ends_ends_the_run():
    target = Numbered()

    def sleep(seconds):
        target.alive = len(done) < 2

    done = []
    live.run(Scripted(), target, period=0, machine=target.nodes, sleep=sleep, report=done.append)
    assert len(done) == 2


def test_the_same_object_runs_on_a_trace_and_here():
    from pagemig.studies.replay import replay
    from pagemig.trace import Trace

    policy = auto.Age(active=1, idle=2)
    trace = Trace.from_accesses(np.tile(np.arange(40), 50))
    first = replay(trace, policy, epochs=10)
    target = Numbered()
    one = watched(target, [(range(56, 64),)] * 4, policy)
    again = replay(trace, policy, epochs=10)
    assert first.total_ns == again.total_ns
    assert sum(epoch.moved for epoch in one) > 0


# ---- what cannot be run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("most-used", r"needs Counts\(\), which no machine has"),
        ("look-ahead", "which no machine has"),
        ("hemem", "the sampling unit"),
        ("interleave", "places new pages"),
        ("nosuch", "no policy 'nosuch'"),
    ],
)
def test_policies_that_need_what_no_kernel_tells(policy, why):
    with pytest.raises(ValueError, match=why):
        live.run(policy, live.Process(), dry_run=True, epochs=1, period=0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"period": -1}, "period -1"),
        ({"period": float("nan")}, "period nan"),
        ({"epochs": 0}, "epochs 0"),
        ({"scans": 0}, "scans 0"),
        ({"fast_share": 0}, "fast_share 0"),
        ({"imagine": "nosuch"}, "no machine 'nosuch'"),
    ],
)
def test_numbers_that_mean_nothing(options, why):
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        live.run("age", live.Process(), **{"dry_run": True} | options)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ZeroDivisionError("x"), r"Scripted, epoch 0 of process 7: ZeroDivisionError: x \(test_"),
        (([99], 0), "page 99 is not one of 64"),
        (([0], 2), "node 2 is not one of 2"),
        (([0.5], 0), "must be integers"),
        (3, "it must answer"),
    ],
)
def test_answers_that_mean_nothing(answer, why):
    with pytest.raises(PolicyError, match=why):
        watched(Numbered(), [([],)], Scripted(answer))


def test_a_call_that_fails_as_a_whole():
    target = Numbered()

    def refuses(pages, nodes=None):
        pm.errors.raise_errno(-errno.EPERM, "move_pages")

    target.move_pages = refuses
    with pytest.raises(SyscallError, match="EPERM"):
        watched(target, [([],)], Scripted(([0], 1)))


# ---- an imagined machine ----------------------------------------------------------------------


def test_an_imagined_machine_keeps_count():
    machine = Imagined(auto.hardware("cxl"), 0.25)
    pages = np.arange(8, dtype=np.uint64) * PAGE
    machine.watch(pages)
    there = np.ones(8, np.bool_)
    assert machine.where(there).tolist() == [0, 0] + [1] * 6
    assert machine.capacity().tolist() == [2, 8] and machine.free().tolist() == [0, 2]
    status = machine.move(np.array([7, 0, 1, 5, 6, 3, 4]), np.array([0, 1, 1, 0, 0, 0, 9]))
    assert status.tolist() == [-errno.ENOMEM, 1, 1, 0, 0, -errno.ENOMEM, -errno.ENODEV]
    there[5] = False
    assert machine.where(there).tolist() == [1, 1, 1, 1, 1, -1, 0, 1]
    assert machine.move(np.array([5, 6]), np.array([0, 0])).tolist() == [-errno.ENOENT, 0]
    machine.watch(np.append(pages, np.uint64(8 * PAGE)))  # old ones stay, a new one comes
    assert machine.where(np.ones(9, np.bool_)).tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1]


# ---- this machine -----------------------------------------------------------------------------


@pytest.fixture
def child():
    code = "x = bytearray(1 << 24); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as running:
        running.stdout.readline()
        yield running
        running.kill()


def test_a_dry_run_on_a_process_of_this_machine(child):
    target = live.Process(child.pid)
    try:
        target.clear()
    except OSError:
        pytest.skip("this kernel has no clear_refs")
    told = []
    done = live.run("tpp", target, dry_run=True, epochs=2, period=0.02, told=told.append)
    assert len(done) == 2 and done[0].pages >= (1 << 24) // PAGE
    assert done[0].moved == 0 and done[0].per_node.sum() >= (1 << 24) // PAGE
    assert len(told) == 1
    imagined = live.run("age(idle=1)", target, imagine="cxl", epochs=3, period=0.02)
    assert imagined[0].per_node.size == 2
    assert imagined[0].per_node[0] <= round(imagined[0].pages * 0.25)


@pytest.mark.skipif(not topology().single, reason="this machine has several nodes")
def test_one_node_is_told(child, capsys):
    with pytest.raises(ValueError, match="one node, so pages have nowhere to go"):
        live.run("age", live.Process(child.pid))
    assert cli.main(["live", "--pid", str(child.pid)]) == 2
    _, err = capsys.readouterr()
    assert "one node" in err and err.count("\n") == 1


def test_command(child, capsys, monkeypatch):
    arguments = ["--dry-run", "--epochs", "2", "--period", "0.01"]
    assert cli.main(["live", *arguments, "--pid", str(child.pid)]) == 0
    out = capsys.readouterr().out
    assert "this kernel reports" in out and "none made (dry run)." in out
    assert out.count("the policy starts") == 1
    assert cli.main(["live", *arguments, "--", "sleep", "0"]) in (0, 2)
    capsys.readouterr()
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    assert cli.main(["live", "--imagine", "tiers3", *arguments[1:], "--", "sleep", "9999999"]) == 0
    assert [one.returncode is not None for one in started] == [True]  # it is ended
    assert "made on paper." in capsys.readouterr().out
    assert cli.main(["live"]) == 0
    assert "node 0:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--pid", "1", "--", "ls"], "not both"),
        (["--pid", str(2**22 + 1), "--dry-run"], "there is no process"),
        (["--policy", "nosuch", "--dry-run", "--", "sleep", "9"], "no policy 'nosuch'"),
        (["--dry-run", "--", "/nosuch/program"], "/nosuch/program"),
    ],
)
def test_command_says_what_is_wrong(arguments, why, capsys):
    assert cli.main(["live", *arguments]) == 2
    _, err = capsys.readouterr()
    assert why in err and err.count("\n") == 1


# ---- the bitmap of idle pages -----------------------------------------------------------------


def test_idle_bits_are_read_and_written_by_frame(tmp_path, monkeypatch):
    """A file stands for the bitmap; the kernel's takes ones only, and a file takes zeros too."""
    bitmap = tmp_path / "bitmap"
    bitmap.write_bytes(bytes(1 << 12))
    monkeypatch.setattr(process, "_IDLE", bitmap)
    present = 1 << 63
    frames = np.array([5, 70, 0, 200, 71, 20_000], np.uint64)
    entries = frames | np.uint64(present)
    entries[2] = 0  # not present
    monkeypatch.setattr(live.Process, "pagemap", lambda self, addr, n: entries[:n])
    me = live.Process()
    assert me.mark_idle(PAGE, 6)
    bits = np.unpackbits(np.frombuffer(bitmap.read_bytes(), np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == [5, 70, 71, 200, 20_000]
    data = bytearray(bitmap.read_bytes())
    data[70 // 8] &= ~(1 << 70 % 8)  # accessed
    data[20_000 // 8] = 0
    bitmap.write_bytes(data)
    assert me.accessed(PAGE, 6).tolist() == [False, True, False, False, False, True]
    entries &= np.uint64(present)  # frame numbers hidden from us
    assert me.accessed(PAGE, 6) is None and not me.mark_idle(PAGE, 6)


def test_counts_of_mappings_have_the_model_s_names():
    ours = {row["start"]: row for row in live.Process().smaps()}
    assert ours.keys() == {vma.start for vma in live.Process().vmas()} or ours
    machine = pm.Machine(["1MiB"])
    model = machine.spawn()
    model.mmap(4 * PAGE)
    assert model.smaps()[0].keys() <= next(iter(ours.values())).keys()
