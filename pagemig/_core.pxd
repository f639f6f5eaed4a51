"""The owning classes; see _core.pyx.  Everything else of the core is structs and functions."""
from libc.stdint cimport uint32_t

from pagemig._check cimport checker_t
from pagemig._types cimport ctx_t, machine_t, task_t


cdef class Machine:
    cdef machine_t *m
    cdef checker_t checker
    cdef object step_hook
    cdef object wait_hook
    cdef object hook_error
    cdef object __weakref__
    cdef ctx_t *enter(self, uint32_t task) except NULL
    cdef void put_mm(self, ctx_t *c) noexcept
    cdef int leave(self, ctx_t *c) except -1
    cdef int _run_hook(self, int step, const uint32_t *pfns, uint32_t n) noexcept
    cdef int _run_wait(self, int what, uint32_t which) noexcept


cdef class Process:
    cdef Machine core
    cdef machine_t *m
    cdef task_t *t
    cdef readonly uint32_t _task
    cdef int _pid
    cdef object __weakref__
    cdef ctx_t *look(self) except NULL
    cdef ctx_t *begin(self) except NULL
