"""Numbers of the Linux x86-64 interface, and the sentinels of this library.

The values are those of ``include/uapi`` (``linux/mempolicy.h``, ``asm-generic/mman*.h``), so a
program can pass its own constants unchanged.  ``MAX_NUMNODES`` is that of the recorded kernels
(``CONFIG_NODES_SHIFT=10``).
"""

from enum import Enum
from typing import Final

__all__ = [
    "BAD",
    "FADV_BY_NAME",
    "FILE_EXT4",
    "FILE_MINIX",
    "FILE_RAMFS",
    "FILE_SHMEM",
    "MADV_BY_NAME",
    "MAP_ANONYMOUS",
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_LOCKED",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MAX_NUMNODES",
    "MCL_CURRENT",
    "MCL_FUTURE",
    "MCL_ONFAULT",
    "MLOCK_ONFAULT",
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_F_ADDR",
    "MPOL_F_MEMS_ALLOWED",
    "MPOL_F_NODE",
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_MF_LAZY",
    "MPOL_MF_MOVE",
    "MPOL_MF_MOVE_ALL",
    "MPOL_MF_STRICT",
    "MPOL_MODE_FLAGS",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MREMAP_DONTUNMAP",
    "MREMAP_FIXED",
    "MREMAP_MAYMOVE",
    "NULL",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_READ",
    "PROT_WRITE",
    "SIGNAL_NAMES",
    "STATUS_UNSET",
    "STEP_ALLOC",
    "STEP_COPY",
    "STEP_FREEZE",
    "STEP_ISOLATE",
    "STEP_LOCK",
    "STEP_PUTBACK",
    "STEP_RESTORE",
    "STEP_UNMAP",
    "GiB",
    "KiB",
    "MiB",
    "Pointer",
    "TiB",
]

# ---- sizes, in bytes --------------------------------------------------------------------------

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30
TiB: Final = 1 << 40

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

#: Node numbers of the modelled kernels are 0 to 1023.  A machine has at most 64 nodes.
MAX_NUMNODES: Final = 1024

# ---- memory policies --------------------------------------------------------------------------

MPOL_DEFAULT: Final = 0
MPOL_PREFERRED: Final = 1
MPOL_BIND: Final = 2
MPOL_INTERLEAVE: Final = 3
MPOL_LOCAL: Final = 4
MPOL_PREFERRED_MANY: Final = 5
MPOL_WEIGHTED_INTERLEAVE: Final = 6

# Mode flags, ORed into the mode word.
MPOL_F_STATIC_NODES: Final = 1 << 15
MPOL_F_RELATIVE_NODES: Final = 1 << 14
MPOL_F_NUMA_BALANCING: Final = 1 << 13
MPOL_MODE_FLAGS: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING

# Flags of get_mempolicy.
MPOL_F_NODE: Final = 1 << 0
MPOL_F_ADDR: Final = 1 << 1
MPOL_F_MEMS_ALLOWED: Final = 1 << 2

# Flags of mbind and move_pages.
MPOL_MF_STRICT: Final = 1 << 0
MPOL_MF_MOVE: Final = 1 << 1
MPOL_MF_MOVE_ALL: Final = 1 << 2
#: In the header, but every call refuses it with EINVAL (recorded: hand-071).
MPOL_MF_LAZY: Final = 1 << 3

# ---- mappings ---------------------------------------------------------------------------------

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_LOCKED: Final = 0x2000
MAP_POPULATE: Final = 0x8000
MAP_FIXED_NOREPLACE: Final = 0x100000

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
MLOCK_ONFAULT: Final = 1

#: Advice of madvise by the kernel's name in lower case, without ``MADV_``.
MADV_BY_NAME: Final[dict[str, int]] = {
    "normal": 0,
    "random": 1,
    "sequential": 2,
    "willneed": 3,
    "dontneed": 4,
    "free": 8,
    "remove": 9,
    "dontfork": 10,
    "dofork": 11,
    "mergeable": 12,
    "unmergeable": 13,
    "hugepage": 14,
    "nohugepage": 15,
    "dontdump": 16,
    "dodump": 17,
    "wipeonfork": 18,
    "keeponfork": 19,
    "cold": 20,
    "pageout": 21,
    "populate_read": 22,
    "populate_write": 23,
    "dontneed_locked": 24,
    "collapse": 25,
    "hwpoison": 100,
    "soft_offline": 101,
    # Set and clear the note's VM_DONTMIGRATE; no kernel has it, profiles but pmig answer EINVAL.
    "dontmigrate": 200,
    "domigrate": 201,
}

#: Advice of posix_fadvise by name, without ``POSIX_FADV_``.
FADV_BY_NAME: Final[dict[str, int]] = {
    "normal": 0,
    "random": 1,
    "sequential": 2,
    "willneed": 3,
    "dontneed": 4,
    "noreuse": 5,
}

# ---- files, signals ---------------------------------------------------------------------------

FILE_SHMEM: Final = 1
FILE_RAMFS: Final = 2
FILE_EXT4: Final = 3
FILE_MINIX: Final = 4

#: Signals that can stop an access, by number.
SIGNAL_NAMES: Final[dict[int, str]] = {7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV"}

#: Stands in a status array where the kernel stored nothing; no kernel stores this number.
STATUS_UNSET: Final = -(2**31)


class Pointer(Enum):
    """A user pointer without a list, which can be passed where the kernel takes a pointer.

    Attributes
    ----------
    NULL
        The null pointer.
    BAD
        A pointer to memory that is not mapped: every read or write through it is EFAULT.
    """

    NULL = "NULL"
    BAD = "BAD"

    def __repr__(self) -> str:
        return self.name


NULL: Final = Pointer.NULL
BAD: Final = Pointer.BAD

# Steps of a migration, in order, with the state that a hook or an actor finds after each.

#: The page is taken off the LRU, by this migration.
STEP_ISOLATE: Final = 1
#: It has a target.
STEP_ALLOC: Final = 2
#: Its lock is held, unless the page is left for the next pass.
STEP_LOCK: Final = 3
#: Its entries are migration entries.
STEP_UNMAP: Final = 4
#: Its references are explained; the page cache has the target (before 6.11: not yet copied).
STEP_FREEZE: Final = 5
#: Its content is in the target.
STEP_COPY: Final = 6
#: Its migration entries are replaced by entries for the target, or after a failure for itself.
STEP_RESTORE: Final = 7
#: It is unlocked, and free or back on its list for the next pass.
STEP_PUTBACK: Final = 8
