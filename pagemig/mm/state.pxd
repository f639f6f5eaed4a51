"""A machine as bytes: copied, saved, loaded.  The result continues exactly as the original would have.

The state lies in the arenas and in ``machine_t``.  References inside it are indices, so its bytes are complete.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.types cimport machine_t, stop_t

# Both return the number of bytes they took or gave: all of them, or -1.
ctypedef int64_t (*write_t)(void *private_, const void *p, uint64_t n) noexcept nogil
ctypedef int64_t (*read_t)(void *private_, void *p, uint64_t n) noexcept nogil

cdef enum load_error_t:         # why a stream is not a machine
    LOAD_TRUNCATED = 1
    LOAD_MAGIC
    LOAD_FORMAT
    LOAD_LAYOUT
    LOAD_CHECKSUM
    LOAD_SECTION                # a section that does not belong here, or of a size that cannot be
    LOAD_MACHINE                # sizes or links that no machine has

# bytes written; -EBUSY: not now, and *what tells why; -EIO: write failed, or `stop` said so; -ENOMEM; -EINTR: `peek` said
# so, which is asked while migrations are read and may not end one; nothing is written yet.  `extra` is the caller's;
# state_load returns it.
cdef int64_t state_save(
        machine_t *m, const void *extra, uint64_t n, write_t write, stop_t stop, stop_t peek, void *private_,
        const char **what) noexcept nogil
# a new machine, or NULL with -errno (-EINTR: `stop` said so, -EIO: read failed) or load_error_t in *why; *extra is
# malloc'ed
cdef machine_t *state_load(
        read_t read, stop_t stop, void *private_, void **extra, uint64_t *n, uint64_t *layout, int *why) noexcept nogil
# a copy of a machine, or NULL with -errno in *why, and *what as above
cdef machine_t *state_copy(
        machine_t *m, stop_t stop, stop_t peek, void *private_, int *why, const char **what) noexcept nogil
# whether `record` has the sizes and the kernel of `made`, a machine built from its description
cdef bint is_described(const machine_t *record, const machine_t *made) noexcept nogil
# put into words why state_load returned NULL
cdef void state_problem(int why, uint64_t layout, char *text, size_t n) noexcept nogil
