"""The interface for other simulators, seen from Python: the table as capsule and address, and a context for loops."""
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EINTR, EINVAL, ESRCH
from libc.stdint cimport int32_t, int8_t, int64_t, uint32_t, uint64_t, uint8_t, uintptr_t

from libc.string cimport memcpy, memset

cimport cython

from pagemig._arrays cimport column, grid, grid_out, I32, I8, length_of, own_data, U32, U64, U8, zeros
from pagemig._core cimport call_stop, call_wait, Machine, Process, Stop
from pagemig._user cimport answer, user_of
from pagemig.mm.api cimport (
    api_table, ctx_waits_by, mig_goes_on, mig_next_stop, mig_settle, PMG_ABI, pmg_api, pmg_ctx, PMG_EBUSYCTX,
    PMG_K_SIGNAL, PMG_K_WAIT, PMG_M_COPIED, PMG_M_DONE, PMG_M_PASS, PMG_M_STAGE, PMG_M_UNMAPPED, PMG_M_WAITS,
    pmg_machine, pmg_mig, pmg_mig_event, pmg_mig_info, pmg_outcome, pmg_user, register_counter, register_kernel,
    start_frames, start_move_pages,
)
from pagemig.mm.atomic cimport pmg_unlikely
from pagemig.mm.mig cimport MIG_DONE, MIG_LOOKS, MIG_WAITS
from pagemig.mm.migrate_stage cimport PAUSE_COPIED, PAUSE_PASS, PAUSE_STAGE, PAUSE_UNMAPPED
from pagemig.mm.notify cimport callbacks_used, EDEADLK, pmg_callbacks, PMG_EHOOK, pmg_flush
from pagemig.mm.types cimport profile_t
from pagemig.mm.uaccess cimport pmg_user_t

import numpy as np

from pagemig import _core, _memory, kernels
from pagemig.arguments import as_ulong
from pagemig.errors import ProcessGoneError, no_copy


cdef enum:
    WAITS = -512
    UNINTERRUPTED = 1 << 16         # accesses between two looks for Ctrl-C: some 20 ms if each is a fault

#: Names of a migration's stops, by number; the header's numbers are the core's.
STOPS = {
    PMG_M_UNMAPPED: "unmapped",
    PMG_M_COPIED: "copied",
    PMG_M_STAGE: "stage",
    PMG_M_PASS: "pass",
    PMG_M_WAITS: "waits",
    PMG_M_DONE: "done",
}
assert [*STOPS] == [PAUSE_UNMAPPED, PAUSE_COPIED, PAUSE_STAGE, PAUSE_PASS, MIG_WAITS, MIG_DONE]

#: What a call may wait for, by number (``PMG_W_*``).
WAITED = ("nothing", "page", "address space", "writeback of page", "file", "the next pass from")

cdef const pmg_api *api = api_table()

#: The table as the capsule that pagemig/boot.h imports.
table = PyCapsule_New(<void *> api, b"pagemig._api.table", NULL)
ABI = int(PMG_ABI)
address = <uintptr_t> api
size = int(api.size)

#: Names of counters, which must outlive the table that points to them.
_NAMES = [name.encode() for name in _memory.COUNTERS]


cdef void fill() except *:
    """Register the kernels and the names of counters, which Python owns, with the core."""
    cdef bytes record, label
    cdef uint32_t i
    for name, profile in kernels.KERNELS.items():
        record = profile.record().tobytes()
        assert len(record) == sizeof(profile_t)
        label = name.encode()
        if not register_kernel(label, <const profile_t *> <const char *> record):
            raise ImportError("more kernels than the table of kernels can hold")
    for i in range(<uint32_t> len(_NAMES)):
        label = _NAMES[i]
        register_counter(i, label)


fill()


def machine_address(Machine machine not None):
    """Address of a machine (``pmg_machine *``), valid as long as the object lives."""
    return <uintptr_t> machine.m


def task_handle(Process process not None):
    """Handle of a process (``pmg_task``)."""
    return <uint64_t> process._pid


# -- callbacks as Python functions -------------------------------------------------------------------------------


cdef int32_t call_target(void *priv, pmg_ctx *c, uint32_t pfn, int32_t wanted) noexcept nogil:
    with gil:
        return (<Callbacks> priv).asked(pfn, wanted)


cdef int32_t call_flush(void *priv, pmg_ctx *c, const pmg_flush *f) noexcept nogil:
    with gil:
        return (<Callbacks> priv).flushed(f)


cdef int32_t call_moved(
        void *priv, pmg_ctx *c, const uint32_t *old, const uint32_t *new, const int32_t *result, uint32_t n) noexcept nogil:
    with gil:
        return (<Callbacks> priv).moves(old, new, result, n)


cdef int32_t call_fault(void *priv, pmg_ctx *c, uint64_t va, uint32_t kind, uint32_t pfn) noexcept nogil:
    with gil:
        return (<Callbacks> priv).faulted(va, kind, pfn)


cdef class Callbacks:
    """Functions that a machine calls (None: not that one), installed by ``set_callbacks``.

    An exception of one comes out of the call that it interrupted.
    """

    cdef void *machine                  # the machine owns this object
    cdef object target, flush, moved, fault

    def __cinit__(self, Machine machine not None, target, flush, moved, fault):
        self.machine = <void *> machine
        self.target = target
        self.flush = flush
        self.moved = moved
        self.fault = fault

    cdef int32_t failed(self, object error) noexcept:
        (<Machine> self.machine).keep_error(error)
        return -2

    cdef int32_t asked(self, uint32_t pfn, int32_t wanted) noexcept:
        cdef int32_t node = -1
        try:
            with _core.Hooked(<Machine> self.machine):
                chosen = self.target(pfn, None if wanted < 0 else wanted)
                if chosen is not None:
                    node = chosen
                    if not 0 <= node < 64 or not (<Machine> self.machine).m.online >> node & 1:
                        raise ValueError(f"target must return an online node or None, not {chosen!r}")
        except BaseException as error:
            return self.failed(error)
        return node

    cdef int32_t flushed(self, const pmg_flush *f) noexcept:
        try:
            with _core.Hooked(<Machine> self.machine):
                words = (<const char *> f.cpus)[:f.words * 8]
                self.flush(f.why, f.cr3, f.va, f.n, int.from_bytes(words, "little"), f.ipis)
        except BaseException as error:
            return self.failed(error)
        return 0

    cdef int32_t moves(self, const uint32_t *old, const uint32_t *new, const int32_t *result, uint32_t n) noexcept:
        try:
            with _core.Hooked(<Machine> self.machine):
                self.moved(frames_of(old, n), frames_of(new, n), frames_of(<const uint32_t *> result, n).view(np.int32))
        except BaseException as error:
            return self.failed(error)
        return 0

    cdef int32_t faulted(self, uint64_t va, uint32_t kind, uint32_t pfn) noexcept:
        try:
            with _core.Hooked(<Machine> self.machine):
                self.fault(va, kind, pfn)
        except BaseException as error:
            return self.failed(error)
        return 0


def set_callbacks(Machine machine not None, Callbacks callbacks):
    """Install callbacks; None removes them.  Those replaced are kept only while one of them runs."""
    cdef pmg_callbacks cb
    cdef int rc
    memset(&cb, 0, sizeof(cb))
    cb.size = sizeof(cb)
    if callbacks is not None:
        cb.priv = <void *> callbacks
        if callbacks.target is not None:
            cb.target = call_target
        if callbacks.flush is not None:
            cb.flush = call_flush
        if callbacks.moved is not None:
            cb.moved = call_moved
        if callbacks.fault is not None:
            cb.fault = call_fault
    rc = api.set_callbacks(<pmg_machine *> <void *> machine.m, &cb if callbacks is not None else NULL)
    if rc == -EDEADLK:
        raise OSError(EDEADLK, "callbacks cannot be replaced while one runs")
    if rc:
        raise MemoryError("no memory for callbacks")
    kept = [old for old in machine._callbacks if callbacks_used(machine.m, <void *> old)]
    if callbacks is not None:
        kept.append(callbacks)
    machine._callbacks = kept                   # no other thread has run since they were set


cdef int raise_refused(int64_t rc, str what) except -1:
    """Raise why there is no ``what``; nothing for 0."""
    if rc == -EDEADLK:
        raise OSError(EDEADLK, "a callback that runs under locks may not make a call")
    if rc:
        raise MemoryError(f"no memory for {what}")
    return 0


cdef inline int raise_hooked(Machine machine, int64_t rc) except -1:
    """Raise what a hook or a callback raised in the call that returned ``rc``."""
    if machine.raised:
        machine.raise_kept()
    if rc == PMG_EHOOK:
        raise RuntimeError("a callback of the machine returned an error")
    if rc == -EDEADLK:
        raise_refused(rc, "")
    if rc == PMG_EBUSYCTX:
        raise RuntimeError("the context is in a call that waits: make that call again, or close the context")
    return 0


cdef inline uint64_t address_of(object va) except? <uint64_t> -1:
    """An address of 64 bits; TypeError or ValueError for what is none."""
    cdef int overflow = 0
    cdef long number = -1
    if PyLong_CheckExact(va):
        number = PyLong_AsLongAndOverflow(va, &overflow)        # raises nothing, and takes a tenth of the unsigned one
    return <uint64_t> number if number >= 0 else as_ulong(va, "va")


@cython.no_gc_clear
cdef class Context:
    """A process on a processor, for loops in Python and an address for C.

    Made by `Process.context`. One thread uses it at a time. It keeps the process and its address
    space until it is closed.

    Attributes
    ----------
    kind : int
        Kind of the last access, one of ``KIND_*`` of this module.
    node : int
        Node of its page, -1 for no page.
    pa : int
        Its physical address.
    signal : int
        The signal the program gets instead, 0 for none.
    waits_for : tuple of int
        What it waits for (1 a page, 2 an address space), and which one; (0, 0) for nothing.
    """

    cdef pmg_ctx *c                     # NULL while a call is inside without the interpreter lock, and once it is closed
    cdef pmg_outcome last
    cdef bint busy, closed              # a call is inside; it is to be closed behind that call
    cdef bint owns_time
    cdef readonly Machine machine

    def __cinit__(self, Process process not None, uint32_t cpu, bint owns_time):
        cdef int rc
        self.machine = process.core
        self.owns_time = owns_time
        rc = api.ctx_open(<pmg_machine *> <void *> process.m, task_handle(process), cpu, owns_time, &self.c)
        if rc == -ESRCH:
            raise ProcessGoneError(f"process {process._pid} has exited")
        if rc == -EINVAL:
            raise ValueError(f"cpu must be a processor of the machine, not {cpu}")
        raise_refused(rc, "a context")
        if not owns_time:
            ctx_waits_by(self.c, call_wait, <void *> self.machine)

    def __dealloc__(self):
        self.release(self.c)

    cdef void release(self, pmg_ctx *c) noexcept:
        """Close it in C; the last user of memory waits for calls of other threads that have its pages."""
        with nogil:
            api.ctx_close(c)

    def close(self):
        """Release the process, after a call that is under way.  Closing twice does nothing."""
        cdef pmg_ctx *c = self.c
        self.closed = True
        self.c = NULL
        self.release(c)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __reduce__(self):
        no_copy(self)

    @property
    def address(self):
        """Address for C (``pmg_ctx *``)."""
        return <uintptr_t> self.open()

    cdef pmg_ctx *open(self) except NULL:
        self.machine.must_be_whole()
        if self.c == NULL and self.busy and not self.closed:
            raise RuntimeError("the context is inside a call: of another thread, or of the one that calls back")
        if self.c == NULL:
            raise ValueError("the context is closed")
        return self.c

    cdef pmg_ctx *take(self) except NULL:
        """Hand the context to a call without the interpreter lock, until `give`: nobody else uses or frees it."""
        cdef pmg_ctx *c = self.open()
        self.c = NULL
        self.busy = True
        self.machine.inside += self.owns_time       # the core counts the others
        return c

    cdef void give(self, pmg_ctx *c) noexcept:
        self.busy = False
        self.machine.inside -= self.owns_time
        if self.closed:
            self.release(c)
        else:
            self.c = c

    def access(self, va, bint write=False):
        """Make one access and return its `kind`; `node`, `pa`, `signal` and `waits_for` have the rest."""
        cdef uint64_t address = address_of(va)
        cdef pmg_ctx *c
        cdef int kind
        if self.c == NULL or self.machine.torn:
            self.open()
        # A callback may need the interpreter, and so may the thread that the access waits for.
        if pmg_unlikely(self.machine.m.watch != NULL or not self.owns_time):
            c = self.take()
            with nogil:
                kind = api.access(c, address, write, &self.last)
            self.give(c)
            if kind == PMG_K_WAIT:
                raise_hooked(self.machine, 0)
        else:
            kind = api.access(self.c, address, write, &self.last)
        if kind < 0:
            raise_hooked(self.machine, kind)
            raise ProcessGoneError("the process has exited")
        return kind

    def access_many(self, addresses, write=None, *, node=None, kind=None):
        """Make accesses in order; return how many were made.

        Parameters
        ----------
        addresses : ndarray of uint64, shape (n,)
            Addresses in bytes.
        write : ndarray of uint8 or bool, shape (n,), optional
            Which of them write; none unless given.
        node : ndarray of int8, shape (n,), optional
            Receives the node of each page.
        kind : ndarray of uint8, shape (n,), optional
            Receives the kind of each access.

        Returns
        -------
        int
            n, or fewer: then `kind`, `signal` and `waits_for` say what stopped the next one.
        """
        cdef int64_t done = 0, part = 0, most
        cdef const uint64_t *va = <const uint64_t *> column(addresses, "addresses", U64)
        cdef Py_ssize_t n = length_of(addresses, 0)
        cdef tuple of = (n,)
        cdef const uint8_t *writes = <const uint8_t *> grid(write, "write", U8, of) if write is not None else NULL
        cdef int8_t *node_out = <int8_t *> grid_out(node, "node", I8, of) if node is not None else NULL
        cdef uint8_t *kind_out = <uint8_t *> grid_out(kind, "kind", U8, of) if kind is not None else NULL
        self.open()
        while done < n:
            if done:
                PyErr_CheckSignals()
            most = min(n - done, <int64_t> UNINTERRUPTED)
            part = self.access_part(
                va + done, writes + done if writes != NULL else NULL, most, node_out + done if node_out != NULL else NULL,
                kind_out + done if kind_out != NULL else NULL)
            done += part
            if part < most:
                break
        return done

    cdef int64_t access_part(
            self, const uint64_t *va, const uint8_t *writes, uint64_t n, int8_t *node, uint8_t *kind) except -1:
        """Make some of many accesses; return how many were made."""
        cdef pmg_ctx *c = self.take()
        cdef int64_t done
        with nogil:
            done = api.access_many(c, va, writes, n, node, kind, &self.last)
        self.give(c)
        if done < <int64_t> n:
            raise_hooked(self.machine, done)
        if done < 0:
            raise ProcessGoneError("the process has exited")
        return done

    @property
    def kind(self):
        return self.last.kind

    @property
    def node(self):
        return self.last.node

    @property
    def pa(self):
        return self.last.pa

    @property
    def signal(self):
        return self.last.signal if self.last.kind == PMG_K_SIGNAL else 0

    @property
    def waits_for(self):
        if self.last.kind != PMG_K_WAIT:
            return 0, 0
        return self.last.wait_what, self.last.wait_which


# -- migrations that take the caller's time --------------------------------------------------------------------


cdef object frames_of(const uint32_t *pfns, uint32_t n):
    out = zeros(n, U32)
    memcpy(own_data(out), pfns, n * 4)
    return out


def migrations(Machine machine not None):
    """Return the migrations in progress: handle, call (``PMG_CALL_*``), processor, pid or 0, arguments, length of status."""
    cdef pmg_machine *m = <pmg_machine *> <void *> machine.m
    cdef pmg_mig_info info
    cdef int64_t n = api.migrations(m, NULL, 0), i
    cdef pmg_mig *handles = <pmg_mig *> PyMem_Malloc(<size_t> max(n, 1) * sizeof(pmg_mig))
    found = []
    if handles == NULL:
        raise MemoryError
    n = min(n, api.migrations(m, handles, n))
    for i in range(n):
        info.size = sizeof(info)
        if api.mig_info(m, handles[i], &info) == 0:
            found.append((handles[i], info.call, info.cpu, info.task, [info.arguments[k] for k in range(6)], info.statuses))
    PyMem_Free(handles)
    return found


@cython.no_gc_clear
cdef class Flight:
    """A migration under way: the handle behind `pagemig.Migration`.

    Each of the four methods that begin one takes the arguments of the call as the core's classes do.
    """

    cdef pmg_ctx *c
    cdef readonly pmg_mig handle
    cdef readonly Machine machine
    cdef readonly object caller
    cdef uint32_t cpu
    cdef readonly bint open
    cdef readonly object outcome        # result of `end`: kept here because a signal handler may raise before it is returned
    cdef bint busy                      # a thread is inside, without the interpreter lock

    def __cinit__(self, Machine machine not None, Process caller, uint32_t cpu):
        cdef int rc
        self.machine = machine
        self.caller = caller
        self.cpu = cpu
        rc = api.ctx_open(
            <pmg_machine *> <void *> machine.m, 0 if caller is None else caller._pid, cpu, 1, &self.c)
        if rc == -ESRCH:
            raise ProcessGoneError(f"process {caller._pid} has exited")
        raise_refused(rc, "a migration")

    def __dealloc__(self):
        if self.c == NULL:
            return
        if self.open:
            api.mig_end(self.c, self.handle, 1, NULL, 0, NULL)
        api.ctx_close(self.c)

    def take(self, uint64_t handle):
        """Attach to a migration in progress."""
        self.handle = handle
        self.open = True

    cdef int begun(self, int rc, Stop stop=None) except -1:
        if stop is not None and stop.error is not None:
            raise stop.error
        if rc == -ESRCH:
            raise ProcessGoneError("the process has exited")
        raise_refused(rc, "a migration")
        self.open = True
        api.ctx_bind(self.c, 0, self.cpu)       # the migration has its own context
        return 0

    def move_pages(self, int32_t pid, uint64_t count, pages, nodes, status, uint32_t flags):
        """Begin move_pages; ``status`` is an array as long as the resulting one, or None."""
        cdef pmg_user_t p = user_of(pages, U64), k = user_of(nodes, I32)
        cdef pmg_user_t s = user_of(status, I32)
        cdef Stop stop = Stop()
        cdef int rc
        with nogil:
            rc = start_move_pages(
                self.c, pid, count, <pmg_user *> &p, <pmg_user *> &k, <pmg_user *> &s, flags, &self.handle, call_stop,
                <void *> stop)
        self.begun(rc, stop)

    def migrate_pages(self, int32_t pid, uint64_t maxnode, old_nodes, new_nodes):
        """Begin migrate_pages."""
        cdef pmg_user_t old = user_of(old_nodes, U8), new = user_of(new_nodes, U8)
        self.begun(api.mig_migrate_pages(self.c, pid, maxnode, <pmg_user *> &old, <pmg_user *> &new, &self.handle))

    def mbind(self, uint64_t start, uint64_t length, uint32_t mode, nodes, uint64_t maxnode, uint64_t flags):
        """Begin mbind."""
        cdef pmg_user_t mask = user_of(nodes, U8)
        self.begun(api.mig_mbind(self.c, start, length, mode, <pmg_user *> &mask, maxnode, flags, &self.handle))

    def migrate_frames(self, pfns, nodes):
        """Begin a migration of frames that exist."""
        cdef const uint32_t *p = <const uint32_t *> column(pfns, "pfns", U32)
        cdef Py_ssize_t n = length_of(pfns, 0)
        cdef const int32_t *to = <const int32_t *> grid(nodes, "nodes", I32, (n,))
        cdef Stop stop = Stop()
        cdef int rc
        with nogil:
            rc = start_frames(self.c, p, to, n, &self.handle, call_stop, <void *> stop)
        self.begun(rc, stop)

    cdef int enter(self) except -1:
        if not self.open:
            raise ValueError("the migration has ended")
        if self.busy:
            raise RuntimeError("another thread is stepping this migration")
        self.machine.must_be_whole()
        self.busy = True
        return 0

    cdef void leave(self) noexcept:
        self.busy = False

    def step(self):
        """Run to the next stop, named by STOPS; return its event as a tuple.  ValueError: the migration is over."""
        cdef pmg_mig_event e
        cdef int at = MIG_LOOKS
        e.size = sizeof(e)
        while at == MIG_LOOKS:
            PyErr_CheckSignals()
            self.enter()
            with nogil:
                at = mig_next_stop(self.c, self.handle, &e, True)
            self.leave()
        if at == PMG_EBUSYCTX:
            raise RuntimeError("another thread is stepping this migration")
        raise_hooked(self.machine, at)
        if at < 0:
            raise ValueError("the migration was ended through the table")
        return (STOPS[at], frames_of(e.src, e.n), frames_of(e.dst, e.n), e.passes, e.node, e.flushes, e.copy_bytes,
                e.ipis, (e.wait_what, e.wait_which))

    def settle(self):
        """Run a step that a signal interrupted to its stop, which the next `step` returns."""
        cdef bint more = self.open and not self.busy
        while more:
            PyErr_CheckSignals()
            self.enter()
            with nogil:
                more = mig_settle(self.c, self.handle)
            self.leave()
        raise_hooked(self.machine, 0)

    def end(self, bint abort, status):
        """End it and return the call's result as one number; its statuses go into an array, or None."""
        cdef uint32_t rule = 0, what = 0, which = 0
        cdef int64_t rc
        cdef pmg_user_t s = user_of(status, I32)
        cdef bint more = not abort
        while more:
            PyErr_CheckSignals()
            self.enter()
            with nogil:
                more = mig_goes_on(self.c, self.handle)
            self.leave()
        self.enter()
        with nogil:
            rc = api.mig_end(self.c, self.handle, abort, <int32_t *> s.p if s.bytes else NULL, s.bytes // 4, &rule)
        self.leave()
        if rc == PMG_EBUSYCTX:
            raise RuntimeError("another thread is stepping this migration")
        if rc == -EDEADLK:
            raise_hooked(self.machine, rc)
        if rc == WAITS:
            api.ctx_wait(self.c, &what, &which)
            raise RuntimeError(
                f"the migration waits for {WAITED[what]} {which}: release that, then step or finish it")
        self.open = False
        api.ctx_close(self.c)
        self.c = NULL
        self.outcome = answer(-EINTR if rc == PMG_EHOOK else rc, rule)
        raise_hooked(self.machine, rc)
        return self.outcome
