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
    }
    assert list(refused) == [(errno_of(rc), -rc >> 12) for rc in refused.values()]
