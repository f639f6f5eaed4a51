"""Resumable calls: a call of the kernel on a fiber, which stops where time may pass.

``mig_begin`` references the caller, ``mig_step`` runs to the next stop, ``mig_free`` releases everything.  The fiber runs
the same call, loops and locks as ``calls``: there is one engine.  At a stop the call holds what a sleeping kernel call would
hold there: page locks, isolated pages, perhaps mmap_lock; never a spin lock.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.place cimport coder_t, places_t
from pagemig.mm.types cimport ctx_t, machine_t, stop_t
from pagemig.mm.uaccess cimport pmg_user_t


cdef extern from "pagemig/fiber.h" nogil:
    ctypedef struct pmg_fiber:
        char *stack
        int done


cdef enum:                      # which call
    MIG_MOVE_PAGES = 1          # a: pid, count, flags; u: pages, nodes, status
    MIG_MIGRATE_PAGES           # a: pid, maxnode; u: old, new nodes
    MIG_MBIND                   # a: start, length, mode, maxnode, flags; u: nodes
    MIG_FRAMES                  # a: n; u: pfns, nodes, status
    MIG_MMAP                    # a: address, length, prot, flags, file, offset
    MIG_MPROTECT                # a: address, length, prot
    MIG_MREMAP                  # a: address, length, new length, flags, new address
    MIG_MADVISE                 # a: address, length, advice
    MIG_MLOCK                   # a: address, length, flags
    MIG_MLOCKALL                # a: flags
    MIG_PIN                     # a: address, pages, longterm
    MIG_FTRUNCATE               # a: file, pages
    MIG_PUNCH                   # a: file, index, pages
    MIG_SWAPOFF                 # a: device
    MIG_OFFLINE                 # a: node

cdef enum:                      # where it stands: PAUSE_*, and
    MIG_WAITS = 5               # for ctx.wait_what, ctx.wait_which
    MIG_DONE = 6
    MIG_LOOKS = 7               # between two stops, where the caller may check for signals
    MIG_PAGES = 512             # of one stop at most


ctypedef struct mig_t:          # host memory in any number, as contexts
    machine_t *m
    # Guarded by machine.ctx_lock, except that the owner of the record may read them:
    ctx_t *c                    # its own, with the caller's process, address space and processor; NULL: free
    mig_t *next                 # free ones
    uint32_t index, generation
    bint timed                  # stops wherever time may pass; else only where it waits
    bint published              # its arguments are stored: others find it by its handle
    # Of the owner:
    uint32_t busy               # a step is under way: the thread that exchanges 0 for 1 may make it
    pmg_fiber fiber
    void (*request)(void *arg) noexcept nogil       # to be run on the stack of the thread that steps
    void *request_arg
    uint32_t kind
    uint32_t pid                # of the caller; 0: none
    stop_t stop                 # whether its caller wants it no more while arguments are copied; NULL: nobody asks
    void *stop_private
    uint64_t a[6]
    pmg_user_t u[3]             # copies of the caller's memory, in `room`; NULL and PMG_BAD as they are
    pmg_user_t room[3]          # kept for the record's next call, if it is little
    int64_t rc
    uint32_t rule
    uint32_t pin                # of MIG_PIN
    places_t places             # the stack of the call
    # the last stop
    uint32_t at, n
    uint32_t pass_              # passes before the present one
    uint32_t src[512]
    uint32_t dst[512]
    bint untold                 # the caller has not heard of it yet: the next step only tells
    # since the stop before it
    uint32_t flushes
    uint64_t ipis, copied       # processors told to flush, pages copied


cdef struct mig_facts_t:        # what stays the same for the life of a migration, and where it stands
    uint32_t call, cpu, at, pid
    uint64_t statuses           # length of its array of them
    uint64_t arguments[6]

# a call of the process with a pid (0: none) on a processor; NULL: *error is -ESRCH, -EINVAL or -ENOMEM
cdef mig_t *mig_begin(machine_t *m, uint32_t pid, uint32_t cpu, uint32_t kind, bint timed, int *error) noexcept nogil
# run a call whose arguments are numbers, six of them, to its end in the caller's context
cdef int64_t mig_here(ctx_t *c, uint32_t kind, const uint64_t *a) noexcept nogil
# argument u[i]: a copy of at most `bytes` of the caller's memory, or room for n statuses set to fill; -ENOMEM, or
# -EINTR after g.stop
cdef int mig_user(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t bytes) noexcept nogil
cdef int mig_status(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t n, int32_t fill) noexcept nogil
# whether u[i] equals the caller's memory now
cdef bint mig_same(mig_t *g, uint32_t i, const pmg_user_t *user, uint64_t bytes) noexcept nogil
# let others find it by its handle; its arguments do not change any more
cdef void mig_publish(mig_t *g) noexcept nogil
# the right to step and to end it, until mig_let; False: another has it
cdef bint mig_owned(mig_t *g) noexcept nogil
cdef void mig_let(mig_t *g) noexcept nogil
# run to the next stop and return it; with `looks` also stop now and then for a check for signals (MIG_LOOKS)
cdef int mig_step(mig_t *g, bint looks) noexcept nogil
# run to the end, or to where it waits
cdef int mig_finish(mig_t *g, bint looks) noexcept nogil
# end it: pages that have not moved are rolled back, waits are given up
cdef void mig_abort(mig_t *g) noexcept nogil
cdef void mig_free(mig_t *g) noexcept nogil
# the migration that a host steps, by index and generation; NULL once it is over
cdef mig_t *mig_at(machine_t *m, uint32_t index, uint32_t generation) noexcept nogil
# what it is, even while another thread steps it; False once it is over
cdef bint mig_facts(machine_t *m, uint32_t index, uint32_t generation, mig_facts_t *out) noexcept nogil
cdef void mig_release_all(machine_t *m) noexcept nogil
# store the handles (index << 32 | generation) of at most n migrations that a host steps; return how many there are
cdef uint64_t migs_on_their_way(machine_t *m, uint64_t *out, uint64_t n) noexcept nogil
# write all migrations; w.why: one cannot be saved
cdef void migs_write(coder_t *w) noexcept nogil
# read them into a machine without migrations; w.why: the data is invalid, or "": out of memory
cdef void migs_read(coder_t *w) noexcept nogil
