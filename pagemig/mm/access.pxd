"""The processor: touches and accesses of programs, one by one, in blocks, or with notes deferred to the end of an epoch."""
from libc.stdint cimport int8_t, uint64_t, uint8_t

from pagemig.mm.pte cimport pte_t
from pagemig.mm.types cimport ctx_t, task_t


# the results of touches and accesses, which run in order and take mmap_lock themselves
ctypedef struct touch_t:
    uint64_t done               # pages (accesses) completed
    uint64_t minflt, majflt
    int signal                  # 0, SIGBUS 7, SIGSEGV 11, SIGKILL 9 (out of memory)
    int wait                    # 1: the host must wait and call again, from `done` on

cdef void touch_range(
        ctx_t *c, task_t *t, uint64_t vpn, uint64_t n, bint write, const uint64_t *values, uint64_t *out,
        touch_t *r) noexcept nogil
# addresses are bytes; an access writes if write_all is set or if its flag in writes (may be NULL) is
# access_deferred notes A, D and counts at the end of an epoch: faster, with the same final state
cdef void access_deferred(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil
cdef void access_many(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
        touch_t *r) noexcept nogil

cdef enum:                      # how an access went
    KIND_HIT = 0
    KIND_MINOR = 1              # after a minor fault
    KIND_MAJOR = 2              # after a fault that read a disk

ctypedef struct seen_t:         # results of each access; arrays as long as the addresses, or NULL
    int8_t *node                # of the page
    uint8_t *kind
    uint8_t pending             # kind of the next access: KIND_HIT unless it has faulted already

# access_many that also reports the node and kind of each access
cdef void access_seen(
        ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, uint64_t n, seen_t *seen,
        touch_t *r) noexcept nogil
# One access: the entry it used, or 0 if it did not happen, see r.  The caller owns time, so nothing else runs and a
# present page needs no lock.
cdef pte_t access_one(ctx_t *c, task_t *t, uint64_t va, bint write, touch_t *r) noexcept nogil
