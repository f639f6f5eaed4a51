"""Why a call was refused: the core answers a number, errors.py has the sentence."""

import re
from pathlib import Path

import pytest

import pagemig as pm
from pagemig.errors import RULES, errno_of, raise_errno

NUMBERS = Path(pm.__file__).with_name("mm") / "rules.pxd"


def test_every_rule_has_a_sentence() -> None:
    numbers = dict(re.findall(r"RULE_(\w+) = (\d+)", NUMBERS.read_text()))
    assert sorted(map(int, numbers.values())) == [0, *sorted(RULES)]


def test_one_number_holds_errno_and_rule() -> None:
    assert errno_of(-22) == 22
    assert errno_of(-(26 << 12 | 22)) == 22
    with pytest.raises(OSError) as caught:
        raise_errno(-(26 << 12 | 22), "call", words={"node": 7})
    assert caught.value.errno == 22
    assert caught.value.__notes__ == ["there is no node 7 on this machine"]


def test_the_core_says_which_rule_it_was() -> None:
    """Raw arguments, no method of a process in between."""
    app = pm.Machine([pm.Node("1MiB", cpus=1), "1MiB"]).spawn()
    node_1 = (2).to_bytes(8, "little")
    base = app.mmap(pm.PAGE_SIZE)
    refused = {
        (22, 13): app._mbind(base + 1, pm.PAGE_SIZE, 2, node_1, 65, 0),
        (22, 12): app._mbind(base, pm.PAGE_SIZE, 2, node_1, 65, 8),
        (22, 7): app._mbind(base, pm.PAGE_SIZE, 99, node_1, 65, 0),
        (22, 18): app._set_mempolicy(2, None, 0),
        (22, 16): app._set_mempolicy(2, (4).to_bytes(8, "little"), 65),
        (14, 0): app._set_mempolicy(2, b"", 65),
        (22, 10): app._set_mempolicy(2, node_1, 40000),
        (22, 6): app._migrate_pages(0, 65, node_1, (4).to_bytes(8, "little")),
        (3, 0): app._migrate_pages(77, 65, node_1, node_1),
        (22, 3): app._move_pages(2, 0, None, None, None, 0),
        (22, 1): app._move_pages(0, 0, None, None, None, 16),
        (22, 26): app._set_mempolicy_home_node(base, pm.PAGE_SIZE, 9, 0),
        (22, 22): app._get_mempolicy(None, None, 0, 0, 5),
        (22, 27): app._mmap(0, 0, 3, 0x22, 0, 0),
        (22, 28): app._mmap(0, pm.PAGE_SIZE, 3, 0x22, 0, 1),
        (17, 30): app._mmap(base, pm.PAGE_SIZE, 3, 0x100022, 0, 0),
        (22, 34): app._mprotect(base, pm.PAGE_SIZE, 64),
        (12, 35): app._mprotect(base, 2 * pm.PAGE_SIZE, 1),
        (22, 38): app._mlock(base, pm.PAGE_SIZE, 2),
        (22, 39): app._mlockall(4),
        (22, 41): app._madvise(base, pm.PAGE_SIZE, 99),
        (22, 43): app._mremap(base, pm.PAGE_SIZE, pm.PAGE_SIZE, 2, 0),
        (22, 44): app._mremap(base, pm.PAGE_SIZE, 0, 5, 0),
        (9, 52): app._unpin(7),
        (14, 53): app._vm_ops(0, 0),
    }
    assert list(refused) == [(errno_of(rc), -rc >> 12) for rc in refused.values()]


def test_files_devices_and_users_are_refused_by_a_rule() -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1, reserved="64KiB"), "1MiB"])
    app = machine.spawn(uid=1)
    app.limit_memlock(pm.PAGE_SIZE)
    base = app.mmap(2 * pm.PAGE_SIZE)
    ramfs = machine.file("ramfs", pm.PAGE_SIZE).index
    refused = {
        (1, 51): app._setuid(2, 2, False),
        (12, 36): app._mlock(base, 2 * pm.PAGE_SIZE, 0),
        (27, 46): app._ftruncate(ramfs, 1 << 33),
        (95, 47): app._punch(ramfs, 0, 1),
        (22, 48): machine._swapoff(0),
        (16, 50): machine._evacuate(0, 0, 1, 2, 1, 0, None)[0],
    }
    assert list(refused) == [(errno_of(rc), -rc >> 12) for rc in refused.values()]
    app.limit_memlock(0)
    assert (errno_of(app._mlock(base, 1, 0)), -app._mlock(base, 1, 0) >> 12) == (1, 37)


def test_a_call_that_the_kernel_lacks_is_refused_by_a_rule() -> None:
    machine = pm.Machine([pm.Node("1MiB", cpus=1)], kernel="2.6.17", swap=["64KiB"])
    app = machine.spawn()
    base = app.mmap(pm.PAGE_SIZE)
    file = machine.file("tmpfs", pm.PAGE_SIZE).index
    calls = (
        app._mlock(base, 1, 1),
        app._punch(file, 0, 1),
        app._pin(base, 1, True)[0],
        app._move_pages(0, 0, None, None, None, 0),
    )
    assert [(errno_of(rc), -rc >> 12) for rc in calls] == [(38, 29)] * 4
    with pytest.raises(OSError, match="mlock2: ENOSYS") as caught:
        app.mlock(base, 1, onfault=True)
    assert caught.value.__notes__ == ["Linux 2.6.17 has no such call"]
    machine.swapoff(0)
    assert (errno_of(machine._swapoff(0)), -machine._swapoff(0) >> 12) == (22, 48)
    machine.swapon(0)
    assert (errno_of(machine._swapon(0)), -machine._swapon(0) >> 12) == (16, 49)
