"""The NUMA system calls: this module converts arguments, the core checks them and does the work.

The calls are methods of the calling process, which determines credentials, processor and the
meaning of ``pid=0``.  Arguments may be raw, as a C program passes them: mode words, node
collections with a ``maxnode``, and the pointers ``NULL`` and ``BAD`` wherever the kernel takes one.

The order of checks is that of the recordings hand-006 to hand-017, 048, 071 to 073, 087, 088, 090,
099 and 100 of Linux 6.1, described in docs/fidelity.md; 6.12 differs where its profile says so.
"""

from array import array
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pagemig._calls import plain_lists
from pagemig.arguments import (
    Addresses,
    Nodemask,
    NodeSet,
    address_array,
    as_int,
    as_ulong,
    default_maxnode,
    node_array,
    user_memory,
    user_nodemask,
)
from pagemig.constants import (
    BAD,
    MAX_NUMNODES,
    MPOL_MF_MOVE,
    MPOL_MODE_FLAGS,
    NULL,
    PAGE_SIZE,
    STATUS_UNSET,
    Pointer,
)
from pagemig.errors import errno_name, errno_of
from pagemig.pieces import PIECE, full, pieces
from pagemig.policy import Policy, WeightedInterleave, nodes_of, policy_of
from pagemig.system.task import Task

__all__ = ["MoveResult", "NumaCalls", "PolicyResult"]

_UINT64: Final = np.dtype(np.uint64)
_INT32: Final = np.dtype(np.int32)
_UINT_MAX: Final = (1 << 32) - 1
_PAGE_WORDS: Final = PAGE_SIZE // 8
_NO_ADDRESSES: Final = np.empty(0, dtype=np.uint64)
_NO_NODES: Final = np.empty(0, dtype=np.int32)
#: Statuses that a MoveResult shows.
_SHOWN: Final = 16
_empty: Final = np.empty
_frombuffer: Final = np.frombuffer

Pid: TypeAlias = int | Task


class MoveResult(NamedTuple):
    """What ``move_pages`` returned.

    Attributes
    ----------
    rc : int
        0, or how many pages were not migrated: those that failed and those that were not tried.
        In the ``result`` of an exception ``-errno``.
    status : ndarray of int32
        For each page its node, a negative errno, or ``STATUS_UNSET`` where nothing was stored.
    """

    rc: int
    status: npt.NDArray[np.int32]

    @property
    def names(self) -> list[int | str]:
        """Statuses by name: a node, the name of an error, ``"unset"`` where nothing was stored."""
        return [
            s if s >= 0 else errno_name(s)
            for piece in pieces(len(self.status))
            for s in self.status[piece].tolist()
        ]

    def __repr__(self) -> str:
        shown = ", ".join(str(name) for name in self.names[:_SHOWN])
        more = ", ..." if len(self.status) > _SHOWN else ""
        return f"MoveResult(rc={self.rc}, names=[{shown}{more}])"

    @property
    def not_migrated(self) -> int:
        """Pages that failed or were not tried."""
        return max(self.rc, 0)


class PolicyResult(NamedTuple):
    """What ``get_mempolicy`` stored.

    Attributes
    ----------
    mode : int or None
        Mode with its flags, or with ``MPOL_F_NODE`` a node; None for a null pointer.
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
            Mode or nodes were not asked for, or the mode is unknown.
        """
        if self.mode is None or self.nodes is None:
            raise ValueError(f"{self!r} lacks what a policy needs")
        mask = sum(1 << nid for nid in self.nodes)
        return policy_of(self.mode & ~MPOL_MODE_FLAGS, self.mode & MPOL_MODE_FLAGS, mask)


class NumaCalls(Task):
    """System calls about memory placement; part of :class:`pagemig.Process`."""

    __slots__ = ()

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
            ``MPOL_MF_MOVE``: pages mapped once; ``MPOL_MF_MOVE_ALL``: also shared pages.  0 acts
            like MOVE.
        pid : int or Process, default 0
            The process that has the pages; 0 is the caller.
        count : int, optional
            Passed instead of the number of pages, or of nodes if ``pages`` is a pointer.  The
            memory behind the lists is unmapped.
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
            node full).  ``result.status`` has the statuses stored before.
        TypeError, ValueError
            Not integers, not one-dimensional, or lists of different lengths.

        Notes
        -----
        Statuses are those of docs/fidelity.md, "move_pages": -EFAULT (nothing mapped there,
        zero page, in 6.1 untouched anonymous memory), -ENOENT (no page present), -EACCES
        (mapped more than once, without MOVE_ALL), -EBUSY (twice in one run of equal nodes).  If a
        page of a run does not move, the statuses of the run stay unset and the call ends with a
        positive return.
        """
        if flags == MPOL_MF_MOVE and pid == 0 and count is None and status is None:
            # The fast path of short lists: arrays without a copy, lists converted in one call.
            addresses: Any = pages
            targets: Any = nodes
            try:
                if type(pages) is list and len(pages) <= PIECE:
                    addresses = _frombuffer(array("Q", pages), _UINT64)
                if type(nodes) is list and len(nodes) <= PIECE:
                    targets = _frombuffer(array("i", nodes), _INT32)
            except (TypeError, OverflowError):
                targets = BAD  # invalid: the general path raises the error
            if plain_lists(addresses, targets):
                n = len(addresses)
                stored = _empty(n, _INT32)
                stored.fill(STATUS_UNSET)
                rc = self._move_pages(0, n, addresses, targets, stored, MPOL_MF_MOVE)
                if rc >= 0:
                    return MoveResult(rc, stored)
                self._fail_move(rc, stored, told=True)
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
        """Make the call with any kind of argument."""
        self._must_live("move_pages")
        number, total, addresses, targets, bits = move_arguments(
            self, pages, nodes, flags, pid, count
        )
        n = len(addresses)
        stored = _status_array(status, n)
        rc = self._move_pages(number, total, addresses, targets, stored, bits)
        if rc < 0:
            self._fail_move(rc, unset(n) if stored is None else stored, told=status is None)
        return MoveResult(rc, unset(n) if stored is None else stored)

    def _fail_move(self, rc: int, stored: npt.NDArray[np.int32], *, told: bool) -> NoReturn:
        """Raise the error of move_pages; ``told``: say how many statuses were stored."""
        note = how_far(rc, stored) if told else None
        self._fail("move_pages", rc, MoveResult(-errno_of(rc), stored), note=note)

    # ---- migrate_pages ------------------------------------------------------------------------

    def migrate_pages(
        self,
        from_nodes: NodeSet,
        to_nodes: NodeSet,
        *,
        pid: Pid = 0,
        maxnode: int | None = None,
    ) -> int:
        """Move all pages of a process from some nodes to others.

        Pages of the i-th node of ``from_nodes`` go to the i-th of ``to_nodes``, modulo their
        number.  If the sets differ in size, a node in both is left alone.  Shared pages move, too,
        if the caller has CAP_SYS_NICE.

        Parameters
        ----------
        from_nodes, to_nodes : collection of int, ``NULL`` or ``BAD``
            Sets of nodes: order and repetition do not matter.
        pid : int or Process, default 0
            The process that has the pages; 0 is the caller.
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
        arguments = migrate_arguments(self, from_nodes, to_nodes, pid, maxnode)
        rc = self._migrate_pages(*arguments)
        if rc < 0:
            self._fail("migrate_pages", rc, maxnode=arguments[1])
        return rc

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
        """Set the policy of a range of memory, and move misplaced pages there.

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
            (MOVE_ALL without CAP_SYS_NICE), EINVAL (unaligned, range wraps), EINVAL (mode does not
            fit nodes, no such node), EFAULT (nothing mapped in part of the range), EIO.  EIO with
            STRICT alone: a page is misplaced, and the policy is not set.  EIO with STRICT and MOVE:
            a page could not move, and the policy is set.

        Notes
        -----
        Skipping a page that is mapped more than once is not a failure.  A page outside the mask as
        given is misplaced: with Default and Local every page, with Interleave no page inside the
        mask (docs/fidelity.md, "mbind").
        """
        self._must_live("mbind")
        if isinstance(policy, Policy):
            flags = _policy_flags(nodes, flags, maxnode)
            word, mask = policy_word(policy)
        else:
            word = as_ulong(policy, "policy", "a Policy or a mode")
            mask = user_nodemask(NULL if nodes is None else nodes)
        arguments = bind_arguments(addr, length, word, mask, maxnode, flags or 0)
        rc = self._mbind(*arguments)
        if rc < 0:
            self._fail("mbind", rc, addr=arguments[0], mode=word, maxnode=arguments[4])

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
            In the kernel's order: EINVAL (mode), EINVAL, EFAULT (mask), EINVAL (mode does not fit
            nodes, no such node).
        """
        self._must_live("set_mempolicy")
        if isinstance(policy, Policy):
            if nodes is not None or maxnode is not None:
                raise TypeError("nodes and maxnode are for the raw form: the policy has its nodes")
            word, mask = policy_word(policy)
        else:
            word = as_ulong(policy, "policy", "a Policy or a mode")
            mask = user_nodemask(NULL if nodes is None else nodes)
        bits = default_maxnode(mask) if maxnode is None else as_ulong(maxnode, "maxnode")
        rc = self._set_mempolicy(word & _UINT_MAX, user_memory(mask, bits), bits)
        if rc < 0:
            self._fail("set_mempolicy", rc, mode=word, maxnode=bits)

    def get_mempolicy(
        self,
        flags: int = 0,
        addr: int = 0,
        *,
        maxnode: int = MAX_NUMNODES,
        nodemask: Pointer | None = None,
        mode: Pointer | None = None,
    ) -> PolicyResult:
        """Return a policy, or the node of a page.

        Parameters
        ----------
        flags : int, default 0
            0: the process's policy.  ``MPOL_F_ADDR``: that of the memory at ``addr`` (Default
            if it has none of its own).  ``MPOL_F_ADDR | MPOL_F_NODE``: the node of the page
            there, which is faulted in by a read.  ``MPOL_F_NODE``: the next node of an
            interleaving process. ``MPOL_F_MEMS_ALLOWED``: the nodes the process may use.
        addr : int, default 0
            Address in bytes, anywhere in its page.
        maxnode : int, default 1024
            Bits of the caller's mask.
        nodemask, mode : ``NULL`` or ``BAD``, optional
            Pointers to pass instead of memory for the answers.

        Returns
        -------
        PolicyResult
            Mode word (or node) and nodes.  For a policy with static or relative nodes these are the
            nodes as given.

        Raises
        ------
        SyscallError
            In the kernel's order: EINVAL (mask smaller than the number of nodes, flags), EINVAL
            (flags that exclude each other, address without ``MPOL_F_ADDR``, no interleaving),
            EFAULT (nothing mapped, bad pointer), EINVAL (more than a page of mask).
        """
        self._must_live("get_mempolicy")
        bits = as_ulong(maxnode, "maxnode")
        word = _room(mode, "mode", np.int32, 1)
        mask = _room(nodemask, "nodemask", np.uint64, _mask_words(bits))
        rc = self._get_mempolicy(word, mask, bits, as_ulong(addr, "addr"), as_ulong(flags, "flags"))
        if rc < 0:
            self._fail("get_mempolicy", rc)
        return PolicyResult(
            None if word is None else int(word[0]),
            None if mask is None else nodes_of(int(mask[0])),
        )

    def set_mempolicy_home_node(self, addr: int, length: int, node: int, flags: int = 0) -> None:
        """Set the node that a Bind or PreferredMany range tries first.

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
        start, home = as_ulong(addr, "addr"), as_ulong(node, "node")
        rc = self._set_mempolicy_home_node(
            start, as_ulong(length, "length"), home, as_ulong(flags, "flags")
        )
        if rc < 0:
            self._fail("set_mempolicy_home_node", rc, addr=start, node=home)


# ---- arguments --------------------------------------------------------------------------------


def how_far(rc: int, stored: npt.NDArray[np.int32]) -> str | None:
    """Say how many statuses a move_pages stored before it failed; None for one that stored none."""
    if not len(stored) or errno_of(rc) != -rc:
        return None
    n = sum(int(np.count_nonzero(stored[p] != STATUS_UNSET)) for p in pieces(len(stored)))
    return f"{n} of {len(stored)} statuses were stored before, see result.names"


def move_arguments(
    caller: NumaCalls,
    pages: Addresses | Pointer,
    nodes: Addresses | int | Pointer | None,
    flags: int,
    pid: Pid,
    count: int | None,
) -> tuple[int, int, npt.NDArray[np.uint64], npt.NDArray[np.int32] | None, int]:
    """Return pid, count, addresses, target nodes and flags as the core takes them."""
    addresses = _NO_ADDRESSES if isinstance(pages, Pointer) else address_array(pages, "pages")
    n = len(addresses)
    targets = _move_targets(nodes, None if isinstance(pages, Pointer) else n)
    total = _listed(pages, nodes, n) if count is None else as_ulong(count, "count")
    number = caller._pid_number(pid)
    return number, total, addresses, targets, as_int(flags, "flags") & _UINT_MAX


def migrate_arguments(
    caller: NumaCalls, from_nodes: NodeSet, to_nodes: NodeSet, pid: Pid, maxnode: int | None
) -> tuple[int, int, bytes | None, bytes | None]:
    """Return pid, maxnode and both masks as the core takes them."""
    old, new = user_nodemask(from_nodes, "from_nodes"), user_nodemask(to_nodes, "to_nodes")
    if maxnode is None:
        maxnode = max(default_maxnode(old), default_maxnode(new))
    bits = as_ulong(maxnode, "maxnode")
    return caller._pid_number(pid), bits, user_memory(old, bits), user_memory(new, bits)


def bind_arguments(
    addr: int, length: int, word: int, mask: Nodemask | Pointer, maxnode: int | None, flags: int
) -> tuple[int, int, int, bytes | None, int, int]:
    """Return start, length, mode word, mask, maxnode and flags as the core takes them."""
    bits = default_maxnode(mask) if maxnode is None else as_ulong(maxnode, "maxnode")
    start, nbytes = as_ulong(addr, "addr"), as_ulong(length, "length")
    memory = user_memory(mask, bits)
    return start, nbytes, word & _UINT_MAX, memory, bits, as_ulong(flags, "flags")


def policy_word(policy: Policy) -> tuple[int, Nodemask | Pointer]:
    if isinstance(policy, WeightedInterleave) and policy.weights is not None:
        raise ValueError(f"weights belong to the machine (Machine(weights=...)), not to {policy!r}")
    return policy.mode | policy.flags, user_nodemask(policy.nodes) if policy.nodes else NULL


def _policy_flags(nodes: object, flags: int | None, maxnode: int | None) -> int:
    """Return the flags of ``mbind(addr, length, policy, flags)``, which may be positional."""
    if maxnode is not None or (nodes is not None and flags is not None):
        raise TypeError("nodes and maxnode are for the raw form: the policy has its nodes")
    given = flags if nodes is None else nodes
    return 0 if given is None else as_ulong(given, "flags")


def _mask_words(maxnode: int) -> int:
    """Return how many words get_mempolicy writes of a mask: at least one, at most a page."""
    return min(max((maxnode + 62) // 64, 1), _PAGE_WORDS)


def _room(value: object, name: str, dtype: type[Any], n: int) -> npt.NDArray[Any] | None:
    """Return memory for an answer: None for NULL, an empty array for a wild pointer."""
    if value is not None and not isinstance(value, Pointer):
        raise TypeError(f"{name} must be NULL, BAD or None (room for the answer), not {value!r}")
    return None if value is NULL else np.zeros(0 if value is BAD else n, dtype=dtype)


def unset(n: int) -> npt.NDArray[np.int32]:
    return full(n, STATUS_UNSET, np.int32)


def _status_array(
    status: npt.NDArray[np.int32] | Pointer | None, n: int
) -> npt.NDArray[np.int32] | None:
    """Return where statuses go; None for a pointer that cannot be written."""
    if status is None:
        return unset(n)
    if isinstance(status, Pointer):
        return None
    if not isinstance(status, np.ndarray) or status.dtype != _INT32 or status.ndim != 1:
        raise TypeError(
            f"status must be a one-dimensional array of int32, NULL or BAD, not {status!r}"
        )
    # A subclass may override anything.
    stored = status if type(status) is np.ndarray else status.view(np.ndarray)
    if not (stored.flags.carray and len(stored) >= n):
        raise ValueError(
            f"status must be contiguous, aligned, writable and {n} long, not {len(stored)}"
        )
    return stored


def _listed(pages: object, nodes: Addresses | int | Pointer | None, n: int) -> int:
    """Return the count of a call that names none: of the pages, of the nodes without a list."""
    if not isinstance(pages, Pointer) or nodes is None:
        return n
    single = isinstance(nodes, Pointer | int | np.integer)
    return 0 if single else len(node_array(nodes, "nodes"))  # type: ignore[arg-type]


def _move_targets(
    nodes: Addresses | int | Pointer | None, n: int | None
) -> npt.NDArray[np.int32] | None:
    """Return target nodes of ``n`` pages: None only asks, an empty array is a bad pointer.

    ``n`` is None when the pages are a pointer themselves: nothing of either list is read then.
    """
    if nodes is None or nodes is NULL:
        return None
    if isinstance(nodes, Pointer):
        return _NO_NODES
    if isinstance(nodes, int | np.integer):
        return full(n or 0, node_array([int(nodes)], "nodes")[0], np.int32)
    targets = node_array(nodes, "nodes")
    if n is None:
        return _NO_NODES
    if len(targets) != n:
        raise ValueError(f"nodes must be one for each of {n} pages, not {len(targets)}")
    return targets
