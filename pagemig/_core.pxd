"""The classes that own a machine's memory; see _core.pyx.  The rest of the core is structs and functions."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.check cimport checker_t
from pagemig.mm.types cimport ctx_t, machine_t, task_t, vma_t


cdef class Stop:
    cdef object error


cdef bint call_stop(void *private_) noexcept with gil      # private_: a Stop
cdef bint call_peek(void *private_) noexcept with gil
cdef int call_wait(ctx_t *c, int what, uint32_t which) noexcept nogil      # c.data: the Machine


cdef class Machine:
    cdef machine_t *m
    cdef checker_t checker
    cdef object step_hook
    cdef object wait_hook
    cdef dict raised                # errors of hooks, by thread and nesting depth, for the call to raise
    cdef bint torn                  # copied by os.fork in the middle of a call
    cdef uint32_t inside            # accesses under way in contexts that own time; interpreter lock
    cdef object checking            # thread that runs check()
    cdef object copying             # thread that copies or saves the machine; signal handlers of it may not change it
    cdef dict hooked                # depth of nested hooks, by thread
    cdef object __weakref__
    cdef int build(
        self, list pages, list cpus, list reserved, list watermarks, distances, uint64_t seed, list swap_slots) except -1
    cdef int scattered(self, uint64_t seed) except -1
    cdef ctx_t *enter(self) except NULL
    cdef void lose_threads(self) noexcept
    cdef int must_be_whole(self) except -1
    cdef bint is_nested(self)
    cdef int wait_nested(self, ctx_t *c) except *
    cdef void put_mm(self, ctx_t *c) noexcept
    cdef int leave(self, ctx_t *c) except -1
    cdef void hear(self) noexcept
    cdef tuple depth(self)
    cdef void keep_error(self, object error) noexcept
    cdef int raise_kept(self) except -1
    cdef int _run_migrate(self, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept
    cdef int _run_hook(self, int step, const uint32_t *pfns, uint32_t n) noexcept
    cdef bint _run_signal(self) noexcept
    cdef int _run_wait(self, ctx_t *c, int what, uint32_t which) noexcept


cdef class Process:
    cdef Machine core
    cdef machine_t *m
    cdef task_t *t
    cdef readonly uint32_t _task
    cdef readonly uint32_t _pid
    cdef object __weakref__
    cdef object gone(self)
    cdef task_t *hold(self) except NULL
    cdef bint attach(self, ctx_t *c) noexcept
    cdef ctx_t *enter(self) except NULL
    cdef ctx_t *look(self) except NULL
    cdef ctx_t *begin(self) except NULL
