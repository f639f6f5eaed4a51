"""The NUMA system calls: checks in the kernel's order, then the core does the work.

The calls are methods of the calling process, since its credentials, processor and ``pid=0`` follow
from it.  Arguments may be raw, as a C program passes them: mode words, node collections with a
``maxnode``, and the pointers ``NULL`` and ``BAD`` wherever the kernel takes one.

The order of checks is that of the recordings hand-006 to hand-017, 048, 071 to 073, 087, 088, 090,
099 and 100 of Linux 6.1, as docs/fidelity.md has it; 6.12 differs in what its profile says.
"""

from array import array
from errno import EFAULT, EINVAL, ENOSYS, EPERM, ESRCH
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pagemig import _core
from pagemig.arguments import (
    U64,
    Addresses,
    Nodemask,
    NodeSet,
    address_array,
    as_int,
    as_ulong,
    default_maxnode,
    node_array,
    read_nodemask,
    user_nodemask,
)
from pagemig.constants import (
    BAD,
    MAX_NUMNODES,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_NUMA_BALANCING,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_MODE_FLAGS,
    MPOL_PREFERRED,
    MPOL_WEIGHTED_INTERLEAVE,
    NULL,
    PAGE_SIZE,
    STATUS_UNSET,
    Pointer,
)
from pagemig.errors import ProcessGoneError, Refusal, errno_name, raise_errno
from pagemig.policy import Policy, WeightedInterleave, fold_absent, nodes_of, policy_of
from pagemig.system.credentials import (
    CAP_SYS_NICE,
    KERNEL_THREAD,
    KTHREAD_PID,
    Credentials,
    may_access,
    may_signal,
)

if TYPE_CHECKING:
    from pagemig.kernels import KernelProfile
    from pagemig.system.machine import Machine
    from pagemig.system.process import Process

__all__ = ["MoveResult", "NumaCalls", "PolicyResult"]

_UINT64: Final = np.dtype(np.uint64)
_INT32: Final = np.dtype(np.int32)
_STATIC_OR_RELATIVE: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
_TAG_BITS: Final = 0x1FFF
_NO_ADDRESSES: Final = np.empty(0, dtype=np.uint64)
_NO_NODES: Final = np.empty(0, dtype=np.int32)
#: Statuses that a MoveResult shows.
_SHOWN: Final = 16
_empty: Final = np.empty
_frombuffer: Final = np.frombuffer
_ndarray: Final = np.ndarray

Pid: TypeAlias = "int | Process"


class MoveResult(NamedTuple):
    """What ``move_pages`` answered.

    Attributes
    ----------
    rc : int
        0, or how many pages were not migrated: those that failed and those not tried any more.
        In the ``result`` of an exception ``-errno``.
    status : ndarray of int32
        For each page its node, a negative errno, or ``STATUS_UNSET`` where nothing was stored.
    """

    rc: int
    status: npt.NDArray[np.int32]

    @property
    def names(self) -> list[int | str]:
        """Statuses in words: a node, the name of an error, ``"unset"`` where nothing was stored."""
        return [s if s >= 0 else errno_name(s) for s in self.status.tolist()]

    def __repr__(self) -> str:
        shown = ", ".join(str(name) for name in self.names[:_SHOWN])
        more = ", ..." if len(self.status) > _SHOWN else ""
        return f"MoveResult(rc={self.rc}, names=[{shown}{more}])"

    @property
    def not_migrated(self) -> int:
        """Pages that failed or were not tried any more."""
        return max(self.rc, 0)


class PolicyResult(NamedTuple):
    """What ``get_mempolicy`` stored.

    Attributes
    ----------
    mode : int or None
        Mode with its flags, or a node with ``MPOL_F_NODE``; None for a null pointer.
    nodes : tuple of int or None
        The node mask; None for a null pointer.
    """

    mode: int | None
    nodes: tuple[int, ...] | None

    @property
    def policy(self) -> Policy:
        """The policy as an object.  Meaningless after ``MPOL_F_NODE``.

        Raises
        ------
        ValueError
            Mode or nodes were not asked for, or the mode is none.
        """
        if self.mode is None or self.nodes is None:
            raise ValueError(f"{self!r} lacks what a policy needs")
        mask = sum(1 << nid for nid in self.nodes)
        return policy_of(self.mode & ~MPOL_MODE_FLAGS, self.mode & MPOL_MODE_FLAGS, mask)


class NumaCalls(_core.Process):
    """System calls about memory placement; part of :class:`pagemig.Process`."""

    __slots__ = ("_calls", "_has_move_pages", "machine")

    machine: "Machine"
    #: Calls the kernel has.
    _calls: frozenset[str]
    #: move_pages exists: the short way through it is open.
    _has_move_pages: bool

    # ---- move_pages ---------------------------------------------------------------------------

    def move_pages(
        self,
        pages: Addresses | Pointer,
        nodes: Addresses | int | Pointer | None = None,
        flags: int = MPOL_MF_MOVE,
        *,
        pid: Pid = 0,
        count: int | None = None,
        status: npt.NDArray[np.int32] | Pointer | None = None,
    ) -> MoveResult:
        """Move pages to nodes, or ask where they are.

        Parameters
        ----------
        pages : array of int, shape (n,)
            Addresses in bytes, anywhere in their page.  An array of ``uint64`` is not copied.
        nodes : array of int, shape (n,), int or None
            Target of each page, or of all; None or ``NULL`` only asks.  An array of ``int32`` is
            not copied.
        flags : int, default MPOL_MF_MOVE
            ``MPOL_MF_MOVE``: pages mapped once; ``MPOL_MF_MOVE_ALL``: shared ones too.  0 is as
            MOVE.
        pid : int or Process, default 0
            Whose pages; 0 is the caller.
        count : int, optional
            Passed instead of the number of pages, or of nodes where the pages are a pointer.  The
            lists end at unmapped memory.
        status : ndarray of int32, ``NULL`` or ``BAD``, optional
            Where statuses are stored, at least ``n`` long; a new array unless given.

        Returns
        -------
        MoveResult
            Pages not migrated, and a status per page.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (other flags), EPERM (MOVE_ALL without CAP_SYS_NICE),
            ESRCH, EPERM (ptrace rules), EINVAL (no memory: kernel thread, zombie); then entry by
            entry EFAULT (a pointer), ENODEV (no such node or one without memory), ENOMEM (target
            node full).  ``result.status`` says what was done before.
        TypeError, ValueError
            Not integers, not one-dimensional, or lists of different lengths.

        Notes
        -----
        Statuses are those of docs/fidelity.md, "move_pages": -EFAULT (nothing mapped there,
        zero page, in 6.1 anonymous memory never touched), -ENOENT (nothing present), -EACCES
        (mapped more than once, without MOVE_ALL), -EBUSY (twice in one run of equal nodes).  A run
        whose migration fails in part keeps its statuses unset and ends the call with a positive
        return.
        """
        if (
            self._has_move_pages
            and flags == MPOL_MF_MOVE
            and pid == 0
            and count is None
            and status is None
        ):
            # The short way: arrays as they are, lists as fast as can be.
            addresses: Any = pages
            targets: Any = nodes
            try:
                if type(pages) is list:
                    addresses = _frombuffer(array("Q", pages), _UINT64)
                if type(nodes) is list:
                    targets = _frombuffer(array("i", nodes), _INT32)
            except (TypeError, OverflowError):
                targets = BAD  # not what it should be: the long way says why
            if (
                type(addresses) is _ndarray
                and addresses.dtype is _UINT64
                and addresses.ndim == 1
                and addresses.flags.c_contiguous
                and (
                    targets is None
                    or (
                        type(targets) is _ndarray
                        and targets.dtype is _INT32
                        and targets.shape == addresses.shape
                        and targets.flags.c_contiguous
                    )
                )
            ):
                n = len(addresses)
                stored = _empty(n, _INT32)
                stored.fill(STATUS_UNSET)
                rc = self._move_pages(self, addresses, targets, MPOL_MF_MOVE, stored, n)
                if rc >= 0:
                    return MoveResult(rc, stored)
                self._fail("move_pages", _with_stored(rc, stored), MoveResult(rc, stored))
        return self._move_pages_any(pages, nodes, flags, pid, count, status)

    def _move_pages_any(
        self,
        pages: Addresses | Pointer,
        nodes: Addresses | int | Pointer | None,
        flags: int,
        pid: Pid,
        count: int | None,
        status: npt.NDArray[np.int32] | Pointer | None,
    ) -> MoveResult:
        """move_pages with every kind of argument."""
        self._must_live("move_pages")
        addresses = _NO_ADDRESSES if isinstance(pages, Pointer) else address_array(pages, "pages")
        n = len(addresses)
        targets = _move_targets(nodes, None if isinstance(pages, Pointer) else n)
        total = _listed(pages, nodes, n) if count is None else as_ulong(count, "count")
        stored = _status_array(status, n)
        rc = self._checked_move(
            as_int(flags, "flags"), self._pid_number(pid), addresses, targets, stored, total
        )
        result = MoveResult(rc, _unset(n) if stored is None else stored)
        if rc < 0:
            self._fail("move_pages", rc if status is not None else _with_stored(rc, stored), result)
        return result

    def _checked_move(
        self,
        flags: int,
        pid: int,
        addresses: npt.NDArray[np.uint64],
        targets: npt.NDArray[np.int32] | None,
        stored: npt.NDArray[np.int32] | None,
        total: int,
    ) -> int:
        if "move_pages" not in self._calls:
            return -ENOSYS
        if flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            return Refusal(EINVAL, "flags may be MPOL_MF_MOVE and MPOL_MF_MOVE_ALL only")
        if flags & MPOL_MF_MOVE_ALL and not self._capable(CAP_SYS_NICE):
            return _NO_MOVE_ALL
        target = self._find_target(pid)
        if isinstance(target, int):
            return target
        if target is None or not target.alive:
            return _NO_MEMORY
        if targets is not None and len(targets) < len(addresses):
            addresses = addresses[: len(targets)]
        return self._move_pages(target, addresses, targets, flags, stored, total)

    # ---- migrate_pages ------------------------------------------------------------------------

    def migrate_pages(
        self,
        from_nodes: NodeSet,
        to_nodes: NodeSet,
        *,
        pid: Pid = 0,
        maxnode: int | None = None,
    ) -> int:
        """Move everything a process has on some nodes to others.

        The i-th node of ``from_nodes`` goes to the i-th of ``to_nodes``, modulo their number; when
        the sets differ in size, a node in both is left alone.  Shared pages move too if the caller
        has CAP_SYS_NICE.

        Parameters
        ----------
        from_nodes, to_nodes : collection of int, ``NULL`` or ``BAD``
            Sets of nodes: order and repetition do not count.
        pid : int or Process, default 0
            Whose pages; 0 is the caller.
        maxnode : int, optional
            As passed by a C program: one more than the bits read of each mask.

        Returns
        -------
        int
            Pages that could not be migrated.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL, EFAULT (masks), ESRCH, EPERM (ptrace rules), EPERM
            (nodes outside the target's cpuset without CAP_SYS_NICE), EINVAL (no node of
            ``to_nodes`` has memory), EINVAL (no memory: kernel thread, zombie), ENOMEM (a target
            node is full).
        """
        self._must_live("migrate_pages")
        old, new = user_nodemask(from_nodes, "from_nodes"), user_nodemask(to_nodes, "to_nodes")
        if maxnode is None:
            maxnode = max(default_maxnode(old), default_maxnode(new))
        rc = self._checked_migrate(old, new, as_ulong(maxnode, "maxnode"), self._pid_number(pid))
        if rc < 0:
            self._fail("migrate_pages", rc)
        return rc

    def _checked_migrate(
        self, old_mask: Nodemask | Pointer, new_mask: Nodemask | Pointer, maxnode: int, pid: int
    ) -> int:
        if "migrate_pages" not in self._calls:
            return -ENOSYS
        old = read_nodemask(old_mask, maxnode)
        if old < 0:
            return old
        new = read_nodemask(new_mask, maxnode)
        if new < 0:
            return new
        target = self._find_target(pid)
        if isinstance(target, int):
            return target
        if self.machine.profile.uid_access and (target is None or not target.alive):
            return _NO_MEMORY  # in 2006 before any permission is asked
        allowed = self.machine._memory_mask
        privileged = self._capable(CAP_SYS_NICE)
        if new & ~allowed and not privileged:
            return Refusal(EPERM, "to_nodes has nodes without memory here, and no CAP_SYS_NICE")
        if self.machine.profile.rules_2006:
            if new & ~allowed and not self.machine.profile.absent_targets:
                return Refusal(EINVAL, "to_nodes has nodes without memory here")
            new = self._source_mask(new)
        else:
            new &= allowed
            if not new:
                return Refusal(EINVAL, "to_nodes has no node with memory here")
        if target is None or not target.alive:
            return _NO_MEMORY
        flags = MPOL_MF_MOVE_ALL if privileged else MPOL_MF_MOVE
        return self._migrate_pages(target, self._source_mask(old), new, flags)

    def _source_mask(self, old: int) -> int:
        """``old`` in 64 bits.  Nodes above 63 only count: they take places that no node has."""
        mask, extra = old & U64, (old >> 64).bit_count()
        for place in range(self.machine.nr_nodes, 64):
            if not extra:
                break
            if not mask >> place & 1:
                mask |= 1 << place
                extra -= 1
        return mask

    # ---- mbind --------------------------------------------------------------------------------

    @overload
    def mbind(self, addr: int, length: int, policy: Policy, flags: int = 0) -> None: ...

    @overload
    def mbind(
        self,
        addr: int,
        length: int,
        policy: int,
        nodes: NodeSet = NULL,
        flags: int = 0,
        *,
        maxnode: int | None = None,
    ) -> None: ...

    def mbind(  # type: ignore[misc]
        self,
        addr: int,
        length: int,
        policy: Policy | int,
        nodes: Any = None,
        flags: int | None = None,
        *,
        maxnode: int | None = None,
    ) -> None:
        """Set the policy of a range of memory, and move what is misplaced there.

        Two forms: ``mbind(addr, length, Interleave([0, 1]), MPOL_MF_MOVE)`` and, as in C,
        ``mbind(addr, length, MPOL_INTERLEAVE, [0, 1], MPOL_MF_MOVE, maxnode=65)``.

        Parameters
        ----------
        addr, length : int
            The range in bytes; ``addr`` page-aligned, ``length`` is rounded up.
        policy : Policy or int
            A policy, or the mode word: mode and mode flags.
        nodes : collection of int, ``NULL`` or ``BAD``
            Of the raw form.
        flags : int, default 0
            ``MPOL_MF_STRICT``, ``MPOL_MF_MOVE``, ``MPOL_MF_MOVE_ALL``.
        maxnode : int, optional
            Of the raw form: one more than the bits read of the mask.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (mode), EINVAL, EFAULT (mask), EINVAL (flags), EPERM
            (MOVE_ALL without CAP_SYS_NICE), EINVAL (unaligned, range wraps), EINVAL (mode against
            nodes, no such node), EFAULT (nothing mapped in part of the range), EIO: STRICT alone
            and a misplaced page, the policy is not set; STRICT with MOVE and a page that could not
            move, the policy is set.

        Notes
        -----
        Skipping a page that is mapped more than once is no failure.  Misplaced is what lies
        outside the mask as given: with Default and Local everything, with Interleave nothing
        inside the mask (docs/fidelity.md, "mbind").
        """
        self._must_live("mbind")
        if isinstance(policy, Policy):
            flags = _policy_flags(nodes, flags, maxnode)
            word, mask = _policy_word(policy)
        else:
            word = as_ulong(policy, "policy", "a Policy or a mode")
            mask = user_nodemask(NULL if nodes is None else nodes)
        bits = default_maxnode(mask) if maxnode is None else as_ulong(maxnode, "maxnode")
        rc = self._checked_mbind(
            as_ulong(addr, "addr"),
            as_ulong(length, "length"),
            word,
            mask,
            bits,
            as_ulong(flags or 0, "flags"),
        )
        if rc < 0:
            self._fail("mbind", rc)

    def _checked_mbind(
        self, addr: int, length: int, word: int, user: Nodemask | Pointer, maxnode: int, flags: int
    ) -> int:
        if "mbind" not in self._calls:
            return -ENOSYS
        mode = _mode_of(word, self.machine.profile)
        if mode < 0:
            return mode
        mask = read_nodemask(user, maxnode)
        if mask < 0:
            return mask
        if flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
            return Refusal(EINVAL, "flags may be MPOL_MF_STRICT, _MOVE and _MOVE_ALL only")
        if flags & MPOL_MF_MOVE_ALL and not self._capable(CAP_SYS_NICE):
            return _NO_MOVE_ALL
        length = _checked_range(addr, length)
        if length <= 0:
            return length
        if mode == MPOL_DEFAULT:
            flags &= ~MPOL_MF_STRICT
        nodes, mode_flags = self._core_mask(mask, word & MPOL_MODE_FLAGS)
        if nodes < 0:
            return nodes
        rc = self._mbind(addr, length, mode, mode_flags, nodes, flags)
        return self._nodes_rule(mode, mask) if rc == -EINVAL else rc

    # ---- set_mempolicy, get_mempolicy, set_mempolicy_home_node ---------------------------------

    @overload
    def set_mempolicy(self, policy: Policy) -> None: ...

    @overload
    def set_mempolicy(
        self, policy: int, nodes: NodeSet = NULL, *, maxnode: int | None = None
    ) -> None: ...

    def set_mempolicy(
        self, policy: Policy | int, nodes: NodeSet | None = None, *, maxnode: int | None = None
    ) -> None:
        """Set the policy of the process, for all memory without a policy of its own.

        Parameters
        ----------
        policy : Policy or int
            A policy, or the mode word: mode and mode flags.
        nodes : collection of int, ``NULL`` or ``BAD``
            Of the raw form.
        maxnode : int, optional
            Of the raw form: one more than the bits read of the mask.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (mode), EINVAL, EFAULT (mask), EINVAL (mode against
            nodes, no such node).
        """
        self._must_live("set_mempolicy")
        if isinstance(policy, Policy):
            if nodes is not None or maxnode is not None:
                raise TypeError("nodes and maxnode are for the raw form: the policy has its nodes")
            word, mask = _policy_word(policy)
        else:
            word = as_ulong(policy, "policy", "a Policy or a mode")
            mask = user_nodemask(NULL if nodes is None else nodes)
        bits = default_maxnode(mask) if maxnode is None else as_ulong(maxnode, "maxnode")
        rc = self._checked_set_mempolicy(word, mask, bits)
        if rc < 0:
            self._fail("set_mempolicy", rc)

    def _checked_set_mempolicy(self, word: int, user: Nodemask | Pointer, maxnode: int) -> int:
        if "set_mempolicy" not in self._calls:
            return -ENOSYS
        mode = _mode_of(word, self.machine.profile)
        if mode < 0:
            return mode
        mask = read_nodemask(user, maxnode)
        if mask < 0:
            return mask
        nodes, mode_flags = self._core_mask(mask, word & MPOL_MODE_FLAGS)
        if nodes < 0:
            return nodes
        rc = self._set_mempolicy(mode, mode_flags, nodes)
        return self._nodes_rule(mode, mask) if rc == -EINVAL else rc

    def get_mempolicy(
        self,
        flags: int = 0,
        addr: int = 0,
        *,
        maxnode: int = MAX_NUMNODES,
        nodemask: Pointer | None = None,
        mode: Pointer | None = None,
    ) -> PolicyResult:
        """Ask for a policy, or for the node of a page.

        Parameters
        ----------
        flags : int, default 0
            0: the process's policy.  ``MPOL_F_ADDR``: that of the memory at ``addr`` (Default
            where it has none of its own).  ``MPOL_F_ADDR | MPOL_F_NODE``: the node of the page
            there, which is brought in by a read.  ``MPOL_F_NODE``: the next node of an
            interleaving process. ``MPOL_F_MEMS_ALLOWED``: the nodes the process may use.
        addr : int, default 0
            Address in bytes, anywhere in its page.
        maxnode : int, default 1024
            Bits of the caller's mask.
        nodemask, mode : ``NULL`` or ``BAD``, optional
            Pointers to give instead of room for the answers.

        Returns
        -------
        PolicyResult
            Mode word (or node) and nodes.  For a policy with static or relative nodes those asked
            for.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (mask smaller than the number of nodes, flags), EINVAL
            (flags that exclude each other, address without ``MPOL_F_ADDR``, no interleaving),
            EFAULT (nothing mapped, bad pointer), EINVAL (more than a page of mask).
        """
        self._must_live("get_mempolicy")
        answer: PolicyResult | int = self._checked_get_mempolicy(
            as_ulong(flags, "flags"),
            as_ulong(addr, "addr"),
            as_ulong(maxnode, "maxnode"),
            _out_pointer(nodemask, "nodemask"),
            _out_pointer(mode, "mode"),
        )
        if isinstance(answer, int):
            self._fail("get_mempolicy", answer)
        return answer

    def _checked_get_mempolicy(
        self, flags: int, addr: int, maxnode: int, nodemask: Pointer | None, mode: Pointer | None
    ) -> PolicyResult | int:
        if "get_mempolicy" not in self._calls:
            return -ENOSYS
        if nodemask is not NULL and maxnode < self.machine.nr_nodes:
            return Refusal(EINVAL, f"maxnode is below the {self.machine.nr_nodes} nodes there are")
        found = self._find_mempolicy(flags, addr)
        if isinstance(found, int):
            return found
        word, mask = found
        if mode is BAD:
            return -EFAULT
        if nodemask is BAD:
            return -EFAULT
        if nodemask is not NULL and maxnode - 1 > PAGE_SIZE * 8:
            return Refusal(EINVAL, "maxnode is more than a page of bits")
        return PolicyResult(
            None if mode is NULL else word, None if nodemask is NULL else nodes_of(mask)
        )

    def _find_mempolicy(self, flags: int, addr: int) -> tuple[int, int] | int:
        """Mode word or node, and mask; or ``-errno``."""
        if flags & ~(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED):
            return Refusal(EINVAL, "flags may be MPOL_F_NODE, _ADDR and _MEMS_ALLOWED only")
        if flags & MPOL_F_MEMS_ALLOWED:
            if flags & (MPOL_F_NODE | MPOL_F_ADDR):
                return Refusal(EINVAL, "MPOL_F_MEMS_ALLOWED goes with no other flag")
            return 0, self.machine._memory_mask
        if flags & MPOL_F_ADDR:
            policy = self._get_vma_policy(addr)
            if isinstance(policy, int):
                return policy
        elif addr:
            return Refusal(EINVAL, "an address is given without MPOL_F_ADDR")
        else:
            policy = self._get_task_policy()
        word = policy[0]
        if word == MPOL_LOCAL and word not in self.machine.profile.modes:
            word = MPOL_PREFERRED  # a policy of no nodes, before LOCAL was a mode
        if flags & MPOL_F_NODE:
            word = self._node_asked(flags, addr, word)
            return word if word < 0 else (word, self._user_mask(policy))
        return word | policy[1] & MPOL_MODE_FLAGS, self._user_mask(policy)

    def _node_asked(self, flags: int, addr: int, mode: int) -> int:
        if flags & MPOL_F_ADDR:
            return self._lookup_node(addr)
        weighted = mode == MPOL_WEIGHTED_INTERLEAVE and self.machine.profile.weighted
        if mode == MPOL_INTERLEAVE or weighted:
            return self._il_next()
        return Refusal(EINVAL, "MPOL_F_NODE alone is for a process that interleaves")

    def set_mempolicy_home_node(self, addr: int, length: int, node: int, flags: int = 0) -> None:
        """Say which node of a Bind or PreferredMany range is to be tried first.

        Parameters
        ----------
        addr, length : int
            The range in bytes; ``addr`` page-aligned, ``length`` is rounded up.
        node : int
            The home node.
        flags : int, default 0
            Must be 0.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (unaligned, flags, no such node, range wraps), EOPNOTSUPP
            (a mapping of the range has another policy; those before it are done), ENOENT (no
            mapping of the range has a policy).
        """
        self._must_live("set_mempolicy_home_node")
        rc = self._checked_home_node(
            as_ulong(addr, "addr"),
            as_ulong(length, "length"),
            as_ulong(node, "node"),
            as_ulong(flags, "flags"),
        )
        if rc < 0:
            self._fail("set_mempolicy_home_node", rc)

    def _checked_home_node(self, addr: int, length: int, node: int, flags: int) -> int:
        if "set_mempolicy_home_node" not in self._calls:
            return -ENOSYS
        if addr % PAGE_SIZE:
            return _checked_range(addr, length)
        if flags:
            return Refusal(EINVAL, "flags must be 0")
        if node >= self.machine.nr_nodes:
            return Refusal(EINVAL, f"there is no node {node} on this machine")
        length = _checked_range(addr, length)
        return length if length <= 0 else self._set_home_node(addr, length, node)

    # ---- what the checks ask ------------------------------------------------------------------

    def _credentials(self) -> Credentials:
        return Credentials(*self._cred())

    def _capable(self, capability: int) -> bool:
        return bool(self._cred()[4] & capability)

    def _pid_number(self, pid: Pid) -> int:
        if isinstance(pid, NumaCalls):
            if pid.machine is not self.machine:
                raise ValueError(f"pid must be of the same machine, not {pid!r}")
            return pid.pid
        return as_int(pid, "pid", "a Process or a number")

    def _find_target(self, pid: int) -> "Process | int | None":
        """Return the process behind ``pid``; None for a kernel thread; ``-ESRCH`` or ``-EPERM``."""
        if not pid or pid == self.pid:
            return self  # type: ignore[return-value]
        if pid == KTHREAD_PID:
            mine = self._credentials()
            if self.machine.profile.uid_access:
                return None  # no memory is found before permission is asked
            return None if may_access(mine, KERNEL_THREAD, target_has_mm=False) else -EPERM
        target = self.machine._find_pid(pid)
        if target is None:
            return -ESRCH
        mine = self._credentials()
        try:
            his = target._credentials()
        except ProcessGoneError:
            return -ESRCH  # another thread reaped it meanwhile
        if self.machine.profile.uid_access:
            permitted = not target.alive or may_signal(mine, his)
        else:
            permitted = may_access(mine, his, target_has_mm=target.alive)
        return target if permitted else -EPERM

    def _core_mask(self, mask: int, mode_flags: int) -> tuple[int, int]:
        """Return a user mask in the core's 64 bits, and the mode flags with a tag for the rest.

        Nodes above 63 are on no machine: they make a mask not empty, count in a relative set, and
        tell two otherwise equal static or relative policies apart, nothing else.
        """
        if self.machine.profile.subset_nodes and mask & ~self.machine._memory_mask:
            return Refusal(EINVAL, "the node set has a node without memory here"), mode_flags
        if not mask >> 64:
            return mask, mode_flags
        low = fold_absent(mask, self.machine._memory_mask, mode_flags)
        if not low:
            return Refusal(EINVAL, "no node of the set has memory here"), mode_flags
        if mode_flags & _STATIC_OR_RELATIVE:
            mode_flags |= self.machine._mask_tag(mask) & _TAG_BITS
        return low, mode_flags

    def _nodes_rule(self, mode: int, mask: int) -> int:
        """Return the EINVAL of a mode against its nodes: what the core refuses in a policy."""
        if mode in (MPOL_DEFAULT, MPOL_LOCAL) and mask:
            return Refusal(EINVAL, "this mode takes no nodes")
        if not mask:
            return Refusal(EINVAL, "the node set is empty")
        if not mask & self.machine._memory_mask:
            return Refusal(EINVAL, "no node of the set has memory here")
        return -EINVAL

    def _user_mask(self, policy: tuple[int, int, int, int]) -> int:
        """Return the mask get_mempolicy reports: the caller's own for static and relative nodes."""
        _mode, flags, nodes, user = policy
        if not flags & _STATIC_OR_RELATIVE:
            return nodes
        return self.machine._tagged_mask(flags & _TAG_BITS, user) & U64

    def _must_live(self, call: str) -> None:
        if not self.alive:
            raise ProcessGoneError(f"{self!r} cannot call {call}")

    def _fail(self, call: str, rc: int, result: object = None) -> NoReturn:
        self._must_live(call)
        raise_errno(rc, call, result)


# ---- arguments --------------------------------------------------------------------------------


#: What several calls refuse.
_NO_MOVE_ALL: Final = Refusal(EPERM, "MPOL_MF_MOVE_ALL needs CAP_SYS_NICE")
_NO_MEMORY: Final = Refusal(EINVAL, "that process has no memory: a zombie or a kernel thread")


def _mode_of(word: int, profile: "KernelProfile") -> int:
    """Mode of a mode word (a C int), or ``-EINVAL``: unknown, or flags that exclude each other."""
    word &= 0xFFFFFFFF
    flags = word & profile.mode_flags
    mode = word & ~flags
    if mode not in profile.modes:
        return Refusal(EINVAL, f"mode {mode:#x} is not known to Linux {profile.name}")
    if flags & _STATIC_OR_RELATIVE == _STATIC_OR_RELATIVE:
        return Refusal(EINVAL, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other")
    if flags & MPOL_F_NUMA_BALANCING and mode not in profile.balancing_modes():
        rule = f"MPOL_F_NUMA_BALANCING does not go with mode {mode} in Linux {profile.name}"
        return Refusal(EINVAL, rule)
    return mode


def _checked_range(addr: int, length: int) -> int:
    """Length rounded up to pages; 0 for an empty range; ``-EINVAL`` when unaligned or wrapping."""
    if addr % PAGE_SIZE:
        return Refusal(EINVAL, f"the address {addr:#x} is not a multiple of the page size")
    length = (length + PAGE_SIZE - 1 & U64) & -PAGE_SIZE
    if addr + length > U64:
        return Refusal(EINVAL, f"the range from {addr:#x} ends beyond the last address")
    return length


def _policy_word(policy: Policy) -> tuple[int, Nodemask | Pointer]:
    if isinstance(policy, WeightedInterleave) and policy.weights is not None:
        raise ValueError(f"weights belong to the machine (Machine(weights=...)), not to {policy!r}")
    return policy.mode | policy.flags, user_nodemask(policy.nodes) if policy.nodes else NULL


def _policy_flags(nodes: object, flags: int | None, maxnode: int | None) -> int:
    """Return the flags of ``mbind(addr, length, policy, flags)``: the fourth is no node set."""
    if maxnode is not None or (nodes is not None and flags is not None):
        raise TypeError("nodes and maxnode are for the raw form: the policy has its nodes")
    given = flags if nodes is None else nodes
    return 0 if given is None else as_ulong(given, "flags")


def _out_pointer(value: object, name: str) -> Pointer | None:
    if value is not None and not isinstance(value, Pointer):
        raise TypeError(f"{name} must be NULL, BAD or None (room for the answer), not {value!r}")
    return value


def _unset(n: int) -> npt.NDArray[np.int32]:
    return np.full(n, STATUS_UNSET, dtype=np.int32)


def _status_array(
    status: npt.NDArray[np.int32] | Pointer | None, n: int
) -> npt.NDArray[np.int32] | None:
    """Where statuses go; None for a pointer that cannot be written."""
    if status is None:
        return _unset(n)
    if isinstance(status, Pointer):
        return None
    if not isinstance(status, np.ndarray) or status.dtype != _INT32 or status.ndim != 1:
        raise TypeError(
            f"status must be a one-dimensional array of int32, NULL or BAD, not {status!r}"
        )
    if not (status.flags.c_contiguous and status.flags.writeable) or len(status) < n:
        raise ValueError(f"status must be contiguous, writable and {n} long, not {len(status)}")
    return status


def _with_stored(rc: int, stored: npt.NDArray[np.int32] | None) -> int:
    """Add to an error of move_pages how far it came."""
    if isinstance(rc, Refusal) or stored is None or not len(stored):
        return rc
    n = int(np.count_nonzero(stored != STATUS_UNSET))
    return Refusal(-rc, f"{n} of {len(stored)} statuses were stored before, see result.names")


def _listed(pages: object, nodes: Addresses | int | Pointer | None, n: int) -> int:
    """Return the count of a call that names none: of the pages, of the nodes without a list."""
    if not isinstance(pages, Pointer) or nodes is None:
        return n
    single = isinstance(nodes, Pointer | int | np.integer)
    return 0 if single else len(node_array(nodes, "nodes"))  # type: ignore[arg-type]


def _move_targets(
    nodes: Addresses | int | Pointer | None, n: int | None
) -> npt.NDArray[np.int32] | None:
    """Target nodes of ``n`` pages; None asks where they are, no node stands for a bad pointer.

    ``n`` is None when the pages are a pointer themselves: nothing of either list is read then.
    """
    if nodes is None or nodes is NULL:
        return None
    if isinstance(nodes, Pointer):
        return _NO_NODES
    if isinstance(nodes, int | np.integer):
        return node_array([int(nodes)], "nodes").repeat(n or 0)
    targets = node_array(nodes, "nodes")
    if n is None:
        return _NO_NODES
    if len(targets) != n:
        raise ValueError(f"nodes must be one for each of {n} pages, not {len(targets)}")
    return targets
