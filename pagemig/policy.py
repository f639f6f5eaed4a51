"""Memory policies: rules for where new pages go.

A policy is a small frozen value: a mode, a set of nodes and mode flags.  It is passed to
``set_mempolicy`` or ``mbind``, prints as the kernel prints it in ``numa_maps``, and computes the
nodes of whole arrays of pages.  The arithmetic is only in the core.

docs/fidelity.md describes their surprises; the recordings hand-053 to hand-098 cover every mode.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import index
from typing import ClassVar, Final, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from pagemig import _mpol
from pagemig.arguments import Addresses, address_array, as_int
from pagemig.checked import U64
from pagemig.constants import (
    MAX_NUMNODES,
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
from pagemig.kernels import DEFAULT_KERNEL, KERNELS, KernelProfile
from pagemig.pieces import pieces

__all__ = [
    "Bind",
    "Default",
    "Interleave",
    "Local",
    "Policy",
    "Preferred",
    "PreferredMany",
    "WeightedInterleave",
    "mask_of",
    "nodelist",
    "nodes_of",
    "policy_of",
    "policy_text",
]

_MAX_NODES: Final = 64
_LOW_32: Final = np.uint64(0xFFFFFFFF)
_NEAR: Final = frozenset({MPOL_BIND, MPOL_PREFERRED_MANY})
_INTERLEAVING: Final = frozenset({MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE})


def mask_of(nodes: Iterable[int]) -> int:
    """Return a mask with bit ``n`` set for every node ``n``."""
    mask = 0
    for node in nodes:
        mask |= 1 << node
    return mask


def nodes_of(mask: int) -> tuple[int, ...]:
    """Return the numbers of the bits that are set, rising."""
    return tuple(nid for nid in range(mask.bit_length()) if mask >> nid & 1)


def nodelist(mask: int) -> str:
    """Return the kernel's text for a set of nodes: rising, ranges joined.

    Examples
    --------
    >>> nodelist(0b101111)
    '0-3,5'
    """
    runs: list[list[int]] = []
    for nid in nodes_of(mask):
        if runs and runs[-1][1] == nid - 1:
            runs[-1][1] = nid
        else:
            runs.append([nid, nid])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def policy_text(
    mode: int, flags: int, mask: int, names: Mapping[int, str] | None = None, separator: str = ":"
) -> str:
    """Return the kernel's text for a policy, as in ``/proc/PID/numa_maps``.

    Parameters
    ----------
    mode, flags : int
        ``MPOL_*`` and ``MPOL_F_*``.
    mask : int
        The nodes the policy uses (not those it was asked for).
    names : mapping of int to str, optional
        Text of each mode; a profile's ``mode_names``, by default today's.
    separator : str, default ":"
        What stands before the nodes; a profile's ``mode_separator``.

    Returns
    -------
    str
        As ``"interleave=static:1,3"``.  With balancing after another flag the two are joined by
        ``|``.
    """
    text = (names or KERNELS["6.12"].mode_names)[mode]
    words = []
    if flags & MPOL_F_STATIC_NODES:
        words.append("static")
    elif flags & MPOL_F_RELATIVE_NODES:
        words.append("relative")
    if flags & MPOL_F_NUMA_BALANCING:
        words.append("balancing")
    if words:
        text += "=" + "|".join(words)
    return f"{text}{separator}{nodelist(mask)}" if mask else text


class Placing(Protocol):
    """What a policy needs of a machine; :class:`pagemig.Machine` has it."""

    profile: KernelProfile

    @property
    def nr_nodes(self) -> int: ...

    @property
    def _memory_mask(self) -> int: ...

    def _weights(self) -> npt.NDArray[np.uint8]: ...

    def _nearest(self, local: int, mask: int, /) -> int: ...


class Policy:
    """A memory policy: mode, nodes and mode flags.  Immutable, comparable, hashable.

    Do not construct it; use one of the subclasses.  A policy that the kernel refuses can be made
    (``Bind([])``, ``static`` with ``relative``); a call with it answers EINVAL.

    Attributes
    ----------
    nodes : tuple of int
        Node numbers as given, rising, each once.
    static : bool
        ``MPOL_F_STATIC_NODES``: the nodes are never remapped.
    relative : bool
        ``MPOL_F_RELATIVE_NODES``: the nodes count within those allowed.
    balancing : bool
        ``MPOL_F_NUMA_BALANCING``: automatic balancing within the nodes.
    """

    __slots__ = ("flags", "nodes")

    #: ``MPOL_*`` number of the mode.
    mode: ClassVar[int]
    nodes: tuple[int, ...]
    flags: int

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self!r} is immutable: {name} cannot be deleted")

    def _set(self, nodes: Iterable[int], *, static: bool, relative: bool, balancing: bool) -> None:
        flags = MPOL_F_STATIC_NODES if static else 0
        flags |= MPOL_F_RELATIVE_NODES if relative else 0
        flags |= MPOL_F_NUMA_BALANCING if balancing else 0
        object.__setattr__(self, "nodes", _node_numbers(nodes, type(self).__name__))
        object.__setattr__(self, "flags", flags)

    @property
    def static(self) -> bool:
        """``MPOL_F_STATIC_NODES`` is set."""
        return bool(self.flags & MPOL_F_STATIC_NODES)

    @property
    def relative(self) -> bool:
        """``MPOL_F_RELATIVE_NODES`` is set."""
        return bool(self.flags & MPOL_F_RELATIVE_NODES)

    @property
    def balancing(self) -> bool:
        """``MPOL_F_NUMA_BALANCING`` is set."""
        return bool(self.flags & MPOL_F_NUMA_BALANCING)

    @property
    def mask(self) -> int:
        """The nodes as bits."""
        return mask_of(self.nodes)

    def _key(self) -> tuple[object, ...]:
        return (self.mode, self.nodes, self.flags)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[object, ...]:
        return policy_of, (self.mode, self.flags, self.mask)

    def _arguments(self) -> list[str]:
        return [repr(list(self.nodes))]

    def __repr__(self) -> str:
        words = self._arguments()
        words += [
            f"{name}=True" for name in ("static", "relative", "balancing") if getattr(self, name)
        ]
        return f"{type(self).__name__}({', '.join(words)})"

    def __str__(self) -> str:
        """Return the kernel's text, as ``"bind:1-2"``, with all nodes as given."""
        return policy_text(self.mode, self.flags, self.mask)

    def effective_nodes(self, allowed: Iterable[int]) -> tuple[int, ...]:
        """Return the nodes that the kernel will use if only some are allowed.

        Parameters
        ----------
        allowed : iterable of int
            Nodes with memory that the cpuset allows; ``machine.memory_nodes``.

        Returns
        -------
        tuple of int
            The given nodes that are allowed.  With ``relative``, node ``n`` is the ``n``-th allowed
            node, modulo their number.  For ``Preferred`` only the first.  Empty for ``Default`` and
            ``Local``, and where the kernel would answer EINVAL.
        """
        numbers = _node_numbers(allowed, "allowed")
        return nodes_of(
            self._effective(mask_of(numbers) & U64)
        )  # no machine has more than 64 nodes

    def _effective(self, allowed: int) -> int:
        user = self.mask.to_bytes(MAX_NUMNODES // 8, "little")
        return _mpol.mpol_effective(self.mode, self.flags, user, allowed)

    def targets(
        self,
        pages: Addresses,
        *,
        local: int = 0,
        machine: Placing | None = None,
    ) -> npt.NDArray[np.int32]:
        """Return the node the policy prescribes for each of many pages.

        Parameters
        ----------
        pages : array of int, shape (n,)
            Page numbers: address / 4096 for private anonymous memory; inode number + page index for
            shared memory.  Only interleaving looks at them.
        local : int, default 0
            Node of the running processor.
        machine : Machine, optional
            Its nodes with memory are the allowed ones; its distances, its weights and its kernel's
            32-bit or 64-bit page numbers apply.  Without a machine every given node exists, all are
            equally far, and page numbers count modulo 2**32 as in 6.1.

        Returns
        -------
        ndarray of int32, shape (n,)
            Node of every page, before any fall-back for lack of memory.

        Raises
        ------
        ValueError
            The policy leaves no allowed node, or there is no node ``local``.
        """
        local = as_int(local, "local")
        most = _MAX_NODES if machine is None else machine.nr_nodes
        if not 0 <= local < most:
            raise ValueError(f"local must be a node from 0 to {most - 1}, not {local}")
        numbers = address_array(pages, "pages")
        allowed = machine._memory_mask if machine is not None else self._present_mask(local)
        nodes = self._effective(allowed)
        if not nodes and self.mode not in (MPOL_DEFAULT, MPOL_LOCAL):
            raise ValueError(f"{self!r} leaves no node of {nodelist(allowed) or 'none'}")
        profile = machine.profile if machine is not None else KERNELS[DEFAULT_KERNEL]
        wraps = profile.interleave_bits == 32 and self.mode in _INTERLEAVING
        if self.mode in _NEAR:
            local = _nearest(local, nodes) if machine is None else machine._nearest(local, nodes)
        out = np.empty(len(numbers), dtype=np.int32)
        weights = self._weights(machine)
        for piece in pieces(len(numbers)):
            part = numbers[piece] & _LOW_32 if wraps else numbers[piece]
            _mpol.mpol_targets(self.mode, self.flags, nodes, weights, part, local, out[piece])
        return out

    def _present_mask(self, local: int) -> int:
        if self.relative:
            raise ValueError(f"{self!r} counts within the nodes of a machine; pass machine=")
        if any(nid >= _MAX_NODES for nid in self.nodes):
            raise ValueError(f"nodes of {self!r} must be below {_MAX_NODES}")
        return self.mask | 1 << local

    def _weights(self, machine: Placing | None) -> npt.NDArray[np.uint8]:
        if machine is not None:
            return machine._weights()
        return np.ones(_MAX_NODES, dtype=np.uint8)


def _node_numbers(nodes: Iterable[int], name: str) -> tuple[int, ...]:
    if isinstance(nodes, str | bytes) or not isinstance(nodes, Iterable):
        raise TypeError(f"nodes of {name} must be a collection of node numbers, not {nodes!r}")
    numbers: set[int] = set()
    for node in nodes:  # as far as the first that is wrong: a range may be longer than memory
        try:
            number = index(node)
        except TypeError:
            raise TypeError(f"nodes of {name} must be integers, not {nodes!r}") from None
        if not 0 <= number < MAX_NUMNODES:
            raise ValueError(
                f"nodes of {name} must be from 0 to {MAX_NUMNODES - 1}, not {nodes!r:.200}"
            )
        numbers.add(number)
    return tuple(sorted(numbers))


def _nearest(local: int, mask: int) -> int:
    """Return the node tried first if all are equally far: the local one, else the lowest."""
    return local if mask >> local & 1 else nodes_of(mask)[0]


class Default(Policy):
    """No policy: the next level's applies, in the end the node of the running processor."""

    __slots__ = ()
    mode = MPOL_DEFAULT

    def __init__(self) -> None:
        self._set((), static=False, relative=False, balancing=False)

    def _arguments(self) -> list[str]:
        return []


class Local(Policy):
    """The node of the running processor, then the nearest (Linux 3.8 and later)."""

    __slots__ = ()
    mode = MPOL_LOCAL

    def __init__(self) -> None:
        self._set((), static=False, relative=False, balancing=False)

    def _arguments(self) -> list[str]:
        return []


class Preferred(Policy):
    """One node first, then the others by distance.

    Parameters
    ----------
    node : int, iterable of int or None, default None
        Of several the kernel keeps the lowest allowed one; without any it makes ``Local``.
    static, relative : bool
        Mode flags.
    """

    __slots__ = ()
    mode = MPOL_PREFERRED

    def __init__(
        self,
        node: int | Iterable[int] | None = None,
        *,
        static: bool = False,
        relative: bool = False,
    ) -> None:
        nodes = () if node is None else node if isinstance(node, Iterable) else (node,)
        self._set(nodes, static=static, relative=relative, balancing=False)

    def _arguments(self) -> list[str]:
        if len(self.nodes) == 1:
            return [repr(self.nodes[0])]
        return super()._arguments() if self.nodes else []


class _NodesPolicy(Policy):
    __slots__ = ()

    def __init__(
        self,
        nodes: Iterable[int],
        *,
        static: bool = False,
        relative: bool = False,
        balancing: bool = False,
    ) -> None:
        self._set(nodes, static=static, relative=relative, balancing=balancing)


class Bind(_NodesPolicy):
    """Only these nodes, the nearest to the running processor first; never any other.

    Parameters
    ----------
    nodes : iterable of int
        Node numbers.
    static, relative, balancing : bool
        Mode flags.
    """

    __slots__ = ()
    mode = MPOL_BIND


class Interleave(_NodesPolicy):
    """Page ``r`` goes to node number ``r mod n`` of the set: by address, not by order of touch.

    Parameters
    ----------
    nodes : iterable of int
        Node numbers.
    static, relative, balancing : bool
        Mode flags; the kernel refuses ``balancing`` here.
    """

    __slots__ = ()
    mode = MPOL_INTERLEAVE


class PreferredMany(_NodesPolicy):
    """These nodes first, the nearest before the others; then all (Linux 5.15 and later).

    Parameters
    ----------
    nodes : iterable of int
        Node numbers.
    static, relative, balancing : bool
        Mode flags; ``balancing`` only where the kernel allows it.
    """

    __slots__ = ()
    mode = MPOL_PREFERRED_MANY


class WeightedInterleave(Policy):
    """Interleave in proportion to weights (Linux 6.9 and later).

    Parameters
    ----------
    nodes : iterable of int
        Node numbers.
    weights : sequence of int or mapping of int to int, optional
        1 to 255, one for each node in the order given, or by node number.  They serve
        :meth:`targets` only: in a kernel weights belong to the machine (``Machine(weights=...)``),
        so a call refuses a policy that brings its own.
    static, relative : bool
        Mode flags.
    """

    __slots__ = ("weights",)
    mode = MPOL_WEIGHTED_INTERLEAVE
    weights: tuple[int, ...] | None

    def __init__(
        self,
        nodes: Iterable[int],
        weights: Sequence[int] | Mapping[int, int] | None = None,
        *,
        static: bool = False,
        relative: bool = False,
    ) -> None:
        if isinstance(nodes, Iterable):  # read twice; one more than there can be is wrong already
            nodes = list(islice(nodes, MAX_NUMNODES + 1))
        self._set(nodes, static=static, relative=relative, balancing=False)
        object.__setattr__(self, "weights", _weights_of(self.nodes, nodes, weights))

    def _key(self) -> tuple[object, ...]:
        return (*super()._key(), self.weights)

    def __reduce__(self) -> tuple[object, ...]:
        return _weighted, (self.nodes, self.weights, self.static, self.relative)

    def _arguments(self) -> list[str]:
        words = super()._arguments()
        return words if self.weights is None else [*words, repr(list(self.weights))]

    def _weights(self, machine: Placing | None) -> npt.NDArray[np.uint8]:
        table = super()._weights(machine)
        if self.weights is not None:
            table = table.copy()
            table[list(self.nodes)] = self.weights
        return table


def _weighted(
    nodes: tuple[int, ...], weights: tuple[int, ...] | None, static: bool, relative: bool
) -> WeightedInterleave:
    return WeightedInterleave(nodes, weights, static=static, relative=relative)


def _weights_of(
    nodes: tuple[int, ...],
    given: Iterable[int],
    weights: Sequence[int] | Mapping[int, int] | None,
) -> tuple[int, ...] | None:
    """Return weights in the order of ``nodes`` (rising), given in the order of ``given``."""
    if weights is None:
        return None
    order = list(given)
    if not isinstance(weights, Sequence | Mapping | np.ndarray) or isinstance(weights, str | bytes):
        raise TypeError(f"weights must be a sequence or a mapping, not {weights!r}")
    if not isinstance(weights, Mapping):
        if len(weights) != len(order):
            raise ValueError(f"weights must be one for each of {len(order)} nodes, not {weights!r}")
        weights = dict(zip(order, weights, strict=True))
    try:
        values = tuple(index(weights[nid]) for nid in nodes)
    except KeyError as missing:
        raise ValueError(f"weights has none for node {missing}: {weights!r}") from None
    except TypeError:
        raise TypeError(f"weights must be integers, not {weights!r}") from None
    if not all(1 <= value <= 255 for value in values):
        raise ValueError(f"weights must be from 1 to 255, not {list(values)}")
    if any(nid >= _MAX_NODES for nid in nodes):
        raise ValueError(f"weights are for nodes below {_MAX_NODES}, not {list(nodes)}")
    return values


def policy_of(mode: int, flags: int, mask: int) -> Policy:
    """Return the policy of a mode, mode flags and a node mask, as ``get_mempolicy`` has them.

    Raises
    ------
    ValueError
        No policy has that mode.
    """
    nodes = nodes_of(mask)
    policy: Policy
    if mode == MPOL_DEFAULT:
        policy = Default()
    elif mode == MPOL_LOCAL:
        policy = Local()
    elif mode == MPOL_PREFERRED:
        policy = Preferred(nodes)
    elif mode == MPOL_WEIGHTED_INTERLEAVE:
        policy = WeightedInterleave(nodes)
    elif mode in _PLAIN:
        policy = _PLAIN[mode](nodes)
    else:
        raise ValueError(f"mode must be a policy mode, not {mode!r}")
    object.__setattr__(policy, "flags", flags)
    return policy


_PLAIN: Final[dict[int, type[_NodesPolicy]]] = {
    cls.mode: cls for cls in (Bind, Interleave, PreferredMany)
}
