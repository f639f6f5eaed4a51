"""Kernel profiles: one frozen table of switches per kernel, nothing else.

A profile says where a kernel differs from its neighbours in time; everything not listed here is
common.  Half of the switches are read by the core (they have the names of the fields of its
``profile_t``), the other half by the system calls in Python.  What 6.1 and
6.12 do was recorded (docs/fidelity.md); docs/model.md explains the names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
        *core*.  From this pass on, counted from 0, page lock and writeback are waited for: 3 to
        6.2; 0 from 6.3 on, where the passes without waiting are the asynchronous ones.
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
        more.
    pcp_bulk : int
        *core*.  0: what a node has between its low watermark and the lowest is left to callers that
        take no other node.  1: the processor that filled the node has it on its own list (6.7 and
        later, where these lists grow).
    vma_lock_faults : int
        *core*.  1: a fault that only starts read-ahead is minor, since it held the lock of its VMA
        (6.6 and later); 0: major.
    gup_checks_files : int
        *core*.  Registering buffers over files on a disk: 0 ``-EOPNOTSUPP`` for every mapping (to
        6.4), 1 ``-EFAULT`` for shared ones, while private ones may be pinned (6.5 and later).
    populate_whole : int
        *core*.  1: ``MADV_POPULATE_*`` ends at the first hole of its range (6.9 and later); 0:
        passes over it.
    mprotect_unaccounts : int
        *core*.  1: anonymous memory nothing was written to is no longer accounted for once it
        cannot be written, and merges with mappings that never were (6.6 and later).
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
    vma_lock_faults: int = field(default=0, metadata=_CORE)
    gup_checks_files: int = field(default=0, metadata=_CORE)
    populate_whole: int = field(default=0, metadata=_CORE)
    mprotect_unaccounts: int = field(default=0, metadata=_CORE)
    interleave_bits: int = 32
    modes: frozenset[int]
    mode_flags: int
    calls: frozenset[str]
    mode_names: Mapping[int, str]

    def core_switches(self) -> dict[str, int]:
        """Return the switches the core reads, by the names of its ``profile_t``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("core")}

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
    copy_first=1,
    untouched_enoent=1,
    mbind_ilx=1,
    isolate_counts=1,
    migrate_unlocked=1,
    pagevec=31,
    pcp_bulk=1,
    vma_lock_faults=1,
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

#: Profile by name.
KERNELS: Final[Mapping[str, KernelProfile]] = MappingProxyType(
    {profile.name: profile for profile in (_LINUX_6_1, _LINUX_6_12)}
)

DEFAULT_KERNEL: Final = "6.1"


def kernel_profile(kernel: str | KernelProfile) -> KernelProfile:
    """Return the profile of a kernel by name; a profile is returned as it is.

    Parameters
    ----------
    kernel : str or KernelProfile
        ``"6.1"``, ``"6.12"``, or a profile of one's own (``dataclasses.replace`` of one of these).

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
