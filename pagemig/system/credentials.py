"""Processes that always exist, and capabilities, as the core numbers both.

The core, in ``mm/cred.pyx``, decides which process may look at and move another's memory.
"""

from typing import Final

__all__ = [
    "CAP_ALL",
    "CAP_IPC_LOCK",
    "CAP_SYS_ADMIN",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "INIT_PID",
    "KTHREAD_PID",
]

#: The pid of init: a process of root without mapped memory.
INIT_PID: Final = 1
#: The pid of a kernel thread: root's, without memory.
KTHREAD_PID: Final = 2

# Capabilities, as the core numbers them.
CAP_SYS_NICE: Final = 1
CAP_SYS_PTRACE: Final = 2
CAP_IPC_LOCK: Final = 4
CAP_SYS_ADMIN: Final = 8
CAP_ALL: Final = 15
