"""The machine and its processes as Python objects: owners of the state, nothing more.

Every method takes plain numbers or C-contiguous arrays of the exact dtype, releases the interpreter lock for the
whole call, and returns a count, an address or a negative errno.  ``machine.py`` and ``process.py`` give the numbers their
meaning.
"""
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetInterrupt
from libc.errno cimport EIO
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from pagemig._arrays cimport data_of, own_data, U8
from pagemig.mm.atomic cimport pmg_load, pmg_load32, pmg_load32_acq, pmg_store32
from pagemig.mm.build cimport build_arenas, build_nodes, build_swap, node_spec_t, profile_layout, scatter, set_profile
from pagemig.mm.check cimport check_machine, CHECK_STOPPED, checker_release, invariant_error, violation_t
from pagemig.mm.context cimport calls_running, ctx_bind, ctx_get, ctx_put, ctx_release_all, switch_mm
from pagemig.mm.cred cimport cred_t, get_cred
from pagemig.mm.fork cimport (
    all_threads, find_get_task_by_vpid, get_task, limit_memlock, mmget_not_zero, mmput, mmput_unless_last, put_task,
)
from pagemig.mm.mig cimport mig_release_all
from pagemig.mm.notify cimport call_refused, callbacks_release
from pagemig.mm.page_alloc cimport arenas_release, mm_of, task_of, vma_index
from pagemig.mm.types cimport (
    ctx_t, machine_t, MAX_NODES, MAX_SWAPFILES, mm_t, MODE_ACTORS, MODE_THREADS, PMG_WAIT, profile_t, PVEC_MAX, STAGE,
    TASK_FREE, TASK_RUNNING, task_t, vma_t, WAIT_PASS,
)

import errno
import os
import threading
from threading import active_count, get_ident
from time import monotonic, sleep
from weakref import WeakSet

import numpy as np

from pagemig.arguments import as_int
from pagemig.errors import ProcessGoneError


HOOK_PATIENCE = 10.0        # seconds that a call from a hook waits while other threads may still end the wait

_places = profile_layout()
#: The dtype of ``profile_t``: kernels.py compares its own record with it.
PROFILE = np.dtype({"names": list(_places), "formats": [np.uint32] * len(_places),
                    "offsets": [4 * at for at in _places.values()], "itemsize": sizeof(profile_t)})
PVEC_LARGEST = PVEC_MAX

# -- hooks -----------------------------------------------------------------------------------------------------

cdef int call_step(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil:
    with gil:
        return (<Machine> <object> c.m.hook_data)._run_hook(step, pfns, n)


cdef int call_migrate(ctx_t *c, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept nogil:
    with gil:
        return (<Machine> <object> c.m.hook_data)._run_migrate(vma, old, new, flags)


cdef int call_wait(ctx_t *c, int what, uint32_t which) noexcept nogil:
    with gil:
        return (<Machine> <object> c.data)._run_wait(c, what, which)


cdef bint call_signal(ctx_t *c) noexcept nogil:
    with gil:
        return (<Machine> <object> c.data)._run_signal()


cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    bint PyOS_InterruptOccurred()       # takes SIGINT, without its handler


cdef class Stop:
    """Keeps what a signal handler raised during a long call without a context, which ends the call."""


cdef bint call_stop(void *private_) noexcept with gil:
    cdef Stop stop = <Stop> private_
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        stop.error = error
        return True
    return False


cdef bint call_peek(void *private_) noexcept with gil:
    """Whether Ctrl-C waits for its handler, which does not run here: it could end a migration that the caller reads."""
    if not PyOS_InterruptOccurred():
        return False
    PyErr_SetInterrupt()        # the question has taken the signal
    return True


cdef unsigned long main_thread

#: All living machines, for children of os.fork.
_machines = WeakSet()


def _find_main_thread():
    """Note the main thread, the only one in which signal handlers run."""
    global main_thread
    main_thread = threading.main_thread().ident


def _after_fork():
    """Tell all machines in the child that its other threads, and the calls they were in, are gone."""
    cdef Machine machine
    _find_main_thread()
    for machine in list(_machines):
        machine.lose_threads()


_find_main_thread()
os.register_at_fork(after_in_child=_after_fork)


cdef class Hooked:
    """Context manager around a hook of a machine that runs in this thread."""

    cdef Machine machine

    def __cinit__(self, Machine machine):
        self.machine = machine

    def __enter__(self):
        self.machine.hooked[get_ident()] = self.machine.hooked.get(get_ident(), 0) + 1

    def __exit__(self, *error):
        self.machine.hooked[get_ident()] -= 1
        if self.machine.hooked[get_ident()] == 0:
            del self.machine.hooked[get_ident()]


cdef class Machine:
    """Memory of a NUMA machine and all processes on it; owner of the whole state.

    Parameters
    ----------
    node_pages, node_cpus, node_reserved, node_watermarks : list of int
        Per node: frames, processors, frames kept for the kernel, and frames left to allocations with no other node.
    distances : ndarray of uint8, shape (n, n)
        Distance between nodes; decides the fallback order, ties by number.
    page_bytes : int
        Content kept per page: 0, 8 or 4096 bytes.
    profile : bytes
        A record of the dtype ``PROFILE``, which is ``profile_t``.
    access_stats : bool
        Count accesses per page and node.
    scatter_seed : int
        0, or the seed of a random order in which frames are allocated.
    swap_slots : list of int
        Pages of each swap device.

    Raises
    ------
    MemoryError
        The host refused the address space.
    """

    def __cinit__(self, list node_pages, list node_cpus, distances, int page_bytes, bytes profile,
                  list node_reserved, list node_watermarks, bint access_stats=False, uint64_t scatter_seed=0,
                  list swap_slots=None, *args, **kwargs):
        self.m = <machine_t *> calloc(1, sizeof(machine_t))
        if self.m == NULL:
            raise MemoryError
        if set_profile(self.m, <const char *> profile, len(profile)):
            raise ValueError(f"profile must be a record of {PROFILE.itemsize} bytes, not {len(profile)}")
        self.m.page_bytes = page_bytes
        self.m.access_stats = access_stats
        self.m.width = STAGE
        self.hooked = {}
        self.raised = {}
        self.hear()
        self.m.next_pid = 1000
        self.m.next_ino = 1
        self.m.next_ops = 1
        self.build(node_pages, node_cpus, node_reserved, node_watermarks, distances, scatter_seed, swap_slots or [])
        _machines.add(self)

    cdef void hear(self) noexcept:
        """Point the machine's hooks to this object, also after it adopted another machine."""
        self.m.hook_data = <void *> self
        self.m.migrate_fn = call_migrate
        self.m.step_fn = NULL
        if self.step_hook is not None:
            self.m.step_fn = call_step

    cdef int build(self, list pages, list cpus, list reserved, list watermarks, distances, uint64_t seed,
                   list swap_slots) except -1:
        cdef node_spec_t nodes[MAX_NODES]
        cdef uint64_t slots[MAX_SWAPFILES]
        cdef uint32_t i, n = <uint32_t> len(pages), devices = <uint32_t> len(swap_slots)
        cdef uint8_t *rows = <uint8_t *> data_of(distances, U8, "distances")
        for i in range(n):
            nodes[i].pages = pages[i]
            nodes[i].cpus = cpus[i]
            nodes[i].reserved = reserved[i]
            nodes[i].watermark = watermarks[i]
            nodes[i].weight = 1
        for i in range(devices):
            slots[i] = swap_slots[i]
        if devices and not self.m.profile.swap:
            raise ValueError("swap needs a kernel profile with swap=1: only the kernels of 2006 have one")
        if build_nodes(self.m, nodes, n, rows) or build_arenas(self.m) or build_swap(self.m, slots, devices):
            raise MemoryError("the host refused to reserve the memory of the machine")
        return 0 if seed == 0 else self.scattered(seed)

    cdef int scattered(self, uint64_t seed) except -1:
        cdef Stop stop = Stop()
        with nogil:
            scatter(self.m, seed, call_stop, <void *> stop)
        if stop.error is not None:
            raise stop.error
        return 0

    def __dealloc__(self):
        checker_release(&self.checker)
        if self.m != NULL:
            ctx_release_all(self.m)
            mig_release_all(self.m)
            callbacks_release(self.m)
            arenas_release(self.m)
            free(self.m)

    def __init__(self, *args, **kwargs):
        pass

    # -- contexts: one per call and thread -------------------------------------------------------------------

    cdef ctx_t *enter(self) except NULL:
        # Everything that may raise comes before anything is held.
        self.must_be_whole()
        cdef bint asked = self.wait_hook is not None or self.is_nested() or pmg_load32(&self.m.migs_busy) != 0
        cdef ctx_t *c = ctx_get(self.m)
        if c == NULL:
            raise MemoryError("no memory for another call")
        if call_refused(self.m, NULL):
            ctx_put(c)
            raise OSError(errno.EDEADLK, "a callback that runs under locks may not make a call")
        c.data = <void *> self
        c.wait_fn = call_wait
        c.wait_mode = MODE_ACTORS if asked else MODE_THREADS
        if PyThread_get_thread_ident() == main_thread:
            c.signal_fn = call_signal
        return c

    cdef void lose_threads(self) noexcept:
        """Adapt to the child of os.fork, where only this thread is left."""
        me = get_ident()
        depth = self.hooked.get(me, 0)
        self.hooked = {me: depth} if depth else {}
        if self.checking is not None and self.checking != me:
            self.checking = None
            memset(&self.checker, 0, sizeof(self.checker))
        if pmg_load32(&self.m.ctx_lock) or calls_running(self.m) + self.inside > <uint32_t> depth:
            self.torn = True

    cdef int must_be_whole(self) except -1:
        if self.torn:
            raise RuntimeError(
                "another thread was inside a call of this machine when the process forked: use the machine in the parent, or "
                "make one here")
        if self.copying is not None and self.copying == get_ident():
            raise RuntimeError(
                "this thread copies or saves the machine: a signal handler, or what it is written to, cannot call it")
        return 0

    cdef bint is_nested(self):
        """Whether a hook makes the call, which may wait for something that the interrupted call itself holds."""
        return len(self.hooked) != 0 and get_ident() in self.hooked

    cdef int wait_nested(self, ctx_t *c) except *:
        """Do one round of waiting in a call from a hook, or beside migrations that only their caller can step.

        When no other thread is left that could end the wait, RuntimeError, or -PMG_WAIT if the wait is dispensable.
        """
        cdef uint32_t busy = calls_running(self.m), depth = self.hooked.get(get_ident(), 0)
        cdef double now = monotonic()
        if c.nested_deadline == 0:
            c.nested_deadline = now + HOOK_PATIENCE
        if now > c.nested_deadline or busy <= depth + 1 and (depth or active_count() == 1):
            if c.dispensable:
                return -PMG_WAIT
            raise RuntimeError(
                "a hook made a call that waits for what is held while the hook runs" if depth else
                "the call waits for a migration that is under way: step that one, or make accesses through a context")
        # Another thread must end the wait: spin for a moment, then leave it the host's processor.
        sleep(0 if c.nested_deadline - now > HOOK_PATIENCE - 0.002 else 0.001)
        return 0

    cdef void put_mm(self, ctx_t *c) noexcept:
        """Drop the address space; the last reference tears it down, which may wait."""
        if not mmput_unless_last(self.m, c.mm):
            with nogil:
                mmput(c, c.mm)
        c.mm = 0

    cdef int leave(self, ctx_t *c) except -1:
        """End the call, and raise here what a hook raised during it."""
        if c.mm:
            self.put_mm(c)
        if c.task:
            put_task(self.m, c.task)
        failed = c.hook_error != 0
        ctx_put(c)
        if self.raised:
            self.raise_kept()
        if failed:
            raise RuntimeError("a callback of the machine returned an error")
        return 0

    cdef tuple depth(self):
        """Name this thread and how many hooks it is in."""
        return get_ident(), self.hooked.get(get_ident(), 0)

    cdef void keep_error(self, object error) noexcept:
        """Keep what a hook raised for the call that it interrupted; the first error counts."""
        self.raised.setdefault(self.depth(), error)

    cdef int raise_kept(self) except -1:
        """Raise what a hook of the ending call raised."""
        error = self.raised.pop(self.depth(), None)
        if error is not None:
            raise error
        return 0

    cdef int _run_hook(self, int step, const uint32_t *pfns, uint32_t n) noexcept:
        hook = self.step_hook           # read once: the hook or another thread may remove it while a call is under way
        if hook is None:
            return 0
        try:
            with Hooked(self):
                hook(step, [pfns[i] for i in range(n)])
        except BaseException as error:
            self.keep_error(error)
        return 0

    cdef int _run_migrate(self, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept:
        try:
            with Hooked(self):
                return self._vma_migrate(vma.ops, vma_index(self.m, vma), old, new, flags)
        except BaseException as error:
            self.keep_error(error)
            return -EIO

    cdef bint _run_signal(self) noexcept:
        """Run pending signal handlers; True if one raised, which ends the call."""
        try:
            with Hooked(self):
                PyErr_CheckSignals()
        except BaseException as error:
            self.keep_error(error)
            return True
        return False

    def _vma_migrate(self, uint32_t ops, uint32_t vma, uint64_t old, uint64_t new, uint32_t flags):
        """Run the migrate operation ``ops`` of a VMA; a subclass that registers operations overrides this."""
        return 0

    cdef int _run_wait(self, ctx_t *c, int what, uint32_t which) noexcept:
        hook = self.wait_hook
        try:
            if hook is not None:
                return int(hook(what, which))
            if not c.dispensable:           # else only the call that has the page may end the wait
                with Hooked(self):          # calls of a handler may need what this one holds
                    PyErr_CheckSignals()
            if what == WAIT_PASS or not (self.is_nested() or pmg_load32(&self.m.migs_busy)):
                return 0
            return self.wait_nested(c)
        except BaseException as error:
            self.keep_error(error)
            return -PMG_WAIT

    @property
    def width(self):
        """Pages a stage of the migration engine handles, 1 to 64; results do not depend on it."""
        return self.m.width

    @width.setter
    def width(self, n):
        if not hasattr(n, "__index__"):
            raise TypeError(f"width must be an integer, not {n!r}")
        if not 1 <= n <= STAGE:
            raise ValueError(f"width must be 1 to {STAGE}, not {n}")
        self.m.width = n

    @property
    def nr_cpus(self):
        """Number of processors."""
        return self.m.nr_cpus

    # -- invariants ------------------------------------------------------------------------------------------------

    def check(self, bint full=False):
        """Check every invariant of a machine at rest; the cost grows with what is in use.

        Parameters
        ----------
        full : bool, default False
            Also check every frame and every free list.

        Raises
        ------
        InvariantError
            An invariant is broken; the text has the rule, the page and both values.
        """
        cdef violation_t v
        cdef int rule
        cdef Stop stop = Stop()
        self.must_be_whole()
        if self.checking == get_ident():
            raise RuntimeError("check() is already running in this thread: a signal handler cannot call it too")
        self.checking = get_ident()
        try:
            with nogil:
                rule = check_machine(self.m, &self.checker, full, call_stop, call_peek, <void *> stop, &v)
            if rule == CHECK_STOPPED and stop.error is None:
                PyErr_CheckSignals()
                with nogil:         # the handler has returned: once more, to the end
                    rule = check_machine(self.m, &self.checker, full, call_stop, NULL, <void *> stop, &v)
        finally:
            self.checking = None
        if rule == CHECK_STOPPED:
            raise stop.error
        if rule < 0:
            raise MemoryError("no memory for the notes of check()")
        if rule:
            raise invariant_error(self.m, &v)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _at_step(self, hook):
        """Call ``hook(step, pfns)`` between the stages of every migration; None: no hook."""
        self.step_hook = hook
        self.hear()

    def _on_wait(self, hook):
        """Call ``hook(what, which)`` instead of spinning where anything waits; None: spin."""
        self.wait_hook = hook

cdef class Process:
    """A process of a machine: the calling side of every system call.

    Any number of threads may use one object.  If another thread ends and reaps the process during a call, the call
    continues with the record and the address space it began with, and never sees those of a process started since.  A call
    after the reaping raises ``ProcessGoneError``.

    Parameters
    ----------
    machine : Machine
    pid : int
        Its process number.

    Raises
    ------
    ProcessGoneError
        No process has that pid, or it was reaped.
    """

    def __cinit__(self, Machine machine not None, pid, *args, **kwargs):
        cdef int32_t number = as_int(pid, "pid")
        machine.must_be_whole()
        self.core = machine
        self.m = machine.m
        self.t = find_get_task_by_vpid(self.m, <uint32_t> number) if number > 0 else NULL
        if self.t == NULL:
            raise ProcessGoneError(f"Process {pid} has exited")
        self._pid = <uint32_t> number
        self._task = <uint32_t> (self.t - task_of(self.m, 0))
        put_task(self.m, self._task)

    def __init__(self, *args, **kwargs):
        pass

    cdef object gone(self):
        return ProcessGoneError(f"Process {self._pid} has exited")

    cdef task_t *hold(self) except NULL:
        """Get the record, referenced until put_task."""
        cdef task_t *t
        self.core.must_be_whole()
        t = get_task(self.m, self._task, self._pid)
        if t == NULL:
            raise self.gone()
        return t

    cdef bint attach(self, ctx_t *c) noexcept:
        """Make the process the context's caller and reference its record; False: it was reaped."""
        if get_task(self.m, self._task, self._pid) == NULL:
            return False
        c.task = self._task
        ctx_bind(c, pmg_load32(&self.t.cpu))
        return True

    cdef ctx_t *enter(self) except NULL:
        cdef ctx_t *c = self.core.enter()
        if not self.attach(c):
            self.core.leave(c)
            raise self.gone()
        return c

    cdef ctx_t *look(self) except NULL:
        """Enter with a reference on the process's address space, if it still has one, until the call leaves."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t mm = pmg_load32(&self.t.mm)
        if mm and mmget_not_zero(self.m, mm):
            c.mm = mm
            switch_mm(c)
            if pmg_load32(&self.t.mm) != mm:        # it exited, and the address space may be another process's by now
                self.core.put_mm(c)
        return c

    cdef ctx_t *begin(self) except NULL:
        """look() for calls that only a process with an address space can make."""
        cdef ctx_t *c = self.look()
        if c.mm == 0:
            self.core.leave(c)
            raise self.gone()
        return c

    # -- identity --------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process number, unique on its machine."""
        return self._pid

    @property
    def _mm(self):
        """Number of its address space, 0 once it has exited."""
        cdef uint32_t mm = pmg_load32_acq(&self.t.mm)
        return mm if pmg_load32(&self.t.pid) == self._pid else 0    # in this order: a new owner stores its pid first

    @property
    def alive(self):
        """False once the process has exited or was killed."""
        return pmg_load32_acq(&self.t.state) == TASK_RUNNING and pmg_load32(&self.t.pid) == self._pid

    @property
    def _reaped(self):
        """True once its number is free."""
        return pmg_load32_acq(&self.t.state) == TASK_FREE or pmg_load32(&self.t.pid) != self._pid

    def _cred(self):
        """(uid, euid, suid, gid, capabilities, dumpable), a consistent snapshot."""
        cdef cred_t cred
        cdef ctx_t *c = self.enter()
        try:
            get_cred(c, self.t, &cred)
        finally:
            self.core.leave(c)
        return cred.uid, cred.euid, cred.suid, cred.gid, cred.caps, bool(cred.dumpable)

    def _get_cpu(self):
        cdef uint32_t cpu = pmg_load32(&self.hold().cpu)
        put_task(self.m, self._task)
        return cpu

    def _set_cpu(self, uint32_t cpu):
        pmg_store32(&self.hold().cpu, cpu)
        put_task(self.m, self._task)

    def _limits(self, uint64_t memlock):
        """RLIMIT_MEMLOCK in bytes."""
        limit_memlock(self.m, self.hold(), memlock)
        put_task(self.m, self._task)

    def _leader(self):
        """Pid of the process whose thread it is."""
        cdef uint32_t pid = pmg_load32(&task_of(self.m, self.hold().leader).pid)
        put_task(self.m, self._task)
        return pid

    def _threads(self):
        """Pids of its threads that have not exited, the leader's first."""
        cdef uint32_t leader = self.hold().leader, room = 0, n
        cdef task_t *t = task_of(self.m, leader)
        out = None
        n = all_threads(self.m, leader, NULL, 0)
        while n > room:             # threads were started meanwhile
            room = n + 16
            out = np.empty(room, np.uint32)
            n = all_threads(self.m, leader, <uint32_t *> own_data(out), room)
        pids = sorted(out[:n].tolist()) if n else []
        if pmg_load32_acq(&t.state) == TASK_RUNNING:
            pids.insert(0, pmg_load32(&t.pid))
        put_task(self.m, self._task)
        return pids

    def _faults(self):
        """(minor, major) faults since the start of the process."""
        cdef task_t *t = self.hold()
        cdef uint64_t minor = pmg_load(&t.min_flt), major = pmg_load(&t.maj_flt)
        put_task(self.m, self._task)
        return minor, major

    def _size(self):
        """(mappings, pages) of its address space; never waits."""
        cdef ctx_t *c = self.look()
        cdef mm_t *mm = mm_of(self.m, c.mm)         # record 0 is never allocated and all 0
        cdef uint32_t mappings = pmg_load32(&mm.vmas.n)
        cdef uint64_t total = pmg_load(&mm.total_vm)
        self.core.leave(c)
        return mappings, total

    def _usage(self):
        """(rss_anon, rss_file, rss_shmem, locked, total) in pages; all 0 for a zombie."""
        cdef ctx_t *c = self.look()
        cdef mm_t *mm = mm_of(self.m, c.mm)         # record 0 is never allocated and all 0
        cdef uint64_t anon = pmg_load(<uint64_t *> &mm.rss_anon), file = pmg_load(<uint64_t *> &mm.rss_file)
        cdef uint64_t shmem = pmg_load(<uint64_t *> &mm.rss_shmem)
        cdef uint64_t locked = pmg_load(&mm.locked_vm), total = pmg_load(&mm.total_vm)
        self.core.leave(c)
        return <int64_t> anon, <int64_t> file, <int64_t> shmem, locked, total
