"""System calls of a process as Python reaches them: numbers and arrays in, ``pmg_sys_*``, one number out."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pagemig._arrays cimport data_of, flags_of, I32, own_data, plain_length, U32, U64, U8, zeros
from pagemig._core cimport Process
from pagemig._user cimport answer, user_of
from pagemig.mm.access cimport access_deferred, access_many, touch_range, touch_t
from pagemig.mm.atomic cimport pmg_load, pmg_load32, pmg_spin_lock, pmg_spin_unlock
from pagemig.mm.calls cimport (
    pmg_sys_get_mempolicy, pmg_sys_mbind, pmg_sys_migrate_pages, pmg_sys_move_pages, pmg_sys_set_mempolicy,
    pmg_sys_set_mempolicy_home_node, vma_own_policy,
)
from pagemig.mm.context cimport mmap_read_lock, mmap_read_unlock
from pagemig.mm.cred cimport pmg_sys_setuid
from pagemig.mm.filemap cimport pmg_sys_read, pmg_sys_write
from pagemig.mm.fork cimport (
    put_task, pmg_sys_clone_thread, pmg_sys_exit, pmg_sys_fork, pmg_sys_pin, pmg_sys_unpin, release_task,
)
from pagemig.mm.madvise cimport pmg_sys_madvise
from pagemig.mm.mlock cimport pmg_sys_mlock, pmg_sys_mlockall, pmg_sys_munlock, pmg_sys_munlockall
from pagemig.mm.mmap cimport pmg_sys_mmap, pmg_sys_mprotect, pmg_sys_mremap, pmg_sys_munmap
from pagemig.mm.page_alloc cimport mm_of, vec_at, vma_of
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pfnmap cimport pmg_sys_mmap_pfns, pmg_sys_vm_ops
from pagemig.mm.pgtable cimport leaf_pte, stats_index, stats_rows
from pagemig.mm.truncate cimport pmg_sys_fadvise, pmg_sys_fallocate, pmg_sys_ftruncate
from pagemig.mm.types cimport ctx_t, machine_t, mm_t, mpol_t, task_t, vma_t
from pagemig.mm.uaccess cimport pmg_user_t

import numpy as np

from pagemig.pieces import PIECE as _PIECE

cdef int64_t PIECE = _PIECE

VMA_DTYPE = np.dtype([
    ("start", np.uint64), ("end", np.uint64), ("pgoff", np.uint64), ("flags", np.uint32), ("file", np.uint32),
    ("anon_vma", np.uint32), ("mode", np.uint16), ("mode_flags", np.uint16), ("nodes", np.uint64),
    ("user_nodes", np.uint64), ("home_node", np.int32), ("index", np.uint32), ("ops", np.uint32),
], align=True)


cdef struct vma_row_t:
    uint64_t start, end, pgoff
    uint32_t flags, file, anon_vma
    uint16_t mode, mode_flags
    uint64_t nodes, user_nodes
    int32_t home_node
    uint32_t index, ops

assert VMA_DTYPE.itemsize == sizeof(vma_row_t)


cdef void populate_run(
        ctx_t **contexts, task_t **tasks, const uint64_t *addresses, const uint8_t *writes, bint every, const uint32_t *who,
        uint64_t end, touch_t *r) noexcept nogil:
    """Do accesses in order until ``r.done`` is ``end`` or one is stopped; each run of one task is a call of its own."""
    cdef touch_t part
    cdef uint64_t i, k
    while r.done < end and not r.signal and not r.wait:
        i = k = r.done
        while k < end and who[k] == who[i]:
            k += 1
        access_many(
            contexts[who[i]], tasks[who[i]], addresses + i, writes + i if writes != NULL else NULL, every, k - i, &part)
        add_touch(r, &part)


def populate(list processes, addresses, write, who):
    """Do accesses in order, each by the process that ``who`` names: (done, minor faults, major faults, signal)."""
    cdef uint64_t *a = <uint64_t *> data_of(addresses, U64, "addresses")
    cdef uint32_t *by = <uint32_t *> data_of(who, U32, "who")
    cdef uint64_t n = len(addresses), held = 0, k
    cdef bint every
    cdef uint8_t *w = flags_of(write, n, &every)
    cdef touch_t r
    cdef ctx_t **contexts
    cdef task_t **tasks
    contexts = <ctx_t **> malloc(len(processes) * sizeof(ctx_t *) + 1)
    tasks = <task_t **> malloc(len(processes) * sizeof(task_t *) + 1)
    memset(&r, 0, sizeof(r))
    try:
        if contexts == NULL or tasks == NULL:
            raise MemoryError("no memory for contexts")
        for process in processes:
            contexts[held] = (<Process> process).begin()
            tasks[held] = (<Process> process).t
            held += 1
        while touch_goes_on(&r, n):
            with nogil:
                populate_run(contexts, tasks, a, w, every, by, min(n, r.done + UNINTERRUPTED), &r)
    finally:
        error = None
        for k in range(held):
            try:
                (<Process> processes[k]).core.leave(contexts[k])
            except BaseException as raised:
                error = raised
        free(contexts)
        free(tasks)
        if error is not None:
            raise error
    return r.done, r.minflt, r.majflt, r.signal


def plain_lists(pages, nodes) -> bool:
    """Whether move_pages takes these without conversion: plain 1-D arrays of equal length; ``nodes`` None is a query.

    Longer ones take the way on which Ctrl-C is answered while memory for the statuses is made.
    """
    cdef int64_t n = plain_length(pages, U64)
    return 0 <= n <= PIECE and (nodes is None or plain_length(nodes, I32) == n)


cdef enum:
    LOWEST_ERRNO = -4095        # a lower result of a call is an address

cdef struct call_t:             # one system call
    ctx_t *c
    int64_t rc
    uint32_t rule


cdef class Calls(Process):
    """The calling side of every system call, its accesses, and views of its address space.

    Between ``begin_call`` or ``enter_call`` and ``answered`` there is a single call without the GIL, which cannot raise, so
    the scope always ends.  Methods that may raise inside have a ``finally``.
    """

    cdef call_t begin_call(self) except *:
        """Start a call of a process that has an address space."""
        cdef call_t k
        k.c = self.begin()
        k.rule = 0
        return k

    cdef call_t enter_call(self) except *:
        """Start a call that a process without an address space can make too."""
        cdef call_t k
        k.c = self.enter()
        k.rule = 0
        return k

    cdef object answered(self, const call_t *k):
        self.core.leave(k.c)
        return answer(k.rc, k.rule)

    # -- address space ---------------------------------------------------------------------------------------------

    def _mmap(self, uint64_t addr, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file, uint64_t offset):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mmap(k.c, addr, length, prot, flags, file, offset, &k.rule)
        return self.answered(&k)

    def _mmap_pfns(self, pfns, uint32_t prot, uint32_t ops):
        cdef uint32_t *p = <uint32_t *> data_of(pfns, U32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mmap_pfns(k.c, p, n, prot, ops, &k.rule)
        return self.answered(&k)

    def _vm_ops(self, uint64_t addr, uint32_t ops):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_vm_ops(k.c, addr, ops, &k.rule)
        return self.answered(&k)

    def _munmap(self, uint64_t addr, uint64_t length):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_munmap(k.c, addr, length, &k.rule)
        return self.answered(&k)

    def _mprotect(self, uint64_t addr, uint64_t length, uint32_t prot):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mprotect(k.c, addr, length, prot, &k.rule)
        return self.answered(&k)

    def _mremap(self, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags, uint64_t new_addr):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mremap(k.c, old, old_len, new_len, flags, new_addr, &k.rule)
        if k.rc < LOWEST_ERRNO:                 # an address in the upper half, which kernels of 2006 return unchecked
            self.core.leave(k.c)
            return <uint64_t> k.rc
        return self.answered(&k)

    def _madvise(self, uint64_t addr, uint64_t length, int advice):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_madvise(k.c, addr, length, advice, &k.rule)
        return self.answered(&k)

    def _mlock(self, uint64_t addr, uint64_t length, uint32_t flags):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mlock(k.c, addr, length, flags, &k.rule)
        return self.answered(&k)

    def _munlock(self, uint64_t addr, uint64_t length):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_munlock(k.c, addr, length, &k.rule)
        return self.answered(&k)

    def _mlockall(self, uint32_t flags):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mlockall(k.c, flags, &k.rule)
        return self.answered(&k)

    def _munlockall(self):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_munlockall(k.c)
        return self.answered(&k)

    # -- accesses --------------------------------------------------------------------------------------------------

    def _touch(self, uint64_t addr, uint64_t n, bint write, values=None, out=None):
        """Access ``n`` pages in order: (pages done, minor faults, major faults, signal)."""
        cdef uint64_t *v = <uint64_t *> data_of(values, U64, "values") if values is not None else NULL
        cdef uint64_t *o = <uint64_t *> data_of(out, U64, "out") if out is not None else NULL
        cdef touch_t r, part
        cdef ctx_t *c
        if (values is not None and len(values) < n) or (out is not None and len(out) < n):
            raise ValueError(f"values and out must hold {n} pages")
        memset(&r, 0, sizeof(r))
        c = self.begin()
        try:
            while touch_goes_on(&r, n):
                with nogil:
                    touch_range(
                        c, self.t, (addr >> 12) + r.done, min(n - r.done, <uint64_t> UNINTERRUPTED), write,
                        v + r.done if v != NULL else NULL, o + r.done if o != NULL else NULL, &part)
                add_touch(&r, &part)
        finally:
            self.core.leave(c)
        return r.done, r.minflt, r.majflt, r.signal

    def _access(self, addresses, write, bint deferred=False):
        """Do accesses in order: (accesses done, minor faults, major faults, signal)."""
        cdef uint64_t *a = <uint64_t *> data_of(addresses, U64, "addresses")
        cdef uint64_t n = len(addresses)
        cdef bint every
        cdef uint8_t *w = flags_of(write, n, &every)
        cdef touch_t r, part
        cdef uint64_t most = n if deferred else <uint64_t> UNINTERRUPTED        # a deferred call counts as one
        cdef access_t access = access_deferred if deferred else access_many
        cdef ctx_t *c
        memset(&r, 0, sizeof(r))
        c = self.begin()
        try:
            while touch_goes_on(&r, n):
                with nogil:
                    access(
                        c, self.t, a + r.done, w + r.done if w != NULL else NULL, every, min(n - r.done, most), &part)
                add_touch(&r, &part)
        finally:
            self.core.leave(c)
        return r.done, r.minflt, r.majflt, r.signal

    # -- fork, exit, pins ------------------------------------------------------------------------------------------

    def _setuid(self, uint32_t uid, uint32_t gid, bint dumpable):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_setuid(k.c, uid, gid, dumpable, &k.rule)
        return self.answered(&k)

    def _fork(self):
        """Fork: the child's pid or -errno."""
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_fork(k.c)
        return self.answered(&k)

    def _clone_thread(self, uint32_t cpu):
        """Start a thread: its pid or -errno."""
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_clone_thread(k.c, cpu)
        return self.answered(&k)

    def _exit(self, bint zombie=False, bint alone=False):
        """Exit the process, or only this task (``alone``); does nothing if another thread was faster."""
        cdef ctx_t *c = self.core.enter()
        try:
            if self.attach(c):
                with nogil:
                    pmg_sys_exit(c, self.t, zombie, alone)
        finally:
            self.core.leave(c)

    def _reap(self):
        """Reap the process; does nothing if another thread was faster."""
        cdef ctx_t *c = self.core.enter()
        try:
            if self.attach(c):
                with nogil:
                    release_task(c, self.t)
        finally:
            self.core.leave(c)

    def _pin(self, uint64_t addr, uint64_t n, bint longterm):
        """Pin pages: (pages held or -errno, pin index)."""
        cdef uint32_t pin = 0
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_pin(k.c, addr, n, longterm, &pin, &k.rule)
        return self.answered(&k), pin

    def _unpin(self, uint32_t pin):
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_unpin(k.c, pin, &k.rule)
        return self.answered(&k)

    # -- files -----------------------------------------------------------------------------------------------------

    def _fwrite(self, uint32_t file, uint64_t index, values):
        cdef uint64_t *v = <uint64_t *> data_of(values, U64, "values")
        cdef uint64_t n = len(values)
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_write(k.c, file, index, n, v, &k.rule)
        return self.answered(&k)

    def _fread(self, uint32_t file, uint64_t index, out):
        cdef uint64_t *v = <uint64_t *> data_of(out, U64, "out")
        cdef uint64_t n = len(out)
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_read(k.c, file, index, n, v)
        return self.answered(&k)

    def _ftruncate(self, uint32_t file, uint64_t pages):
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_ftruncate(k.c, file, pages, &k.rule)
        return self.answered(&k)

    def _punch(self, uint32_t file, uint64_t index, uint64_t n):
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_fallocate(k.c, file, index, n, &k.rule)
        return self.answered(&k)

    def _fadvise(self, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync):
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_fadvise(k.c, file, index, n, advice, sync, &k.rule)
        return self.answered(&k)

    # -- policies and migration --------------------------------------------------------------------------------------

    def _set_mempolicy(self, uint32_t mode, nodes, uint64_t maxnode):
        cdef pmg_user_t mask = user_of(nodes, U8)
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_set_mempolicy(k.c, mode, &mask, maxnode, &k.rule)
        return self.answered(&k)

    def _get_mempolicy(self, mode, nodes, uint64_t maxnode, uint64_t addr, uint64_t flags):
        """Get a policy; mode word (int32) and mask (uint64) are stored in the arrays given."""
        cdef pmg_user_t word = user_of(mode, I32), mask = user_of(nodes, U64)
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_get_mempolicy(k.c, &word, &mask, maxnode, addr, flags, &k.rule)
        return self.answered(&k)

    def _get_task_policy(self):
        """(mode, mode flags, nodes, the caller's nodes below 64)."""
        cdef mpol_t pol
        cdef task_t *t = self.hold()
        with nogil:
            pmg_spin_lock(&t.alloc_lock)
            pol = t.pol
            pmg_spin_unlock(&t.alloc_lock)
            put_task(self.m, self._task)
        return pol.mode, pol.flags, pol.nodes, pol.user

    def _set_mempolicy_home_node(self, uint64_t start, uint64_t length, uint64_t node, uint64_t flags):
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_set_mempolicy_home_node(k.c, start, length, node, flags, &k.rule)
        return self.answered(&k)

    def _mbind(self, uint64_t start, uint64_t length, uint32_t mode, nodes, uint64_t maxnode, uint64_t flags):
        cdef pmg_user_t mask = user_of(nodes, U8)
        cdef call_t k = self.begin_call()
        with nogil:
            k.rc = pmg_sys_mbind(k.c, start, length, mode, &mask, maxnode, flags, &k.rule)
        return self.answered(&k)

    def _move_pages(self, int32_t pid, uint64_t count, pages, nodes, status, uint32_t flags):
        """Call move_pages; nodes None: a query."""
        cdef pmg_user_t p = user_of(pages, U64), to = user_of(nodes, I32)
        cdef pmg_user_t s = user_of(status, I32)
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_move_pages(k.c, pid, count, &p, &to, &s, flags, &k.rule)
        return self.answered(&k)

    def _migrate_pages(self, int32_t pid, uint64_t maxnode, old_nodes, new_nodes):
        cdef pmg_user_t old = user_of(old_nodes, U8), new = user_of(new_nodes, U8)
        cdef call_t k = self.enter_call()
        with nogil:
            k.rc = pmg_sys_migrate_pages(k.c, pid, maxnode, &old, &new, &k.rule)
        return self.answered(&k)

    # -- views -----------------------------------------------------------------------------------------------------

    def _vmas(self):
        """One row of VMA_DTYPE per mapping, by address; start and end in bytes.

        The policy is the one at the start of the mapping; for shared memory it is the object's.
        """
        cdef ctx_t *c = self.look()
        cdef uint64_t room = 16, n = 0
        cdef vma_row_t *rows
        cdef int rc = 0
        try:
            while True:
                out = np.empty(room, VMA_DTYPE)
                rows = <vma_row_t *> own_data(out)
                with nogil:
                    if c.mm:
                        rc = mmap_read_lock(c, c.mm)
                        if rc == 0:
                            n = vma_rows(self.m, mm_of(self.m, c.mm), rows, room)
                            mmap_read_unlock(c, c.mm)
                if rc or n <= room:
                    break
                room = n
        finally:
            self.core.leave(c)
        if rc:
            raise RuntimeError("the address space is being changed")
        return out[:n]

    def _ptes(self, uint64_t addr, uint64_t n):
        """Page-table entries of n pages, 0 where there is no table; a copy."""
        cdef uint64_t *p
        cdef uint64_t v, first = addr >> 12
        cdef pagewalk_t w
        cdef ctx_t *c
        out = zeros(n, U64)
        p = <uint64_t *> own_data(out)
        c = self.look()
        try:
            with nogil:
                if c.mm and mmap_read_lock(c, c.mm) == 0:
                    pagewalk_start(&w, self.m, mm_of(self.m, c.mm), first, first + n)
                    while pagewalk_next(&w):
                        for v in range(w.vpn, w.stop):  # atomically: processors may set accessed and dirty bits meanwhile
                            p[v - first] = pmg_load(leaf_pte(self.m, w.leaf, v))
                    mmap_read_unlock(c, c.mm)
        finally:
            self.core.leave(c)
        return out

    def _stretch(self, uint64_t addr, uint64_t n, uint64_t most):
        """Find the first pages of a range with leaf tables: the number of pages before, and of these pages, at most ``most``."""
        cdef uint64_t first = addr >> 12, begin = first + n, end = begin
        cdef pagewalk_t w
        cdef ctx_t *c = self.look()
        try:
            with nogil:
                if c.mm and mmap_read_lock(c, c.mm) == 0:
                    pagewalk_start(&w, self.m, mm_of(self.m, c.mm), first, first + n)
                    if pagewalk_next(&w):
                        begin = w.vpn
                        end = w.stop
                        while end - begin < most and pagewalk_next(&w) and w.vpn == end:
                            end = w.stop
                    mmap_read_unlock(c, c.mm)
        finally:
            self.core.leave(c)
        return begin - first, min(end - begin, most)

    def _access_counts(self, uint64_t addr, uint64_t n):
        """Accesses of n pages from each node, shape (nodes, n); all zero without access_stats."""
        cdef uint32_t nid
        cdef uint32_t *counts
        cdef ctx_t *c
        out = np.zeros((self.m.nr_nodes, n), np.uint32)
        if self.m.stats == NULL:
            return out
        counts = <uint32_t *> own_data(out)
        c = self.look()
        try:
            with nogil:
                if c.mm and mmap_read_lock(c, c.mm) == 0:
                    for nid in range(self.m.nr_nodes):
                        sum_counts(self.m, mm_of(self.m, c.mm), addr >> 12, n, nid, counts + nid * n)
                    mmap_read_unlock(c, c.mm)
        finally:
            self.core.leave(c)
        return out


cdef uint64_t vma_rows(machine_t *m, mm_t *mm, vma_row_t *rows, uint64_t room) noexcept nogil:
    """Describe all mappings if there is room; return how many there are.  mmap_lock held."""
    cdef uint64_t i, n = mm.vmas.n
    cdef uint32_t *vmas = vec_at(m, &mm.vmas)
    cdef mpol_t pol
    cdef vma_t *v
    if n > room:
        return n
    for i in range(n):
        v = vma_of(m, vmas[i])
        rows[i].start = v.start << 12
        rows[i].end = v.end << 12
        rows[i].pgoff = v.pgoff
        rows[i].flags = v.flags
        rows[i].file = v.file
        rows[i].anon_vma = pmg_load32(&v.anon_vma)
        vma_own_policy(m, v, v.start, &pol)
        rows[i].mode = pol.mode
        rows[i].mode_flags = pol.flags
        rows[i].nodes = pol.nodes
        rows[i].user_nodes = pol.user
        rows[i].home_node = pol.home_node
        rows[i].index = vmas[i]
        rows[i].ops = v.ops
    return n


cdef void sum_counts(machine_t *m, mm_t *mm, uint64_t first, uint64_t n, uint32_t nid, uint32_t *out) noexcept nogil:
    """Add up the access counts of pages from one node over all slots; mmap_lock held."""
    cdef pagewalk_t w
    cdef uint64_t v
    cdef uint32_t slot
    pagewalk_start(&w, m, mm, first, first + n)
    while pagewalk_next(&w):
        for v in range(w.vpn, w.stop):
            for slot in range(pmg_load32(&m.stats_slots)):
                out[v - first] += pmg_load32(stats_rows(m, slot, nid) + stats_index(w.leaf, v))


# -- long calls ----------------------------------------------------------------------------------------------------

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef enum:
    UNINTERRUPTED = 1 << 17         # accesses between two looks for Ctrl-C: some 20 ms


ctypedef void (*access_t)(
    ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
    touch_t *r) noexcept nogil


cdef bint touch_goes_on(touch_t *r, uint64_t n) except -1:
    """Whether accesses are left and nothing has stopped them; runs signal handlers, which may raise."""
    if r.done and r.done < n:
        PyErr_CheckSignals()
    return r.done < n and not r.signal and not r.wait


cdef void add_touch(touch_t *r, touch_t *part) noexcept nogil:
    r.done += part.done
    r.minflt += part.minflt
    r.majflt += part.majflt
    r.signal = part.signal
    r.wait = part.wait
