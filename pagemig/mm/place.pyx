"""The call stack of a resumable call as data, so that the call can be saved with its machine, and resumed after loading."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from pagemig.mm.types cimport (
    ctx_t, machine_t, MAX_NODES, MPOL_DEFAULT, MPOL_LOCAL, mpol_t, MPOL_WEIGHTED_INTERLEAVE,
)


cdef enum:
    PIECE = 1 << 22             # bytes copied between two calls of `stop`
    LISTED = 1 << 16            # frames told of between two


# -- on the call's stack -----------------------------------------------------------------------------------------


cdef bint place_take(ctx_t *c, code_t code, void *locals, size_t size) noexcept nogil:
    cdef places_t *p = <places_t *> c.places
    cdef place_t *at
    if p.unread:
        at = &p.at[p.n - p.unread]
        memcpy(locals, at.locals, size)
        free(at.locals)
        at.locals = locals
        p.unread -= 1
        return True
    at = &p.at[p.n]
    at.code = code
    at.locals = locals
    p.n += 1
    return False


# -- whole calls -------------------------------------------------------------------------------------------------


cdef void stop_short(coder_t *w) noexcept nogil:
    if w.why == NULL:                           # in a file that is read, it is as good as any error
        w.why = b"a migration stopped in a function that cannot be saved: step it once, and try again"


cdef void places_code(coder_t *w, const places_t *p) noexcept nogil:
    cdef uint32_t i
    w.inner = NULL
    for i in range(p.n):
        if i and w.inner != p.at[i].code:
            stop_short(w)
            return
        w.inner = NULL
        p.at[i].code(w, p.at[i].locals)
    if w.inner != NULL:
        stop_short(w)


cdef bint places_name(coder_t *w, const ctx_t *c) noexcept nogil:
    cdef const places_t *p = <const places_t *> c.places
    if p.stands == STANDS_NOWHERE:
        return True
    if p.stands == STANDS_INSIDE or p.n == 0:
        return False
    w.mm = c.mm
    w.target_mm = c.target_mm
    w.why = NULL
    w.slots = NULL
    w.query = p.query
    places_code(w, p)
    return w.why == NULL


cdef bint places_read(coder_t *w, places_t *p, code_t code, size_t size) noexcept nogil:
    cdef void *locals
    p.n = p.unread = 0
    w.inner = code
    w.size = size
    while w.inner != NULL and p.n < PLACES:
        locals = calloc(1, w.size)
        if locals == NULL:
            wrong(w)
            return False
        p.at[p.n].code = w.inner
        p.at[p.n].locals = locals
        p.n += 1
        w.inner = NULL
        p.at[p.n - 1].code(w, locals)
        if w.why != NULL:
            return False
    p.unread = p.n
    p.stands = STANDS
    return w.inner == NULL


cdef void places_drop(machine_t *m, places_t *p) noexcept nogil:
    cdef coder_t w
    cdef uint32_t i
    memset(&w, 0, sizeof(w))
    w.m = m
    w.way = WAY_FREE
    for i in range(p.n, 0, -1):                 # an inner function may point to the locals of an outer one
        p.at[i - 1].code(&w, p.at[i - 1].locals)
        free(p.at[i - 1].locals)
    p.n = p.unread = 0


# -- fields of structures ----------------------------------------------------------------------------------------


cdef void wrong(coder_t *w) noexcept nogil:
    if w.why == NULL:
        w.why = b"wrong"


cdef bint grow(coder_t *w, uint64_t n) noexcept nogil:
    cdef uint64_t room = w.room
    cdef char *data
    while room < w.n + n:
        room = 2 * room + 4096
    if room == w.room:
        return True
    data = <char *> realloc(w.data, room)
    if data == NULL:
        w.why = b""
        return False
    w.data = data
    w.room = room
    return True


cdef bint told_to_stop(coder_t *w) noexcept nogil:
    if w.stop == NULL or not w.stop(w.stop_private):
        return False
    w.stopped = True
    w.why = b""
    return True


cdef void copy_pieces(coder_t *w, char *to, const char *source, uint64_t n) noexcept nogil:
    """Copy data, up to where ``stop`` says so."""
    cdef uint64_t at = 0
    while at < n:
        if at and told_to_stop(w):
            return
        memcpy(to + at, source + at, min(<uint64_t> PIECE, n - at))
        at += PIECE


cdef void code_bytes(coder_t *w, void *p, uint64_t n) noexcept nogil:
    if w.why != NULL or n == 0:
        return
    if w.way == WAY_WRITE and grow(w, n):
        copy_pieces(w, w.data + w.n, <const char *> p, n)
        w.n += n
    elif w.way == WAY_READ:
        if n > w.n - w.at:
            wrong(w)
            return
        copy_pieces(w, <char *> p, w.data + w.at, n)
        w.at += n


cdef void code_u32(coder_t *w, uint32_t *x, uint64_t end) noexcept nogil:
    code_bytes(w, x, 4)
    if w.way == WAY_READ and x[0] >= end:
        x[0] = 0
        wrong(w)


cdef void code_u64(coder_t *w, uint64_t *x, uint64_t most) noexcept nogil:
    code_bytes(w, x, 8)
    if w.way == WAY_READ and x[0] > most:
        x[0] = 0
        wrong(w)


cdef void code_int(coder_t *w, int *x, int least, int most) noexcept nogil:
    code_bytes(w, x, 4)
    if w.way == WAY_READ and not least <= x[0] <= most:
        x[0] = 0
        wrong(w)


cdef void code_i64(coder_t *w, int64_t *x) noexcept nogil:
    code_bytes(w, x, 8)


cdef void code_flag(coder_t *w, bint *x) noexcept nogil:
    cdef uint32_t bit = x[0] != 0
    code_u32(w, &bit, 2)
    x[0] = bit


cdef void code_pfn(coder_t *w, uint32_t *pfn) noexcept nogil:
    """Code the number of a frame that can be migrated; frame 0 is the zero page."""
    code_u32(w, pfn, w.m.nr_frames)
    if w.way == WAY_READ and pfn[0] == 0:
        wrong(w)


cdef void code_nid(coder_t *w, int32_t *nid) noexcept nogil:
    code_int(w, <int *> nid, -1, <int> w.m.nr_nodes - 1)


cdef void code_mm(coder_t *w, uint32_t *mm) noexcept nogil:
    code_u32(w, mm, w.m.mms.fresh)
    if w.way == WAY_READ and mm[0] == 0:
        wrong(w)


cdef bint mpol_is_sound(const machine_t *m, const mpol_t *pol) noexcept nogil:
    """Whether a policy that was read may be followed: its mode is the kernel's, its nodes are the machine's."""
    cdef uint64_t nodes = ~<uint64_t> 0 if m.nr_nodes == MAX_NODES else (<uint64_t> 1 << m.nr_nodes) - 1
    if pol.mode == MPOL_DEFAULT:
        return True
    if pol.mode > MPOL_WEIGHTED_INTERLEAVE or pol.mode != MPOL_LOCAL and not m.profile.mode_mask >> pol.mode & 1:
        return False
    return not pol.flags & ~m.profile.mode_flags and -1 <= pol.home_node < <int32_t> m.nr_nodes and \
        not pol.nodes & ~nodes and (pol.nodes != 0 or pol.mode == MPOL_LOCAL) and \
        (pol.user_mask == 0 or pol.user_mask < m.nodemasks.fresh)


cdef void code_policy(coder_t *w, mpol_t *pol) noexcept nogil:
    code_bytes(w, &pol.mode, 2)
    code_bytes(w, &pol.flags, 2)
    code_bytes(w, &pol.home_node, 4)
    code_bytes(w, &pol.nodes, 8)
    code_bytes(w, &pol.user, 8)
    code_bytes(w, &pol.user_mask, 4)
    if w.way == WAY_READ and not mpol_is_sound(w.m, pol):
        wrong(w)


cdef void code_words(coder_t *w, uint32_t **p, uint64_t n, uint64_t room, uint64_t end) noexcept nogil:
    cdef uint64_t i
    if w.way == WAY_FREE:
        free(p[0])
        p[0] = NULL
        return
    if w.way == WAY_READ:
        p[0] = NULL
        if w.why != NULL or n > room or n > (w.n - w.at) // 4:
            wrong(w)
            return
        p[0] = <uint32_t *> malloc(room * 4 + 4)
        if p[0] == NULL:
            wrong(w)
            return
    code_bytes(w, p[0], n * 4)
    for i in range(n if w.way == WAY_READ else 0):
        if p[0][i] >= end:
            wrong(w)


cdef void holds(coder_t *w, held_t what, uint64_t which, uint64_t n) noexcept nogil:
    if w.way == WAY_NAME:
        w.held(w.arg, what, which, n)


cdef void holds_list(coder_t *w, const uint32_t *pfns, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t i
    if w.why != NULL or (w.way != WAY_NAME and w.way != WAY_READ):
        return                                  # its bounds may not have been read
    for i in range(first, end):
        if i % LISTED == 0 and told_to_stop(w):
            return
        if w.way == WAY_NAME:
            w.held(w.arg, HELD_ISOLATED, pfns[i], 1)
        elif w.way == WAY_READ and pfns[i] == 0:        # the zero page never moves
            wrong(w)
