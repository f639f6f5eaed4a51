"""Kernel profiles: one frozen table of switches per kernel, nothing else.

A profile says where a kernel differs from earlier and later ones; everything else is common.  The
core reads most switches (those with the names of fields of its ``profile_t``); Python reads the
others.  The behaviour of 2.6.18, 6.1, 6.12 and 6.18 was recorded (docs/fidelity.md); docs/model.md
explains the names.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields, replace
from textwrap import wrap
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pagemig._core import PROFILE, PVEC_LARGEST
from pagemig.constants import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
)

__all__ = ["DEFAULT_KERNEL", "KERNELS", "KernelProfile", "kernel_profile"]

_LARGEST: Final = (1 << 32) - 1


#: Calls that a kernel may lack, as the core numbers them.
_CALL_BITS: Final = {
    "mbind": 1,
    "set_mempolicy": 2,
    "get_mempolicy": 4,
    "migrate_pages": 8,
    "move_pages": 16,
    "set_mempolicy_home_node": 32,
    "mlock2": 64,
    "fallocate": 128,
    "io_uring_setup": 256,
}


def _doc(text: str) -> dict[str, Any]:
    return {"doc": text}


def _checked(
    default: int, doc: str, range_: tuple[int, int] = (0, 1), *, core: bool = False
) -> Any:
    """Declare a number that is refused outside ``range_``, both ends included."""
    return field(default=default, metadata={**_doc(doc), "range": range_, "core": core})


def _switch(default: int, doc: str, range_: tuple[int, int] = (0, 1)) -> Any:
    """Declare a switch that the core reads: a field of the same name and place in ``profile_t``."""
    return _checked(default, doc, range_, core=True)


#: Switches that a mechanism needs.
_NEEDS: Final = {
    "engine": ("swap", "plain_entries", "counts_drop", "check_range"),
    "counts_drop": ("plain_entries",),
    "plain_entries": ("counts_drop",),
    "four_lists": ("counts_drop", "check_range"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelProfile:
    """What one kernel does differently."""

    # A switch is declared and documented here, and named in profile_t (mm/types.pxd) at the same
    # place; the import fails where the two disagree.
    name: str = field(
        metadata=_doc(
            "As given to ``Machine(kernel=...)``.",
        )
    )
    stands_for: str = field(
        metadata=_doc(
            "The kernels this profile answers for.",
        )
    )
    engine: int = _switch(
        0,
        "0: migration entries (2.6.18 and later, and -mm before), 1: swap entries "
        "(2.6.16, 2.6.17).",
    )
    passes: int = _switch(
        10,
        "Passes over the pages that are left: 10 (2.6.18 through 6.2, one page at a "
        "time), 7 (6.3 and later, after the asynchronous batch), 11 (2.6.16, 2.6.17).",
        range_=(0, _LARGEST),
    )
    force_pass: int = _switch(
        3,
        "The first pass, counted from 0, that waits for the page lock: 3 through 6.2; 0 "
        "from 6.3 on, where only the asynchronous passes do not wait.",
        range_=(0, _LARGEST),
    )
    writeback_pass: int = _switch(
        3,
        "The same for writeback: 1 (2.6.16, 2.6.17), 3 (2.6.18 through 6.2), 0.",
        range_=(0, _LARGEST),
    )
    batch: int = _switch(
        1,
        "Pages unmapped before one TLB flush: 1 through 6.2, 512 from 6.3 on. With more "
        "than 1 and ``async_first=0`` a migration never waits, as for the asynchronous "
        "callers of 6.3.",
        range_=(1, _LARGEST),
    )
    async_first: int = _switch(
        0,
        "1 from 6.3 on: a synchronous caller first tries a whole batch without waiting, "
        "then the rest of it page by page.",
    )
    async_passes: int = _switch(
        0,
        "Passes of that first try: 3.",
        range_=(0, _LARGEST),
    )
    copy_first: int = _switch(
        0,
        "1: the page is copied before the reference count is frozen (6.11, 6.12 and later).",
    )
    untouched_enoent: int = _switch(
        0,
        "move_pages' status of untouched anonymous memory: 0 ``-EFAULT`` (4.3 through "
        "6.11), 1 ``-ENOENT`` (before 4.3 and from 6.12 on).",
    )
    mbind_ilx: int = _switch(
        0,
        "mbind's target of a page: 0 from the mapping found by scanning the range "
        "(through 6.6), 1 from the policy and the page's index (6.7 and later); also "
        "the inode number added to the index of shared memory when it is migrated.",
    )
    isolate_counts: int = _switch(
        0,
        "1: pages that could not be isolated count as failed (6.7 and later).",
    )
    migrate_unlocked: int = _switch(
        0,
        "1: mbind and migrate_pages release mmap_lock before they migrate the pages they "
        "collected (6.7 and later).",
    )
    weighted: int = _switch(
        0,
        "1: ``MPOL_WEIGHTED_INTERLEAVE`` exists (6.9 and later).",
    )
    balancing_many: int = _switch(
        0,
        "1: ``MPOL_F_NUMA_BALANCING`` also with ``MPOL_PREFERRED_MANY`` (by 6.12); else "
        "with ``MPOL_BIND`` only (5.12 and later).",
    )
    fault_around: int = _switch(
        16,
        "Cached pages that a read fault of a file maps around itself: 16 (3.15 and later).",
        range_=(0, _LARGEST),
    )
    pagevec: int = _switch(
        15,
        "Pages a processor collects before it removes them from the count of locked pages: "
        "15 (5.18 and later), 31 (6.10 and later). Until then they look locked, and "
        "have one reference more. 1 (at once) in the kernels of 2006, which do not count "
        "locked pages.",
        range_=(1, PVEC_LARGEST),
    )
    pcp_bulk: int = _switch(
        0,
        "0: the pages between a node's low and min watermarks are left to callers that "
        "accept no other node. 1: the processor that filled the node has them on its "
        "own list (6.7 and later, where these lists grow).",
    )
    ahead_is_minor: int = _switch(
        0,
        "1: a fault that only starts read-ahead is minor. 0: it is major, since it "
        "releases mmap_lock and starts again (5.1 through 6.5; from 6.6 on it holds the "
        "lock of its VMA instead).",
    )
    gup_checks_files: int = _switch(
        0,
        "Registering buffers. 0: all mappings must be of one file or of none, else "
        "``-EINVAL``, and a file on a disk is ``-EOPNOTSUPP`` (through 6.4). 1: a shared "
        "mapping of a file on a disk is ``-EFAULT``, all other memory may be pinned (6.5 and "
        "later).",
    )
    populate_whole: int = _switch(
        0,
        "1: ``MADV_POPULATE_*`` ends at the first hole of its range, and a page that had to be "
        "read is a major fault, since the fault is retried inside the call (6.9 and later). 0: it "
        "skips holes, and starts again after reading, which then is a minor fault.",
    )
    mprotect_unaccounts: int = _switch(
        0,
        "1: untouched anonymous memory is no longer accounted once it is not writable, and "
        "then merges with mappings that never were (6.6 and later).",
    )
    pin_fast: int = _switch(
        0,
        "1: registering buffers takes pages by their page-table entries alone as far as it can. "
        "From the first page that it cannot take, it looks at mappings and marks pages dirty "
        "(6.12; not in 6.1).",
    )
    mmap_joins_left: int = _switch(
        0,
        "A new mapping between two that it could merge with, but that cannot merge with each "
        "other, joins the left one (1: 6.12 and later) or the right one (0).",
    )
    merge_faulted: int = _switch(
        0,
        "1: a mapping with pages of its own merges with a neighbour that has none, unless its "
        "pages came by fork (6.16 and later).",
    )
    mremap_many: int = _switch(
        0,
        "1: mremap to a fixed place moves a range of several mappings, and finds an invalid "
        "source before it unmaps the target (6.17 and later). 0: ``-EFAULT`` beyond the first "
        "mapping, with the target unmapped.",
    )
    zap_drains: int = _switch(
        1,
        "1: a processor drains the pages that it has collected (``pagevec``) when memory is "
        "unmapped (through 6.13). 0: they wait until its list is full or is drained.",
    )
    ra_uncut: int = _switch(
        0,
        "Where read-ahead puts its mark. 1: by the whole window, so a file that ends inside the "
        "window has none (ext4 from 6.16 on, which reads in large folios). 0: by the part of the "
        "window that is in the file.",
    )
    swap: int = _switch(
        0,
        "1: the machine may have swap devices, and anonymous pages go through a swap "
        "cache. Later kernels have them, too; they are modelled only for the kernels of "
        "2006.",
    )
    four_lists: int = _switch(
        0,
        "1: ``migrate_pages(from, to, moved, failed)`` with targets allocated 257 at a "
        "time before it begins (through 2.6.17); the caller disposes of the pages.",
    )
    plain_entries: int = _switch(
        0,
        "1: a migration entry is READ or WRITE: the accessed bit is lost, the dirty bit "
        "goes to the page, and no entry says that the page was exclusive (through 5.18). "
        "Set together with ``counts_drop``.",
    )
    counts_drop: int = _switch(
        0,
        "1: removing an entry drops its reference and its mapcount at once, and the "
        "remaining references must be those that a migration explains; 0: they are frozen "
        "together.",
    )
    locked_fails: int = _switch(
        0,
        "1: try_to_unmap fails for good with ``-EPERM`` if VM_LOCKED is set (through 2.6.17).",
    )
    locked_skipped: int = _switch(
        0,
        "1: migrate_pages, and mbind with MOVE alone, take no pages from VM_LOCKED "
        "mappings (through 2.6.20), though move_pages and STRICT with MOVE do.",
    )
    waiter_refs: int = _switch(
        0,
        "1: a fault that waits for a migration entry holds a reference on the old page, "
        "and so can make that migration fail (2.6.18 through 5.18).",
    )
    family_anon_vma: int = _switch(
        0,
        "1: a whole fork family shares one anon_vma (through 2.6.33).",
    )
    rss_uncounted: int = _switch(
        0,
        "1: fork and munmap do not count migration entries in the resident set (2.6.18).",
    )
    check_range: int = _switch(
        0,
        "1: mbind and migrate_pages collect with ``check_range``: the lists of all "
        "processors are drained first, a hole counts only between mappings and after the "
        "last of all, and collected pages move even if setting the policy failed half-way "
        "(2.6.16 through 2.6.18).",
    )
    strict_collects: int = _switch(
        0,
        "1: with MOVE and STRICT mbind also takes pages of mappings that cannot be "
        "migrated; 0: they count as failed.",
    )
    busy_ignored: int = _switch(
        0,
        "1: a page that could not be isolated does not count as failed, even with STRICT; "
        "0: ``isolate_counts`` says when it does.",
    )
    shared_nodes_move: int = _switch(
        0,
        "1: migrate_pages with sets of unequal size also empties nodes that are in "
        "both, so that pages may move twice; 0: such a node stays as it is.",
    )
    page_results: int = _switch(
        0,
        "1: a page's target is looked up by its place in the request, its result is "
        "stored there, and a page that failed for good is put back at once (2.6.18, and "
        "while ``new_page_t`` had a result).",
    )
    whole_request: int = _switch(
        0,
        "1: move_pages checks its whole request before it moves a page, migrates all "
        "pages as one list, and stores the statuses at the end (2.6.18 through 2.6.28).",
    )
    first_vma: int = _switch(
        0,
        "1: mbind places all pages by the first mapping of the range (2.6.18 through 2.6.23).",
    )
    arrays: int = _switch(
        0,
        "1: pages and targets go to the engine in arrays, page i to target i, so that "
        "mbind with interleaving and MOVE puts every page of the range on its own node, "
        "including pages inside the node set. No kernel does; the note of 2006 asks for it.",
    )
    this_node: int = _switch(
        0,
        "1: a page goes to the requested node or nowhere (2.6.19 and later); 0: to the "
        "next one when that is full. Read if ``page_results`` is 1.",
    )
    nothing_enoent: int = _switch(
        0,
        "1: move_pages that isolates nothing fails with ``-ENOENT`` (2.6.18 through 2.6.27).",
    )
    zero_enoent: int = _switch(
        0,
        "1: status of the zero page is ``-ENOENT`` (2.6.18 through 2.6.28), else ``-EFAULT``.",
    )
    vma_hooks: int = _switch(
        0,
        "1: migrate_pages calls the ``migrate`` operation of mappings (2.6.18 and later).",
    )
    last_unhooked: int = _switch(
        0,
        "1: but never that of the last mapping (2.6.18 through 2.6.28).",
    )
    truncated_crashes: int = _switch(
        0,
        "1: a truncated page that still has references crashes the walk of the reverse map "
        "(2.6.18 through 2.6.22).",
    )
    mbind_all_misplaced: int = _switch(
        0,
        "1: mbind considers every page of its range misplaced: ``check_pte_range`` compares "
        "``node_isset()``, which answers -1 on x86-64, with 1 (2.6.16 through 2.6.18 on x86-64; "
        "on ia64 it answers 1).",
    )
    range_leaks: int = _switch(
        0,
        "1: if mbind finds a hole after it has collected pages, these stay off the LRU and "
        "referenced for good (2.6.16 through 2.6.18, and some time after).",
    )
    mbind_splits: int = _switch(
        0,
        "1: mbind splits mappings at both ends of its range whatever their policy, and never "
        "merges any (through 2.6.33).",
    )
    dirty_tracking: int = _switch(
        1,
        "1: the first write to a clean page of a shared file mapping faults, which notifies its "
        "file system (2.6.19 and later); 0: a read maps such pages writable, and only the entry "
        "knows that the page is dirty until it is unmapped or moved.",
    )
    anon_exclusive: int = _switch(
        1,
        "1: a page that is marked exclusive to one process is written in place, and fork "
        "copies it if it is pinned (5.19 and later); 0: its references decide.",
    )
    mprotect_keeps: int = _switch(
        1,
        "1: mprotect leaves entries writable that a fault would only make writable again, and "
        "keeps accessed bits (6.1); 0: entries get the mapping's protection, which has the "
        "accessed bit on x86.",
    )
    ino_shifts: int = _switch(
        1,
        "1: shared memory that interleaves adds the object's inode number to the page's offset "
        "(3.6 and later).",
    )
    object_default: int = _switch(
        0,
        "The policy of a mapping of a shared object without one (for copies of private pages, "
        "targets of migration, numa_maps). 1: local memory; 0: the process's policy (2.6.27 and "
        "later).",
    )
    bind_ascending: int = _switch(
        0,
        "1: BIND takes its nodes by rising number (through 2.6.25); 0: the nearest first.",
    )
    il_next: int = _switch(
        0,
        "1: an interleaving process has a cursor, the next node, which page tables and kernel "
        "memory that it allocates advance, too.",
    )
    mlock_marks: int = _switch(
        1,
        "1: pages of locked mappings are marked and counted (2.6.28 and later).",
    )
    mlock_populates: int = _switch(
        0,
        "1: mlock faults in the pages mapping by mapping and ends at the first one that it cannot "
        "get, with EFAULT, or with EPERM after some. It writes to writable mappings, including "
        "shared ones, and counts its whole range against the limit (through 2.6.37).",
    )
    populate_shared: int = _switch(
        0,
        "1: MAP_POPULATE fills only shared mappings, and those only within their object "
        "(through 2.6.22).",
    )
    advice_most: int = _switch(
        24,
        "The largest advice that madvise knows: 11 through 2.6.31. If it is 11, a hole is "
        "reported before an unknown advice, and WILLNEED on anonymous memory is EBADF.",
        (11, 24),
    )
    remove_loops: int = _switch(
        0,
        "1: MADV_REMOVE does not record which mapping it has done: a call that begins where a "
        "mapping begins never returns if another mapping follows. It also drops private copies "
        "(2.6.16 through 2.6.18).",
    )
    mremap_adjusts: int = _switch(
        0,
        "1: mremap looks at no mapping if nothing grows or moves, and a mapping that grows in "
        "place does not merge (through 2.6.32).",
    )
    swap_cluster: int = _switch(
        0,
        "log2 of the slots that are read at once from a swap device: 3.",
        (0, 5),
    )
    node_map_overrun: int = _switch(
        0,
        "1: move_pages does not check a node number against the end of the node map: EACCES "
        "through 127, where the map of possible nodes follows, and a crash far beyond (2.6.18 "
        "through 2.6.28).",
    )
    memlock: int = _switch(
        8 << 20,
        "Bytes an unprivileged process may lock: 32 KiB through 2.6.30, 64 KiB through 5.15, "
        "then 8 MiB.",
        (0, _LARGEST),
    )
    max_nodes: int = _switch(
        1024,
        "Nodes that the kernel is built for: masks may name no other. If it is 64, the mask of "
        "get_mempolicy must have room for them.",
        range_=(64, 1024),
    )
    mode_separator: str = field(
        default=":",
        metadata=_doc("The text between mode and nodes in ``numa_maps``: ``=`` through 2.6.25."),
    )
    pagemap: int = _checked(
        1,
        "1: ``/proc/PID/pagemap`` exists (2.6.25 and later), and with it ``kpagecount`` and "
        "counters of migration. Recordings of older kernels were read from the machine's memory.",
    )
    subset_nodes: int = _switch(
        0,
        "1: a node set with an absent node is EINVAL (through 2.6.23); 0: that node is left out.",
    )
    absent_targets: int = _switch(
        0,
        "Absent nodes in migrate_pages' target set: 0 they are left out, 1 the call is "
        "EINVAL, 2 they are taken, and the kernel crashes if a page would go there "
        "(through 2.6.22).",
        range_=(0, 2),
    )
    uid_access: int = _switch(
        0,
        "1: permission to move another process's pages is that to signal it (through 4.12); "
        "0: that to ptrace it.",
    )
    zero_weight: int = _checked(
        0,
        "1: writing weight 0 restores the default (6.9 through 6.15); 0: it is ``-EINVAL``.",
    )
    interleave_bits: int = _checked(
        32,
        "Bits of the page number that decide the interleave node: 32 through 6.6, 64 from "
        "6.7 on. The core knows it from ``mbind_ilx``.",
        range_=(32, 64),
    )
    modes: frozenset[int] = field(
        metadata=_doc(
            "Policy modes the calls know; others are EINVAL. LOCAL since 3.8, "
            "PREFERRED_MANY since 5.15, WEIGHTED_INTERLEAVE since 6.9.",
        )
    )
    get_flags: int = field(
        default=MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED,
        metadata={"core": True} | _doc("Flags get_mempolicy knows: MEMS_ALLOWED since 2.6.23."),
    )
    mode_flags: int = field(
        metadata={"core": True}
        | _doc(
            "Mode flags the calls know: STATIC and RELATIVE since 2.6.26, NUMA_BALANCING "
            "since 5.12.",
        )
    )
    calls: frozenset[str] = field(
        metadata=_doc(
            "The optional system calls that this kernel has; the others are ENOSYS. "
            "move_pages since 2.6.18, fallocate since 2.6.23, mlock2 since 4.4, io_uring_setup "
            "since 5.1, set_mempolicy_home_node since 5.17.",
        )
    )
    mode_names: Mapping[int, str] = field(
        metadata=_doc(
            "The kernel's text for a mode in ``numa_maps``.",
        )
    )

    def __post_init__(self) -> None:
        """Refuse values out of range, and switches that lack those they need."""
        for one in fields(self):
            if "range" in one.metadata:
                _check_number(one.name, getattr(self, one.name), *one.metadata["range"])
        if not isinstance(self.calls, Set):
            raise TypeError(f"calls must be a set of names, not {self.calls!r}")
        for needs, wanted in _NEEDS.items():
            lacking = [switch for switch in wanted if not getattr(self, switch)]
            if getattr(self, needs) and lacking:
                raise ValueError(f"{needs}={getattr(self, needs)} needs {', '.join(lacking)}")
        if self.four_lists and (self.arrays or "move_pages" in self.calls):
            raise ValueError(f"four_lists={self.four_lists} needs neither arrays nor move_pages")
        if self.batch > 1 and self.counts_drop:
            raise ValueError(f"batch={self.batch} needs counts_drop=0")

    @property
    def call_mask(self) -> int:
        """The bits of ``calls``."""
        return sum(bit for name, bit in _CALL_BITS.items() if name in self.calls)

    @property
    def mode_mask(self) -> int:
        """Bit ``m`` for each mode m of ``modes``."""
        return sum(1 << mode for mode in self.modes)

    def record(self) -> npt.NDArray[np.void]:
        """Return the switches that the core reads as its ``profile_t``."""
        return np.array(tuple(getattr(self, name) for name in _RECORD.names or ()), _RECORD)

    def balancing_modes(self) -> frozenset[int]:
        """Return the modes that ``MPOL_F_NUMA_BALANCING`` may be combined with."""
        if not self.mode_flags & MPOL_F_NUMA_BALANCING:
            return frozenset()
        many = {MPOL_PREFERRED_MANY} if self.balancing_many else set()
        return frozenset({MPOL_BIND} | many)


def _check_number(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not least <= value <= most:
        span = "0 or 1" if (least, most) == (0, 1) else f"from {least} to {most}"
        raise ValueError(f"{name} must be {span}, not {value}")


def _documented() -> str:
    """Return the class's docstring with its fields as attributes."""
    lines = [KernelProfile.__doc__ or "", "", "Attributes", "----------"]
    for one in fields(KernelProfile):
        core = "*core*.  " if one.metadata.get("core") else ""
        lines.append(f"{one.name} : {getattr(one.type, '__name__', one.type)}")
        lines += [f"    {line}" for line in wrap(core + one.metadata["doc"], 92)]
    return "\n".join(lines) + "\n"


KernelProfile.__doc__ = _documented()

_SWITCHES: Final = [one.name for one in fields(KernelProfile) if one.metadata.get("core")]
_RECORD: Final = np.dtype([(name, np.uint32) for name in [*_SWITCHES, "call_mask", "mode_mask"]])
if _RECORD != PROFILE:
    raise ImportError(
        f"the switches of kernels.py {_RECORD.names} are not those of profile_t {PROFILE.names}:"
        " build again (make build)"
    )


_MODES_6_1: Final = frozenset(
    {
        MPOL_DEFAULT,
        MPOL_PREFERRED,
        MPOL_BIND,
        MPOL_INTERLEAVE,
        MPOL_LOCAL,
        MPOL_PREFERRED_MANY,
    }
)

_MODE_NAMES_6_1: Final = MappingProxyType(
    {
        MPOL_DEFAULT: "default",
        MPOL_PREFERRED: "prefer",
        MPOL_BIND: "bind",
        MPOL_INTERLEAVE: "interleave",
        MPOL_LOCAL: "local",
        MPOL_PREFERRED_MANY: "prefer (many)",
    }
)

_CALLS_6_1: Final = frozenset(
    {
        "mbind",
        "set_mempolicy",
        "get_mempolicy",
        "migrate_pages",
        "move_pages",
        "set_mempolicy_home_node",
        "fallocate",
        "mlock2",
        "io_uring_setup",
    }
)

_ALL_MODE_FLAGS: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING

_LINUX_6_1: Final = KernelProfile(
    name="6.1",
    stands_for="Linux 6.1 to 6.2: one page at a time; recorded on 6.1.192",
    modes=_MODES_6_1,
    mode_flags=_ALL_MODE_FLAGS,
    calls=_CALLS_6_1,
    mode_names=_MODE_NAMES_6_1,
)

_LINUX_6_12: Final = KernelProfile(
    name="6.12",
    stands_for="Linux 6.12: unmap a batch, flush once, move; recorded on 6.12.107",
    passes=7,
    force_pass=0,
    batch=512,
    async_first=1,
    async_passes=3,
    writeback_pass=0,
    copy_first=1,
    untouched_enoent=1,
    mbind_ilx=1,
    isolate_counts=1,
    migrate_unlocked=1,
    pagevec=31,
    pcp_bulk=1,
    ahead_is_minor=1,
    gup_checks_files=1,
    populate_whole=1,
    mprotect_unaccounts=1,
    pin_fast=1,
    mmap_joins_left=1,
    weighted=1,
    balancing_many=1,
    zero_weight=1,
    interleave_bits=64,
    modes=_MODES_6_1 | {MPOL_WEIGHTED_INTERLEAVE},
    mode_flags=_ALL_MODE_FLAGS,
    calls=_CALLS_6_1,
    mode_names=MappingProxyType(
        {**_MODE_NAMES_6_1, MPOL_WEIGHTED_INTERLEAVE: "weighted interleave"}
    ),
)

_LINUX_6_18: Final = replace(
    _LINUX_6_12,
    name="6.18",
    stands_for="Linux 6.18: as 6.12, with other rules for merging and mremap; recorded on 6.18.15",
    merge_faulted=1,
    mremap_many=1,
    zap_drains=0,
    ra_uncut=1,
    zero_weight=0,
)

# ---- the kernels of 2006 ----------------------------------------------------------------------
# What is not listed is today's memory management: fork, faults, mprotect and the like.

_MODES_2006: Final = frozenset({MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE})

_CALLS_2_6_17: Final = frozenset({"mbind", "set_mempolicy", "get_mempolicy", "migrate_pages"})

_LINUX_2_6_17: Final = KernelProfile(
    name="2.6.17",
    stands_for='Linux 2.6.16 and 2.6.17, the note\'s "Linus tree": swap entries',
    engine=1,
    passes=11,
    writeback_pass=1,
    untouched_enoent=1,
    ahead_is_minor=1,
    fault_around=1,
    pagevec=1,
    swap=1,
    four_lists=1,
    plain_entries=1,
    counts_drop=1,
    locked_fails=1,
    locked_skipped=1,
    family_anon_vma=1,
    check_range=1,
    range_leaks=1,
    mbind_splits=1,
    dirty_tracking=0,
    anon_exclusive=0,
    mprotect_keeps=0,
    ino_shifts=0,
    object_default=1,
    bind_ascending=1,
    il_next=1,
    mlock_marks=0,
    mlock_populates=1,
    populate_shared=1,
    advice_most=11,
    remove_loops=1,
    mremap_adjusts=1,
    swap_cluster=3,
    max_nodes=64,
    memlock=32 << 10,
    mode_separator="=",
    get_flags=MPOL_F_NODE | MPOL_F_ADDR,
    pagemap=0,
    strict_collects=1,
    busy_ignored=1,
    shared_nodes_move=1,
    subset_nodes=1,
    absent_targets=2,
    uid_access=1,
    modes=_MODES_2006,
    mode_flags=0,
    calls=_CALLS_2_6_17,
    # A policy of no nodes is stored as PREFERRED; the core calls it LOCAL.
    mode_names=MappingProxyType({**_MODE_NAMES_6_1, MPOL_LOCAL: "prefer"}),
)

_LINUX_2_6_17_MM: Final = replace(
    _LINUX_2_6_17,
    name="2.6.17-mm",
    stands_for="2.6.17-rc3-mm1, the note's \"Andrew's tree\": migration entries, four lists",
    engine=0,
    waiter_refs=1,
    rss_uncounted=1,
)

_LINUX_2_6_18_IA64: Final = replace(
    _LINUX_2_6_17_MM,
    name="2.6.18-ia64",
    stands_for="Linux 2.6.18 on ia64, the note's kind of machine: mbind as documented",
    passes=10,
    writeback_pass=3,
    four_lists=0,
    locked_fails=0,
    page_results=1,
    whole_request=1,
    first_vma=1,
    nothing_enoent=1,
    zero_enoent=1,
    vma_hooks=1,
    last_unhooked=1,
    truncated_crashes=1,
    node_map_overrun=1,
    calls=_CALLS_2_6_17 | {"move_pages"},
)

_LINUX_2_6_18_X86: Final = replace(
    _LINUX_2_6_18_IA64,
    name="2.6.18",
    stands_for="Linux 2.6.18 on x86-64: what was merged, with its bugs; recorded",
    mbind_all_misplaced=1,
)

_PMIG: Final = replace(
    _LINUX_2_6_18_IA64,
    name="pmig",
    stands_for="no kernel: the note's five patches and its future work, finished, without bugs",
    locked_skipped=0,
    rss_uncounted=0,
    first_vma=0,
    arrays=1,
    range_leaks=0,
    remove_loops=0,
    node_map_overrun=0,
    this_node=1,
    nothing_enoent=0,
    zero_enoent=0,
    last_unhooked=0,
    truncated_crashes=0,
    absent_targets=1,
)

#: Profile by name, oldest kernel first; ``pmig`` stands where its patches do.
KERNELS: Final[Mapping[str, KernelProfile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _LINUX_2_6_17,
            _LINUX_2_6_17_MM,
            _LINUX_2_6_18_IA64,
            _LINUX_2_6_18_X86,
            _PMIG,
            _LINUX_6_1,
            _LINUX_6_12,
            _LINUX_6_18,
        )
    }
)

DEFAULT_KERNEL: Final = "6.1"


def kernel_profile(kernel: str | KernelProfile) -> KernelProfile:
    """Return the profile of a kernel by name; a profile is returned as it is.

    Parameters
    ----------
    kernel : str or KernelProfile
        A key of ``KERNELS``, or a profile of one's own (``dataclasses.replace`` of one of these).

    Raises
    ------
    ValueError
        No profile has that name; the text lists those that exist.
    TypeError
        Neither a name nor a profile.
    """
    if isinstance(kernel, KernelProfile):
        return kernel
    if not isinstance(kernel, str):
        raise TypeError(f"kernel must be a name or a KernelProfile, not {kernel!r}")
    try:
        return KERNELS[kernel]
    except KeyError:
        known = ", ".join(KERNELS)
        raise ValueError(f"kernel {kernel!r} is not known; known are: {known}") from None
