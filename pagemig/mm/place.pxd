"""Where a call that keeps its place stands, in numbers: what its functions have to themselves, outermost first.

A function that can be on the stack of such a call at a stop keeps its locals in a structure, and begins with ``place_enter``.
One function, a ``code_t``, knows what in that structure must outlive the stack.  It writes that, reads and checks it, or names
what the call holds.  Of a call that was read each function finds its structure filled, and goes on from there.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_unlikely
from pagemig.mm.types cimport ctx_t, machine_t, mpol_t


cdef enum:
    PLACES = 16                 # functions of one call, one inside the other

cdef enum way_t:                # what a code_t is to do
    WAY_WRITE
    WAY_READ
    WAY_NAME
    WAY_FREE                    # of a call that was read and never went on: its arrays

cdef enum held_t:               # what a call has between two steps
    HELD_ISOLATED               # a frame taken off the LRU
    HELD_LOCKED                 # a frame isolated and locked; n: entries that its counts know and tables do not
    HELD_LEFT                   # the same, whose page is in another frame by now
    HELD_TARGET                 # a frame for a page, still empty
    HELD_MOVED                  # a frame that is to be the page, locked
    HELD_ANON_VMA               # a reference on one
    HELD_MMAP_READ              # mmap_lock of an address space
    HELD_MMAP_WRITE
    HELD_USERS                  # a reference on an address space

ctypedef struct coder_t
ctypedef void (*code_t)(coder_t *w, void *locals) noexcept nogil


ctypedef struct coder_t:
    machine_t *m
    way_t way
    char *data                  # what was written, or is read
    uint64_t n, room            # of it
    uint64_t at                 # read so far
    const char *why             # what cannot be written; WAY_READ: not NULL once something is wrong
    # the function inside this one, which the structure tells; NULL: the call stopped here
    code_t inner
    size_t size                 # of its structure
    # what that one works on
    uint32_t *pfns
    uint32_t *slots             # of each page its place in the request
    uint64_t pages              # how many there are
    uint64_t capacity           # how many there is room for
    void *stage                 # they were in
    int32_t pid                 # the call's argument
    uint32_t mm, target_mm      # of the call's process, and of the one it is about
    bint query                  # move_pages without targets
    uint64_t entries            # of the request
    void *lists                 # through 2.6.17
    # WAY_NAME
    void (*held)(void *arg, held_t what, uint64_t which, uint64_t n) noexcept nogil
    void *arg


ctypedef struct place_t:
    code_t code
    void *locals


ctypedef struct places_t:       # a call's; ctx.places
    uint32_t n
    uint32_t unread             # of a call that was read: how many of them no function has taken up yet
    place_t at[16]

cdef bint place_take(ctx_t *c, code_t code, void *locals, size_t size) noexcept nogil
# all of a call, outermost first
cdef void places_code(coder_t *w, const places_t *p) noexcept nogil
# the same of one that is read; `code` is the outermost function's, NULL where none had begun.  False: it is none
cdef bint places_read(coder_t *w, places_t *p, code_t code, size_t size) noexcept nogil
cdef void places_drop(machine_t *m, places_t *p) noexcept nogil         # of one that was read and never went on


cdef inline bint place_enter(ctx_t *c, code_t code, void *locals, size_t size) noexcept nogil:
    """True: the call was read and goes on here, with these locals."""
    return pmg_unlikely(c.places != NULL) and place_take(c, code, locals, size)


cdef inline void place_leave(ctx_t *c) noexcept nogil:
    if pmg_unlikely(c.places != NULL):
        (<places_t *> c.places).n -= 1


cdef inline bint place_resumes(ctx_t *c) noexcept nogil:
    """The call was read, and a function inside this one is the next to go on."""
    return pmg_unlikely(c.places != NULL) and (<places_t *> c.places).unread != 0

# -- parts of structures
cdef void code_bytes(coder_t *w, void *p, uint64_t n) noexcept nogil
cdef void code_u32(coder_t *w, uint32_t *x, uint64_t end) noexcept nogil             # below `end`
cdef void code_u64(coder_t *w, uint64_t *x, uint64_t most) noexcept nogil            # up to `most`
cdef void code_int(coder_t *w, int *x, int least, int most) noexcept nogil
cdef void code_i64(coder_t *w, int64_t *x) noexcept nogil
cdef void code_flag(coder_t *w, bint *x) noexcept nogil
cdef void code_pfn(coder_t *w, uint32_t *pfn) noexcept nogil
cdef void code_nid(coder_t *w, int32_t *nid) noexcept nogil                         # -1 too
cdef void code_mm(coder_t *w, uint32_t *mm) noexcept nogil
cdef void code_policy(coder_t *w, mpol_t *pol) noexcept nogil
# an array of n words, which is malloc'ed when read, with room for `room`
cdef void code_words(coder_t *w, uint32_t **p, uint64_t n, uint64_t room, uint64_t end) noexcept nogil
cdef void wrong(coder_t *w) noexcept nogil
cdef void holds(coder_t *w, held_t what, uint64_t which, uint64_t n) noexcept nogil
cdef void holds_list(coder_t *w, const uint32_t *pfns, uint64_t first, uint64_t end) noexcept nogil    # isolated
