"""Who may look at and move whose memory.

The rules of ``ptrace`` with ``PTRACE_MODE_READ_REALCREDS``, which move_pages and migrate_pages ask
(docs/fidelity.md, "move_pages"; recorded in hand-011, hand-027, hand-050).  User
namespaces and security modules are not modelled.
"""

from typing import Final, NamedTuple

__all__ = [
    "CAP_ALL",
    "CAP_IPC_LOCK",
    "CAP_SYS_ADMIN",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "INIT_PID",
    "KERNEL_THREAD",
    "KTHREAD_PID",
    "Credentials",
    "may_access",
    "may_signal",
]

#: The pid of init: a process of root with no memory worth looking at.
INIT_PID: Final = 1
#: The pid of a kernel thread: root's, without memory.
KTHREAD_PID: Final = 2

# Capabilities, as the core numbers them.
CAP_SYS_NICE: Final = 1
CAP_SYS_PTRACE: Final = 2
CAP_IPC_LOCK: Final = 4
CAP_SYS_ADMIN: Final = 8
CAP_ALL: Final = 15


class Credentials(NamedTuple):
    """Identity of a process.

    Attributes
    ----------
    uid, euid, suid : int
        Real, effective and saved user.
    gid : int
        Group; real, effective and saved are the same.
    caps : int
        Capabilities, ``CAP_*``.
    dumpable : bool
        Others of the same user may look at the memory.
    """

    uid: int
    euid: int
    suid: int
    gid: int
    caps: int
    dumpable: bool


#: A kernel thread: root with every capability, and no memory of its own.
KERNEL_THREAD: Final = Credentials(0, 0, 0, 0, CAP_ALL, dumpable=False)


def may_signal(caller: Credentials, target: Credentials) -> bool:
    """Whether ``caller`` may move the pages of another process, in the kernels of 2006.

    Parameters
    ----------
    caller, target : Credentials
        Of two different processes.

    Returns
    -------
    bool
        True when the caller's real or effective id is the target's real or saved one;
        ``CAP_SYS_NICE`` stands in for that.
    """
    if caller.caps & CAP_SYS_NICE:
        return True
    return bool({caller.uid, caller.euid} & {target.uid, target.suid})


def may_access(caller: Credentials, target: Credentials, *, target_has_mm: bool) -> bool:
    """Whether ``caller`` may read the memory of another process.

    Parameters
    ----------
    caller, target : Credentials
        Of two different processes; a process may always look at itself.
    target_has_mm : bool
        False for kernel threads and zombies: nothing to dump then.

    Returns
    -------
    bool
        True when the caller's real ids are all of the target's ids, the target is dumpable and has
        no capability the caller lacks; ``CAP_SYS_PTRACE`` stands in for each of the three.
    """
    if caller.caps & CAP_SYS_PTRACE:
        return True
    same_user = caller.uid == target.euid == target.suid == target.uid
    if not (same_user and caller.gid == target.gid):
        return False
    if target_has_mm and not target.dumpable:
        return False
    return not target.caps & ~caller.caps
