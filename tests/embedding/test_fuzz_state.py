"""Saved machines against damage, and against forgery with recomputed checksums.

Damage is refused with `StateError`. An accepted forgery is a machine whose `check` passes.
Each forgery is loaded in a child, so that a crash is a finding. ``FUZZ_SECONDS`` and ``FUZZ_SEED``
as for the readers of files.
"""

import os
import random
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

import pagemig as pm
from pagemig.files import is_printable

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 2)
SEED = int(os.environ.get("FUZZ_SEED") or 0)
PAGE = pm.PAGE_SIZE
HEAD, SECTION = 32, struct.Struct("<IIQQQQ")
MASK = (1 << 64) - 1
PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
WILD = (0, 1, 2, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63), MASK, 4096, 512, 513)


def rotate(x: int, n: int) -> int:
    return (x << n | x >> (64 - n)) & MASK


def mix(lane: int, value: int) -> int:
    return rotate(lane + value * PRIMES[1] & MASK, 31) * PRIMES[0] & MASK


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0, from its specification."""
    whole = len(data) // 32 * 32
    if whole:
        lanes = [PRIMES[0] + PRIMES[1] & MASK, PRIMES[1], 0, -PRIMES[0] & MASK]
        for words in struct.iter_unpack("<4Q", data[:whole]):
            lanes = [mix(lane, word) for lane, word in zip(lanes, words, strict=True)]
        turns = (1, 7, 12, 18)
        h = sum(rotate(lane, n) for lane, n in zip(lanes, turns, strict=True)) & MASK
        for lane in lanes:
            h = (h ^ mix(0, lane)) * PRIMES[0] + PRIMES[3] & MASK
    else:
        h = PRIMES[4]
    h = h + len(data) & MASK
    rest = data[whole:]
    while len(rest) >= 8:
        h = rotate(h ^ mix(0, struct.unpack("<Q", rest[:8])[0]), 27) * PRIMES[0] + PRIMES[3] & MASK
        rest = rest[8:]
    if len(rest) >= 4:
        h ^= struct.unpack("<I", rest[:4])[0] * PRIMES[0] & MASK
        h = rotate(h, 23) * PRIMES[1] + PRIMES[2] & MASK
        rest = rest[4:]
    for byte in rest:
        h = rotate(h ^ byte * PRIMES[4] & MASK, 11) * PRIMES[0] & MASK
    for shift, prime in ((33, PRIMES[1]), (29, PRIMES[2]), (32, 1)):
        h = (h ^ h >> shift) * prime & MASK
    return h


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small machine with some of everything."""
    kernel = "2.6.18"
    machine = pm.Machine([pm.Node("256KiB", cpus=1), "256KiB"], kernel=kernel, swap=["64KiB"])
    app = machine.spawn()
    base = app.mmap(12 * PAGE)
    app.touch(base, 12 * PAGE, write=True)
    app.mbind(base, 2 * PAGE, pm.Interleave([0, 1]), pm.MPOL_MF_MOVE)
    file = machine.file("ext4", 8 * PAGE)
    app.touch(app.mmap(8 * PAGE, file=file, shared=True), 8 * PAGE, write=True)
    child = app.fork()
    child.touch(base, PAGE, write=True)
    app.pin(base + 4 * PAGE, PAGE)
    machine.swap_out(app.frames(base + 5 * PAGE, 2))
    app.mlock(base + 8 * PAGE, 2 * PAGE)
    child.fork().exit(zombie=True)
    path = tmp_path_factory.mktemp("saved") / "machine"
    machine.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module", params=["2.6.17", "2.6.18", "6.1", "6.12"])
def in_flight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A machine with three migrations in progress, one of them before its first step."""
    kernel = request.param
    swap = ["64KiB"] if pm.KERNELS[kernel].swap else []
    nodes: list[pm.Node | str] = [pm.Node("256KiB", cpus=1), "256KiB", "256KiB"]
    machine = pm.Machine(nodes, kernel=kernel, swap=swap)
    machine.width = 3
    app = machine.spawn()
    base = app.mmap(12 * PAGE)
    app.touch(base, 12 * PAGE, write=True)
    file = machine.file("tmpfs", 4 * PAGE)
    shared = app.mmap(4 * PAGE, file=file, shared=True)
    app.touch(shared, 4 * PAGE, write=True)
    moves = [
        machine.start_migrate_frames(app.frames(shared, 4), [1] * 4),
        app.start_migrate_pages({0}, {1}),
        app.start_mbind(base, PAGE, pm.Bind([2]), pm.MPOL_MF_MOVE),
    ]
    for move in moves[:2]:
        move.step()
    path = tmp_path_factory.mktemp("moving") / "machine"
    machine.save(path)
    assert len(moves) == len(machine.migrations)
    return path.read_bytes()


def sections(data: bytes) -> list[tuple[tuple[int, ...], bytes]]:
    """Heads and bodies."""
    found, at = [], HEAD
    while at < len(data) - HEAD:
        head = SECTION.unpack_from(data, at)
        at += SECTION.size
        found.append((head, data[at : at + head[3]]))
        at += head[3]
    return found


def sealed(data: bytes, parts: list[tuple[tuple[int, ...], bytes]]) -> bytes:
    """A file of these sections, with the checksums that they need."""
    out, heads = [data[:HEAD]], b""
    for (number, index, raw, _, _, zero), body in parts:
        head = SECTION.pack(number, index, raw, len(body), xxh64(body), zero)
        heads += head
        out += [head, body]
    return b"".join([*out, data[:16], struct.pack("<QQ", len(parts), xxh64(heads))])


def forged(data: bytes, draw: random.Random) -> bytes:
    """Words of some sections become others; where there was nothing, too."""
    parts = sections(data)
    for _ in range(draw.choice((1, 1, 2, 6))):
        k = draw.choice((0, 0, draw.randrange(len(parts)), draw.randrange(len(parts))))
        head, body = parts[k]
        changed = bytearray(body)
        if not changed:
            continue
        size = draw.choice((1, 2, 4, 8))
        at = draw.randrange(0, max(1, len(changed) - size + 1)) // size * size
        value = draw.choice((*WILD, draw.randrange(40), draw.randrange(1 << 64)))
        changed[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        parts[k] = (head, bytes(changed[: len(body)]))
    return sealed(data, parts)


def forged_record(data: bytes, draw: random.Random) -> bytes:
    """Words of the last section, which has the migrations in progress, become others."""
    parts = sections(data)
    head, body = parts[-1]
    changed = bytearray(body)
    for _ in range(draw.choice((1, 1, 2))):
        size = draw.choice((4, 8))
        at = 1 + draw.randrange((len(changed) - 1) // 4) * 4  # behind the bitmap of one block
        value = draw.choice(
            (*WILD, draw.randrange(40), draw.randrange(200), draw.randrange(1 << 64))
        )
        changed[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    parts[-1] = (head, bytes(changed[: len(body)]))
    return sealed(data, parts)


POLICY = struct.Struct("<HHiQQ")  # mode, flags, home node, nodes, the caller's nodes


@pytest.fixture(scope="module", params=["2.6.18", "pmig", "6.1", "6.12"])
def bound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A machine whose task, mapping and shared object each have a policy for pages to come."""
    machine = pm.Machine([pm.Node("256KiB", cpus=1), "256KiB", "256KiB"], kernel=request.param)
    app = machine.spawn()
    app.set_mempolicy(pm.Interleave([0, 1, 2]))
    base = app.mmap(8 * PAGE)
    app.mbind(base, 4 * PAGE, pm.Bind([1, 2]))
    if machine.profile.name.startswith("6."):
        app.set_mempolicy_home_node(base, 4 * PAGE, 2)
    shared = app.mmap(4 * PAGE, shared=True)
    app.mbind(shared, 2 * PAGE, pm.Bind([0, 2]))
    path = tmp_path_factory.mktemp("bound") / "machine"
    machine.save(path)
    return path.read_bytes()


def policies(data: bytes) -> list[tuple[int, int]]:
    """Section and place of each policy that has nodes."""
    sought = [
        POLICY.pack(mode, 0, home, nodes, nodes)
        for mode, home, nodes in [(3, -1, 7), (2, -1, 6), (2, 2, 6), (2, -1, 5)]
    ]
    return [
        (k, body.index(policy))
        for k, (_, body) in enumerate(sections(data))
        for policy in sought
        if policy in body
    ]


def forged_policy(data: bytes, draw: random.Random) -> bytes:
    """A field of a policy becomes another."""
    parts = sections(data)
    k, at = draw.choice(policies(data))
    head, body = parts[k]
    offset, size = draw.choice([(0, 2), (2, 2), (4, 4), (8, 8), (16, 8), (24, 4)])
    value = draw.choice((*WILD, draw.randrange(80), draw.randrange(1 << 64)))
    changed = bytearray(body)
    changed[at + offset : at + offset + size] = (value & (1 << 8 * size) - 1).to_bytes(
        size, "little"
    )
    parts[k] = (head, bytes(changed))
    return sealed(data, parts)


def looked_at(path: Path) -> None:
    """Load what is there; a machine that is taken is one, and works."""
    try:
        machine = pm.Machine.load(path)
    except (pm.StateError, MemoryError) as error:
        assert is_printable(str(error)), repr(str(error))
        return
    machine.check(full=True)
    for move in machine.migrations:
        for _ in range(50):  # one may wait for another
            if move.step() is None:
                break
    for move in machine.migrations:
        move.abort()
    for process in machine.processes:
        if process.alive:
            # By the policies there are, and through every entry that migrations have left.
            for vma in process.vmas():
                process.touch(vma.start, vma.end - vma.start, write="w" in vma.perms)
            base = process.mmap(2 * PAGE)
            process.touch(base, 2 * PAGE, write=True)
            process.migrate_pages({0}, {1})
            process.exit()
    machine.check(full=True)


def child(path: Path, data: bytes) -> int:
    """Look at it in a child; how that ended."""
    path.write_bytes(data)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            looked_at(path)
            status = 0
        except OSError:  # what is full or forbidden on a machine that somebody made up
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_record_of_migrations_is_whole(in_flight: bytes, tmp_path: Path) -> None:
    """Cut at each byte, and each word another: refused, or a machine that goes on."""
    parts = sections(in_flight)
    head, body = parts[-1]
    path = tmp_path / "machine"
    for n in range(1, len(body), 7):
        cut = [*parts[:-1], ((*head[:2], n - 1, *head[3:]), body[:n])]
        path.write_bytes(sealed(in_flight, cut))
        with pytest.raises(pm.StateError):
            pm.Machine.load(path)
    seed, until = SEED, time.monotonic() + SECONDS
    while seed <= SEED + 5 or time.monotonic() < until:
        ended = child(path, forged_record(in_flight, random.Random(seed)))
        assert ended == 0, f"FUZZ_SEED={seed} shows it again: {ended}"
        seed += 1


#: A page of a stage in a record of migrations: frame, target, and what the stage knows of it.
PAGE_BYTES = 48


def places_of(body: bytes, pfn: int) -> list[int]:
    """Where a record of migrations names a frame and has room for a page of a stage behind it."""
    word = pfn.to_bytes(4, "little")
    return [at for at in range(1, len(body) - PAGE_BYTES, 4) if body[at : at + 4] == word]


@pytest.mark.parametrize("kernel", ["2.6.18", "6.1"])
def test_a_stage_has_pages_of_its_own_list_only(kernel: str, tmp_path: Path) -> None:
    """Two migrations exchange a page of their stages: it is locked and isolated, but another's."""
    machine = pm.Machine([pm.Node("256KiB", cpus=1), "256KiB"], kernel=kernel)
    machine.width = 2
    app = machine.spawn()
    base = app.mmap(8 * PAGE)
    app.touch(base, 8 * PAGE, write=True)
    other = app.fork()  # each keeps a half, whose pages have the same anon_vma
    app.munmap(base, 4 * PAGE)
    other.munmap(base + 4 * PAGE, 4 * PAGE)
    moves = [process.start_migrate_pages({0}, {1}) for process in (app, other)]
    events = [event for move in moves if (event := move.step())]
    path = tmp_path / "machine"
    machine.save(path)
    data = path.read_bytes()
    head, body = sections(data)[-1]
    places = [places_of(body, int(event.source[0])) for event in events]
    assert [len(found) > 1 for found in places] == [True, True]
    for first in places[0]:
        for second in places[1]:
            changed = bytearray(body)
            changed[first : first + PAGE_BYTES] = body[second : second + PAGE_BYTES]
            changed[second : second + PAGE_BYTES] = body[first : first + PAGE_BYTES]
            path.write_bytes(sealed(data, [*sections(data)[:-1], (head, bytes(changed))]))
            with pytest.raises(pm.StateError):
                pm.Machine.load(path)


def test_a_forged_policy_leads_to_no_node_that_is_not_there(bound: bytes, tmp_path: Path) -> None:
    assert len(policies(bound)) == 4  # of the task, of the object, and of both mappings
    path = tmp_path / "machine"
    for k, at in policies(bound):
        for offset, size, value in [(0, 2, 9), (4, 4, 64), (8, 8, 0), (8, 8, 8)]:
            parts = sections(bound)
            head, body = parts[k]
            value_of = value.to_bytes(size, "little")
            parts[k] = (head, body[: at + offset] + value_of + body[at + offset + size :])
            path.write_bytes(sealed(bound, parts))
            with pytest.raises(pm.StateError, match="policy"):
                pm.Machine.load(path)
    seed, until = SEED, time.monotonic() + SECONDS / 2
    while seed <= SEED + 5 or time.monotonic() < until:
        ended = child(path, forged_policy(bound, random.Random(seed)))
        assert ended == 0, f"FUZZ_SEED={seed} shows it again: {ended}"
        seed += 1


def test_the_checksum_is_the_one_of_the_files(saved: bytes) -> None:
    assert sealed(saved, sections(saved)) == saved
    assert xxh64(b"") == 0xEF46DB3751D8E999  # from the specification


def test_damage_is_refused(saved: bytes, tmp_path: Path) -> None:
    draw, until, tried = random.Random(SEED), time.monotonic() + SECONDS, 0
    path = tmp_path / "machine"
    while tried <= 20 or time.monotonic() < until:
        data = bytearray(saved)
        at = draw.randrange(len(data))
        match draw.randrange(4):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at : at + 8] = draw.choice(WILD).to_bytes(8, "little")
            case 3:
                del data[at : at + draw.randrange(1, 5000)]
        if data == saved:
            continue
        path.write_bytes(data)
        with pytest.raises((pm.StateError, MemoryError)) as refused:
            pm.Machine.load(path)
        assert is_printable(str(refused.value))
        tried += 1


@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="`make fuzz-files` does it")
def test_forgeries_crash_nothing(saved: bytes, tmp_path: Path) -> None:
    seed, until = SEED, time.monotonic() + 2 * SECONDS
    while seed <= SEED + 5 or time.monotonic() < until:
        ended = child(tmp_path / "machine", forged(saved, random.Random(seed)))
        assert ended == 0, f"FUZZ_SEED={seed} shows it again: {ended}"
        seed += 1


def test_arrays_of_a_machine_that_another_takes_the_place_of_live_on(
    saved: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "machine"
    path.write_bytes(saved)
    state = pm.Machine.load(path).frames.state
    assert int(np.count_nonzero(state)) > 20
