"""The call stack of a resumable call as data, so that the call can be saved with its machine, and resumed after loading.

A function that can be on the stack at a stop keeps the locals that must survive in a structure and registers it with
``place_enter``.  A ``code_t`` encodes and decodes this structure: it writes the fields, reads and checks them, or reports
what the call holds.  In a loaded call each function gets its structure back and resumes from it, outermost first.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_unlikely
from pagemig.mm.types cimport ctx_t, machine_t, mpol_t, stop_t


cdef enum:
    PLACES = 16                 # depth of the stack

cdef enum way_t:                # what a code_t does
    WAY_WRITE
    WAY_READ
    WAY_NAME                    # reports what the call holds
    WAY_FREE                    # frees the arrays of a loaded call that was not resumed

cdef enum held_t:               # what a call holds at a stop
    HELD_ISOLATED               # a frame isolated from the LRU
    HELD_LOCKED                 # a frame isolated and locked; n: mappings counted, but unmapped from the tables
    HELD_LEFT                   # the same, after its content was copied to the target
    HELD_TARGET                 # a target without content
    HELD_MOVED                  # a locked target with the content
    HELD_ANON_VMA               # a reference on an anon_vma
    HELD_MMAP_READ              # mmap_lock of an address space
    HELD_MMAP_WRITE
    HELD_USERS                  # a reference on an address space

ctypedef struct coder_t
ctypedef void (*code_t)(coder_t *w, void *locals) noexcept nogil


ctypedef struct coder_t:
    machine_t *m
    way_t way
    char *data                  # the encoded bytes
    uint64_t n, room            # bytes used, and allocated
    uint64_t at                 # bytes read
    const char *why             # error: why the call cannot be saved, or that data is invalid; "": out of memory, or stopped
    stop_t stop                 # whether to stop, asked behind each piece of data; NULL: nobody asks
    void *stop_private
    bint stopped
    # set by a code_t: the function that was called; NULL: the call stopped in this one
    code_t inner
    size_t size                 # of its structure
    # set by a code_t: the arguments of that function
    uint32_t *pfns
    uint32_t *slots             # index of each page in the request
    uint64_t pages              # length of pfns
    uint64_t capacity           # allocated length of pfns
    void *stage                 # stage_t of these pages
    int32_t pid                 # argument of the system call
    uint32_t mm, target_mm      # address space of the caller, and of the target process
    bint query                  # move_pages without nodes
    uint64_t entries            # length of the request
    void *lists                 # lists_t, through 2.6.17
    uint32_t passes             # over a batch
    # WAY_NAME
    void (*held)(void *arg, held_t what, uint64_t which, uint64_t n) noexcept nogil
    void *arg


ctypedef struct place_t:
    code_t code
    void *locals


cdef enum stands_t:
    STANDS_NOWHERE              # not begun, or over
    STANDS                      # at a stop; where no function has entered, nobody knows
    STANDS_INSIDE               # in the middle of a function, which does not expect it


ctypedef struct places_t:       # the stack of one call; ctx.places
    uint32_t stands             # stands_t
    uint32_t n
    uint32_t unread             # in a loaded call: the innermost functions, which have not resumed yet
    uint32_t straight           # in a part that takes no time of the caller: nothing stops, except to look for signals
    bint query                  # of coder_t
    place_t at[PLACES]

cdef bint place_take(ctx_t *c, code_t code, void *locals, size_t size) noexcept nogil
# False: what the call has cannot be told
cdef bint places_name(coder_t *w, const ctx_t *c) noexcept nogil
# write a stack, or report what the call holds
cdef void places_code(coder_t *w, const places_t *p) noexcept nogil
# read a stack; `code` is that of the outermost function, NULL if none was running.  False: the data is invalid
cdef bint places_read(coder_t *w, places_t *p, code_t code, size_t size) noexcept nogil
cdef void places_drop(machine_t *m, places_t *p) noexcept nogil         # free the stack of a loaded call that was not resumed


cdef inline bint place_enter(ctx_t *c, code_t code, void *locals, size_t size) noexcept nogil:
    """Register the locals of a function; True if the call was loaded and resumes here: ``locals`` is filled."""
    return pmg_unlikely(c.places != NULL) and place_take(c, code, locals, size)


cdef inline void place_leave(ctx_t *c) noexcept nogil:
    if pmg_unlikely(c.places != NULL):
        (<places_t *> c.places).n -= 1


cdef inline bint place_resumes(ctx_t *c) noexcept nogil:
    """Whether a loaded call resumes in a function that this one calls."""
    return pmg_unlikely(c.places != NULL) and (<places_t *> c.places).unread != 0


cdef inline void place_straight(ctx_t *c, bint straight) noexcept nogil:
    """Begin or end a part of a call that takes no time of the caller."""
    if pmg_unlikely(c.places != NULL):
        (<places_t *> c.places).straight = straight


# -- fields of structures
cdef void code_bytes(coder_t *w, void *p, uint64_t n) noexcept nogil
cdef void code_u32(coder_t *w, uint32_t *x, uint64_t end) noexcept nogil             # below `end`
cdef void code_u64(coder_t *w, uint64_t *x, uint64_t most) noexcept nogil            # up to `most`
cdef void code_int(coder_t *w, int *x, int least, int most) noexcept nogil
cdef void code_i64(coder_t *w, int64_t *x) noexcept nogil
cdef void code_flag(coder_t *w, bint *x) noexcept nogil
cdef void code_pfn(coder_t *w, uint32_t *pfn) noexcept nogil
cdef void code_nid(coder_t *w, int32_t *nid) noexcept nogil                         # -1 too
cdef void code_mm(coder_t *w, uint32_t *mm) noexcept nogil
cdef bint mpol_is_sound(const machine_t *m, const mpol_t *pol) noexcept nogil
cdef void code_policy(coder_t *w, mpol_t *pol) noexcept nogil
# an array of n words below `end`; reading allocates `room` words
cdef void code_words(coder_t *w, uint32_t **p, uint64_t n, uint64_t room, uint64_t end) noexcept nogil
cdef void wrong(coder_t *w) noexcept nogil
cdef void stop_short(coder_t *w) noexcept nogil                 # the call cannot be saved at this stop
cdef void holds(coder_t *w, held_t what, uint64_t which, uint64_t n) noexcept nogil
cdef void holds_list(coder_t *w, const uint32_t *pfns, uint64_t first, uint64_t end) noexcept nogil    # isolated
