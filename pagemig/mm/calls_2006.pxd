"""mbind, migrate_pages and move_pages of 2.6.17, 2.6.18 and pmig, after calls.pyx has checked the arguments."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.migrate_stage cimport run_t, target_t
from pagemig.mm.place cimport coder_t
from pagemig.mm.queue cimport list_t
from pagemig.mm.types cimport ctx_t, mpol_t, nodemask_t


cdef enum:
    ISOLATED = 1 << 20          # neither a node nor an errno: the migration decides the page's status


cdef struct bind_t:             # checked arguments of mbind
    uint64_t first, end         # pages
    mpol_t pol
    uint64_t user               # the caller's nodes
    uint32_t flags


cdef struct nodes_t:            # locals of migrate_pages, with its checked arguments
    nodemask_t old, new
    uint32_t flags
    bint moving                 # False: waiting for mmap_lock


cdef struct pairs_t:            # locals of do_migrate_pages()
    uint64_t left, stay
    int64_t busy
    int32_t source, dest
    bint moving                 # migrating from source to dest


ctypedef struct request_t:      # one move_pages call of 2.6.18
    uint64_t n
    const uint64_t *addresses   # the caller's array, which it may write meanwhile: each is read once
    int32_t *nodes              # the kernel's checked copies; NULL: a query
    int32_t *status             # copied to the user at the end
    uint32_t *first             # hash table: the first entry that names each page, plus 1
    uint64_t mask               # size of the table minus 1
    list_t pages, slots         # isolated pages and their entries in the request


cdef struct asked_t:            # locals of move_pages_whole_request()
    request_t r
    run_t run
    bint moving                 # False: waiting for mmap_lock


cdef struct bound_range_t:      # locals of mbind_check_range()
    bind_t call
    target_t target
    run_t run
    list_t pages, nodes         # of interleave_exactly()
    int64_t bound
    bint moving                 # False: waiting for mmap_lock
    bint exactly


cdef struct frame_list_t:       # locals of migrate_frame_list()
    request_t r
    run_t run
    uint64_t i
    bint listed                 # migrating the list; False: migrating frame i

cdef void pairs_begin(pairs_t *k, const nodes_t *call) noexcept nogil
cdef bint next_of_pairs(pairs_t *k, const nodes_t *call) noexcept nogil      # a resumed call gets the same pair again
cdef void pair_is_over(pairs_t *k, int64_t rc) noexcept nogil
cdef void code_bind(coder_t *w, bind_t *call) noexcept nogil
cdef void code_pairs(coder_t *w, void *locals) noexcept nogil
cdef void code_request(coder_t *w, void *locals) noexcept nogil
cdef void code_bound_range(coder_t *w, void *locals) noexcept nogil
cdef void code_frame_list(coder_t *w, void *locals) noexcept nogil
# do_mbind: mmap_lock taken inside
cdef int64_t mbind_check_range(ctx_t *c, const bind_t *call) noexcept nogil
# do_migrate_pages: mmap_lock of mm held for reading
cdef int64_t do_migrate_pages_check_range(ctx_t *c, uint32_t mm, const nodes_t *call) noexcept nogil
cdef int64_t move_pages_whole_request(
        ctx_t *c, uint32_t mm, const uint64_t *addresses, const int32_t *nodes, uint64_t readable, uint64_t count,
        uint32_t flags, int32_t *status, uint64_t writable) noexcept nogil
# isolate a frame to migrate to a node: ISOLATED, or its status
cdef int32_t frame_status(ctx_t *c, uint32_t pfn, int32_t nid) noexcept nogil
# frames without a process, as one list where the kernel reports a result per page; status[i]: node or -errno.  Returns how
# many did not move, or -errno
cdef int64_t migrate_frame_list(
        ctx_t *c, const uint32_t *pfns, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil
