"""Kernel profiles: one frozen table of switches per kernel, nothing else.

A profile says where a kernel differs from its neighbours in time; everything not listed here is
common.  Half of the switches are read by the core (they have the names of the fields of its
``profile_t``), the other half by the system calls in Python.  What 6.1 and
6.12 do was recorded (docs/fidelity.md); docs/model.md explains the names.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Final

from pagemig.constants import (
    MPOL_BIND,
    MPOL_DEFAULT,
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

_CORE: Final = MappingProxyType({"core": True})


#: Calls that a kernel may lack, as the core numbers them.
_CALL_BITS: Final = {
    "mbind": 1,
    "set_mempolicy": 2,
    "get_mempolicy": 4,
    "migrate_pages": 8,
    "move_pages": 16,
    "set_mempolicy_home_node": 32,
}

#: What the engine of swap entries, and the lists of before 2.6.18, are made for.
_SWAP_ENTRIES: Final = ("swap", "plain_entries", "counts_drop", "rules_2006")
_FOUR_LISTS: Final = ("rules_2006",)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelProfile:
    """What one kernel does differently.

    Fields marked *core* are passed to the core as integers.

    Attributes
    ----------
    name : str
        As given to ``Machine(kernel=...)``.
    stands_for : str
        The kernels this profile answers for.
    engine : int
        *core*.  0: migration entries (2.6.18 and later, and -mm before), 1: swap entries (2.6.16,
        2.6.17).
    passes : int
        *core*.  Passes over what is left of a migration: 10 (2.6.18 to 6.2, one page at a time), 7
        (6.3 and later, after the asynchronous batch), 11 (2.6.16, 2.6.17).
    force_pass : int
        *core*.  From this pass on, counted from 0, the page lock is waited for: 3 to 6.2; 0 from
        6.3 on, where the passes without waiting are the asynchronous ones.
    writeback_pass : int
        *core*.  The same for writeback: 1 (2.6.16, 2.6.17), 3 (2.6.18 to 6.2), 0.
    batch : int
        *core*.  Pages unmapped before one TLB flush: 1 to 6.2, 512 from 6.3 on.
    async_first : int
        *core*.  1 from 6.3 on: a synchronous caller first tries the whole list without waiting.
    async_passes : int
        *core*.  Passes of that first try: 3.
    copy_first : int
        *core*.  1: the page is copied before the reference count is frozen (6.11, 6.12 and later).
    untouched_enoent : int
        *core*.  Status of anonymous memory never touched in move_pages: 0 ``-EFAULT`` (4.3 to
        6.11), 1 ``-ENOENT`` (before 4.3 and from 6.12 on).
    mbind_ilx : int
        *core*.  mbind's target of a page: 0 from the mapping found by scanning the range (to 6.6),
        1 from the policy and the page's index (6.7 and later); also the inode number added to the
        index of shared memory when it is migrated.
    isolate_counts : int
        *core*.  1: pages that could not be isolated count as failed (6.7 and later).
    migrate_unlocked : int
        *core*.  1: mbind and migrate_pages give mmap_lock back before they migrate what they
        collected (6.7 and later).
    pagevec : int
        *core*.  Pages a processor collects before it takes them off the count of locked ones: 15
        (5.18 and later), 31 (6.10 and later).  Until then they look locked, and hold one reference
        more.  1, at once, in the kernels of 2006: there locked pages are not counted.
    pcp_bulk : int
        *core*.  0: what a node has between its low watermark and the lowest is left to callers that
        take no other node.  1: the processor that filled the node has it on its own list (6.7 and
        later, where these lists grow).
    ahead_is_minor : int
        *core*.  1: a fault that only starts read-ahead is minor; 0: major, since it gives mmap_lock
        up for that and begins again (5.1 to 6.5; from 6.6 on it holds the lock of its VMA instead).
    gup_checks_files : int
        *core*.  Registering buffers over files on a disk: 0 ``-EOPNOTSUPP`` for every mapping (to
        6.4), 1 ``-EFAULT`` for shared ones, while private ones may be pinned (6.5 and later).
    populate_whole : int
        *core*.  1: ``MADV_POPULATE_*`` ends at the first hole of its range (6.9 and later); 0:
        passes over it.
    mprotect_unaccounts : int
        *core*.  1: anonymous memory nothing was written to is no longer accounted for once it
        cannot be written, and merges with mappings that never were (6.6 and later).
    swap : int
        *core*.  1: the machine may have swap devices, and anonymous pages go through a swap cache.
        Later kernels have them too; here they are part of the kernels of 2006 only.
    four_lists : int
        *core*.  1: ``migrate_pages(from, to, moved, failed)`` with targets allocated 257 at a time
        before it begins (to 2.6.17); the caller disposes of the pages.
    plain_entries : int
        *core*.  1: a migration entry is READ or WRITE: the accessed bit is lost, dirtiness goes to
        the page, no entry says that the page was exclusive (to 5.18).
    counts_drop : int
        *core*.  1: with each entry a page loses its reference and its mapcount at once, and the
        references left must be the ones a migration explains; 0: they are frozen together.
    locked_fails : int
        *core*.  1: try_to_unmap fails for good where VM_LOCKED is set, ``-EPERM`` (to 2.6.17).
    locked_skipped : int
        *core*.  1: migrate_pages and mbind with MOVE alone take nothing from VM_LOCKED mappings (to
        2.6.20), though move_pages and STRICT with MOVE do.
    waiter_refs : int
        *core*.  1: who waits for a migration entry holds a reference on the old page, and so can
        make the migration fail that it waits for (2.6.18 to 5.18).
    family_anon_vma : int
        *core*.  1: a whole fork family shares one anon_vma (to 2.6.33).
    truncate_leaves : int
        *core*.  1: truncation passes over entries that are no pages, and what was on the move stays
        mapped though it no longer belongs to the file (to 2.6.22).
    rss_uncounted : int
        *core*.  1: fork and munmap do not count migration entries in the resident set (2.6.18).
    rules_2006 : int
        *core*.  1: mbind, migrate_pages and move_pages check, collect and answer as in 2006.
    first_vma : int
        *core*.  1: mbind places all pages by the first mapping of the range (2.6.18 to 2.6.23).
    arrays : int
        *core*.  1: pages and targets go to the engine in arrays, page i to target i, so that mbind
        with interleaving and MOVE puts every page of the range on its own node, those inside the
        node set too.  No kernel does; the note of 2006 asks for it.
    this_node : int
        *core*.  1: a page goes to the node that was asked for or nowhere (2.6.19 and later); 0: to
        the next one when that is full.  Read where ``rules_2006`` is 1.
    nothing_enoent : int
        *core*.  1: move_pages that isolates nothing fails with ``-ENOENT`` (2.6.18 to 2.6.27).
    zero_enoent : int
        *core*.  1: status of the zero page is ``-ENOENT`` (2.6.18 to 2.6.28), else ``-EFAULT``.
    vma_hooks : int
        *core*.  1: migrate_pages calls the ``migrate`` operation of mappings (2.6.18 and later).
    last_unhooked : int
        *core*.  1: but never that of the last mapping (2.6.18 to 2.6.28).
    truncated_crashes : int
        *core*.  1: a truncated page that somebody still holds crashes the reverse map walk (2.6.18
        to 2.6.22).
    subset_nodes : bool
        A node set with a node that is not there is EINVAL (to 2.6.23), else that node is left out.
    absent_targets : bool
        migrate_pages takes a target node that is not there, and crashes where a page would go there
        (to 2.6.22).  Read where ``rules_2006`` is 1.
    uid_access : bool
        Who may move whose pages is asked as for a signal (to 4.12), else as for ptrace.
    interleave_bits : int
        Bits of the page number that decide the interleave node: 32 to 6.6, 64 from 6.7 on.  The
        core knows it from ``mbind_ilx``.
    weighted : int
        *core*.  1: ``MPOL_WEIGHTED_INTERLEAVE`` exists (6.9 and later).
    balancing_many : int
        *core*.  1: ``MPOL_F_NUMA_BALANCING`` also with ``MPOL_PREFERRED_MANY`` (by 6.12); else
        with ``MPOL_BIND`` only (5.12 and later).
    fault_around : int
        *core*.  Pages a read fault of a file maps around itself where they are cached: 16 (3.15
        and later).
    modes : frozenset of int
        Policy modes the calls know; others are EINVAL.  LOCAL since 3.8, PREFERRED_MANY since 5.15,
        WEIGHTED_INTERLEAVE since 6.9.
    mode_flags : int
        Mode flags the calls know: STATIC and RELATIVE since 2.6.26, NUMA_BALANCING since 5.12.
    calls : frozenset of str
        NUMA system calls that exist; others are ENOSYS.  move_pages since 2.6.18,
        set_mempolicy_home_node since 5.17.
    mode_names : mapping of int to str
        The kernel's text for a mode in ``numa_maps``.
    """

    name: str
    stands_for: str
    engine: int = field(default=0, metadata=_CORE)
    passes: int = field(default=10, metadata=_CORE)
    force_pass: int = field(default=3, metadata=_CORE)
    batch: int = field(default=1, metadata=_CORE)
    async_first: int = field(default=0, metadata=_CORE)
    async_passes: int = field(default=0, metadata=_CORE)
    copy_first: int = field(default=0, metadata=_CORE)
    untouched_enoent: int = field(default=0, metadata=_CORE)
    mbind_ilx: int = field(default=0, metadata=_CORE)
    isolate_counts: int = field(default=0, metadata=_CORE)
    weighted: int = field(default=0, metadata=_CORE)
    balancing_many: int = field(default=0, metadata=_CORE)
    fault_around: int = field(default=16, metadata=_CORE)
    migrate_unlocked: int = field(default=0, metadata=_CORE)
    pagevec: int = field(default=15, metadata=_CORE)
    pcp_bulk: int = field(default=0, metadata=_CORE)
    ahead_is_minor: int = field(default=0, metadata=_CORE)
    gup_checks_files: int = field(default=0, metadata=_CORE)
    populate_whole: int = field(default=0, metadata=_CORE)
    mprotect_unaccounts: int = field(default=0, metadata=_CORE)
    writeback_pass: int = field(default=3, metadata=_CORE)
    swap: int = field(default=0, metadata=_CORE)
    four_lists: int = field(default=0, metadata=_CORE)
    plain_entries: int = field(default=0, metadata=_CORE)
    counts_drop: int = field(default=0, metadata=_CORE)
    locked_fails: int = field(default=0, metadata=_CORE)
    locked_skipped: int = field(default=0, metadata=_CORE)
    waiter_refs: int = field(default=0, metadata=_CORE)
    family_anon_vma: int = field(default=0, metadata=_CORE)
    truncate_leaves: int = field(default=0, metadata=_CORE)
    rss_uncounted: int = field(default=0, metadata=_CORE)
    rules_2006: int = field(default=0, metadata=_CORE)
    first_vma: int = field(default=0, metadata=_CORE)
    arrays: int = field(default=0, metadata=_CORE)
    this_node: int = field(default=0, metadata=_CORE)
    nothing_enoent: int = field(default=0, metadata=_CORE)
    zero_enoent: int = field(default=0, metadata=_CORE)
    vma_hooks: int = field(default=0, metadata=_CORE)
    last_unhooked: int = field(default=0, metadata=_CORE)
    truncated_crashes: int = field(default=0, metadata=_CORE)
    subset_nodes: bool = False
    absent_targets: bool = False
    uid_access: bool = False
    interleave_bits: int = 32
    modes: frozenset[int]
    mode_flags: int
    calls: frozenset[str]
    mode_names: Mapping[int, str]

    def __post_init__(self) -> None:
        """Refuse values that are no switches, and switches that need others."""
        if not isinstance(self.calls, Set):
            raise TypeError(f"calls must be a set of names, not {self.calls!r}")
        for switch, value in self.core_switches().items():
            if not isinstance(value, int):
                raise TypeError(f"{switch} must be an integer, not {value!r}")
            if not 0 <= value < 1 << 32:
                raise ValueError(f"{switch} must be from 0 to 2**32 - 1, not {value}")
        if self.engine > 1:
            raise ValueError(f"engine must be 0 or 1, not {self.engine}")
        for needs, wanted in (("engine", _SWAP_ENTRIES), ("four_lists", _FOUR_LISTS)):
            lacking = [switch for switch in wanted if not getattr(self, switch)]
            if getattr(self, needs) and lacking:
                raise ValueError(f"{needs}={getattr(self, needs)} needs {', '.join(lacking)}")
        if self.four_lists and (self.arrays or "move_pages" in self.calls):
            raise ValueError(f"four_lists={self.four_lists} needs neither arrays nor move_pages")

    def core_switches(self) -> dict[str, int]:
        """Return the switches the core reads, by the names of its ``profile_t``."""
        switches = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("core")}
        return switches | {
            "call_mask": sum(bit for name, bit in _CALL_BITS.items() if name in self.calls),
            "mode_mask": sum(1 << mode for mode in self.modes),
            "mode_flags": self.mode_flags,
            "subset_nodes": int(self.subset_nodes),
            "absent_targets": int(self.absent_targets),
            "uid_access": int(self.uid_access),
        }

    def balancing_modes(self) -> frozenset[int]:
        """Modes that ``MPOL_F_NUMA_BALANCING`` may be combined with."""
        if not self.mode_flags & MPOL_F_NUMA_BALANCING:
            return frozenset()
        many = {MPOL_PREFERRED_MANY} if self.balancing_many else set()
        return frozenset({MPOL_BIND} | many)


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
    weighted=1,
    balancing_many=1,
    interleave_bits=64,
    modes=_MODES_6_1 | {MPOL_WEIGHTED_INTERLEAVE},
    mode_flags=_ALL_MODE_FLAGS,
    calls=_CALLS_6_1,
    mode_names=MappingProxyType(
        {**_MODE_NAMES_6_1, MPOL_WEIGHTED_INTERLEAVE: "weighted interleave"}
    ),
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
    truncate_leaves=1,
    rules_2006=1,
    subset_nodes=True,
    absent_targets=True,
    uid_access=True,
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

_LINUX_2_6_18: Final = replace(
    _LINUX_2_6_17_MM,
    name="2.6.18",
    stands_for="Linux 2.6.18: what was merged, with its bugs",
    passes=10,
    writeback_pass=3,
    four_lists=0,
    locked_fails=0,
    first_vma=1,
    nothing_enoent=1,
    zero_enoent=1,
    vma_hooks=1,
    last_unhooked=1,
    truncated_crashes=1,
    calls=_CALLS_2_6_17 | {"move_pages"},
)

_PMIG: Final = replace(
    _LINUX_2_6_18,
    name="pmig",
    stands_for="no kernel: the note's five patches and its future work, finished, without bugs",
    locked_skipped=0,
    truncate_leaves=0,
    rss_uncounted=0,
    first_vma=0,
    arrays=1,
    this_node=1,
    nothing_enoent=0,
    zero_enoent=0,
    last_unhooked=0,
    truncated_crashes=0,
    absent_targets=False,
)

#: Profile by name, oldest kernel first; ``pmig`` stands where its patches do.
KERNELS: Final[Mapping[str, KernelProfile]] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _LINUX_2_6_17,
            _LINUX_2_6_17_MM,
            _LINUX_2_6_18,
            _PMIG,
            _LINUX_6_1,
            _LINUX_6_12,
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
        raise ValueError(f"kernel {kernel!r} is not known; there are: {known}") from None
