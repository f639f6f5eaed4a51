"""The machine and its processes as Python objects: owners of the state, nothing more.

Every method takes plain numbers or C-contiguous arrays of the exact dtype, releases the interpreter lock for the
whole call, and answers a count, an address or a negative errno.  What the numbers mean to a person is the
business of ``machine.py`` and ``process.py``.
"""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EINVAL, EIO, ENOMEM, ESRCH
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pagemig.mm.access cimport access_deferred, access_many, touch_range, touch_t
from pagemig.mm.atomic cimport (
    pmg_add32, pmg_load, pmg_load32, pmg_load32_acq, pmg_spin_lock, pmg_spin_unlock, pmg_store, pmg_store32,
)
from pagemig.mm.build cimport build_arenas, build_nodes, build_swap, node_spec_t, profile_layout, scatter, set_profile
from pagemig.mm.calls cimport (
    migrate_frames, pmg_sys_get_mempolicy, pmg_sys_mbind, pmg_sys_migrate_pages, pmg_sys_move_pages,
    pmg_sys_set_mempolicy, pmg_sys_set_mempolicy_home_node, vma_own_policy,
)
from pagemig.mm.check cimport check_machine, checker_release, invariant_error, violation_t
from pagemig.mm.context cimport (
    all_vm_events, ctx_bind, ctx_first, ctx_get, ctx_held, ctx_put, ctx_release_all, mmap_read_lock, mmap_read_unlock,
)
from pagemig.mm.cred cimport cred_t, get_cred, pmg_sys_setuid
from pagemig.mm.filemap cimport file_get_name, file_new, file_put, file_set_name, pmg_sys_read, pmg_sys_write
from pagemig.mm.fork cimport (
    all_pids, do_exit, find_get_task_by_vpid, find_task, get_task, mmget_not_zero, mmput, mmput_unless_last, put_task,
    pmg_sys_fork, pmg_sys_pin, pmg_sys_unpin, task_new, task_reap,
)
from pagemig.mm.madvise cimport pmg_sys_madvise
from pagemig.mm.memory_hotplug cimport evacuation_t, migrate_range, offline_node, online_node
from pagemig.mm.mempolicy cimport mpol_set_nodemask, policy_node, sanitize_mpol_flags
from pagemig.mm.mig cimport mig_release_all
from pagemig.mm.migrate cimport lists_begin, lists_end, lists_t, MIGRATE_CHUNK_SIZE, migrate_page_lists
from pagemig.mm.mlock cimport pmg_sys_mlock, pmg_sys_mlockall, pmg_sys_munlock, pmg_sys_munlockall
from pagemig.mm.mmap cimport pmg_sys_mmap, pmg_sys_mprotect, pmg_sys_mremap, pmg_sys_munmap
from pagemig.mm.page_alloc cimport (
    anon_vma_of, arena_new, arenas_release, file_of, mm_of, node_free_pages, page_to_nid, page_token, task_of, vec_at,
    vma_index, vma_of,
)
from pagemig.mm.pagewalk cimport pagewalk_next, pagewalk_start, pagewalk_t
from pagemig.mm.pfnmap cimport pfn_is_reserved, pmg_sys_mmap_pfns, pmg_sys_vm_ops, remap_frames, vma_frames
from pagemig.mm.pgtable cimport leaf_pte, stats_index, stats_rows, walk_leaf
from pagemig.mm.pte cimport pte_pfn, pte_present
from pagemig.mm.rmap cimport rmap_vmas
from pagemig.mm.swapfile cimport pmg_sys_swapoff, pmg_sys_swapon
from pagemig.mm.trace cimport trace_locks
from pagemig.mm.truncate cimport pmg_sys_fadvise, pmg_sys_fallocate, pmg_sys_ftruncate
from pagemig.mm.types cimport (
    C_LOCK_PAGE, C_LOCK_SWAP, ctx_t, file_t, frame_t, INIT_PID, keep_t, machine_t, MAX_NODES, MAX_SWAPFILES, mm_t,
    MODE_ACTORS, MODE_THREADS, MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES, mpol_t, nodemask_t,
    NR_COUNTERS, PG_anon, PMG_WAIT, profile_t, PTRS_PER_PTE, PVEC_MAX, STAGE, TASK_FREE, TASK_RUNNING, task_t,
    vm_event_state_t, vma_t, WAIT_PASS,
)
from pagemig.mm.uaccess cimport PMG_BAD, pmg_user_t
from pagemig.mm.vma cimport vma_address
from pagemig.mm.vmscan cimport swap_out

from threading import active_count, get_ident
from time import monotonic, sleep

import numpy as np

from pagemig.errors import ProcessGoneError

cnp.import_array()

HOOK_PATIENCE = 10.0        # seconds a call that a hook makes waits while other threads may still end it

_places = profile_layout()
#: ``profile_t``: kernels.py compares its own record with it.
PROFILE = np.dtype({"names": list(_places), "formats": [np.uint32] * len(_places),
                    "offsets": [4 * at for at in _places.values()], "itemsize": sizeof(profile_t)})
PVEC_LARGEST = PVEC_MAX

COUNTERS = (
    "pgfault", "pgmajfault", "pgalloc", "pgfree",
    "numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other",
    "pgmigrate_success", "pgmigrate_fail",
    "unevictable_pgs_mlocked", "unevictable_pgs_munlocked",
    "cow", "cow_reuse", "zero_page_fault", "fault_around", "migration_wait", "oom_kill",
    "tlb_flush", "ptes_dropped", "ptes_restored",
    "pswpin", "pswpout", "swap_slots", "requests_scanned",
    "lock_page", "lock_zone", "lock_lru", "lock_ptl", "lock_anon_vma", "lock_i_mmap", "lock_tree", "lock_swap",
    "host_ptl", "host_rmap", "host_page_contended", "host_zone_contended", "host_ptl_contended", "host_rmap_contended",
    "host_mm_contended", "host_swap_contended", "host_waits",
)
assert len(COUNTERS) == NR_COUNTERS
assert sizeof(vm_event_state_t) % 64 == 0       # _counters_raw; two processors never share a line

FRAME_DTYPE = np.dtype([("state", np.uint64), ("mapping", np.uint32), ("index", np.uint32)], align=True)
VMA_DTYPE = np.dtype([
    ("start", np.uint64), ("end", np.uint64), ("pgoff", np.uint64), ("flags", np.uint32), ("file", np.uint32),
    ("anon_vma", np.uint32), ("mode", np.uint16), ("mode_flags", np.uint16), ("nodes", np.uint64),
    ("user_nodes", np.uint64), ("home_node", np.int32), ("index", np.uint32),
], align=True)
TRACE_DTYPE = np.dtype([("word", np.uint64), ("arg", np.uint64)])
assert FRAME_DTYPE.itemsize == sizeof(frame_t)


cdef struct vma_row_t:
    uint64_t start, end, pgoff
    uint32_t flags, file, anon_vma
    uint16_t mode, mode_flags
    uint64_t nodes, user_nodes
    int32_t home_node
    uint32_t index

assert VMA_DTYPE.itemsize == sizeof(vma_row_t)


# -- arrays ----------------------------------------------------------------------------------------------------

cdef object lend(object owner, void *data, uint64_t n, int typenum, bint writeable=False):
    """A numpy view of the machine's memory that keeps the machine alive."""
    cdef cnp.npy_intp shape = <cnp.npy_intp> n
    cdef cnp.ndarray a = cnp.PyArray_SimpleNewFromData(1, &shape, typenum, data)
    cnp.set_array_base(a, owner)
    if not writeable:
        cnp.PyArray_CLEARFLAGS(a, cnp.NPY_ARRAY_WRITEABLE)
    return a


cdef inline void *data_of(object a, int typenum, str name) except? NULL:
    """Data pointer of a C-contiguous array of exactly this type, aligned and in the host's byte order; no subclass."""
    if not cnp.PyArray_CheckExact(a) or cnp.PyArray_TYPE(a) != typenum or not cnp.PyArray_IS_C_CONTIGUOUS(a) or \
            not cnp.PyArray_ISALIGNED(a) or not cnp.PyArray_ISNOTSWAPPED(a):
        raise TypeError(f"{name} must be a C-contiguous, aligned array of the exact type, not {a!r:.80}")
    return cnp.PyArray_DATA(a)


cdef pmg_user_t user_of(object memory, int typenum) except *:
    """Memory of the caller: None is NULL; bytes or an array are what can be reached, none of it a wild pointer."""
    cdef pmg_user_t u
    u.p = NULL
    u.bytes = 0
    if memory is None:
        return u
    if typenum == cnp.NPY_UINT8:
        u.p = PyBytes_AS_STRING(memory)
        u.bytes = PyBytes_GET_SIZE(memory)
    else:
        u.p = data_of(memory, typenum, "an array of a call")
        u.bytes = cnp.PyArray_NBYTES(memory)
    if u.p == NULL:
        u.p = <void *> PMG_BAD
    return u


cdef int64_t answer(int64_t rc, uint32_t rule) noexcept:
    """What a call answered as one number: errors.py takes it apart again."""
    return rc - (<int64_t> rule << 12) if rc < 0 else rc


# -- hooks -----------------------------------------------------------------------------------------------------

cdef void keep_error(ctx_t *c, object error) noexcept:
    """What a hook raised comes out of the call that it interrupted; the first error says what went wrong."""
    if c.error == NULL:
        Py_INCREF(error)
        c.error = <void *> error


cdef object take_error(ctx_t *c):
    if c.error == NULL:
        return None
    error = <object> c.error
    Py_DECREF(error)
    c.error = NULL
    return error


cdef int call_step(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil:
    with gil:
        return (<Machine> <object> c.data)._run_hook(c, step, pfns, n)


cdef int call_migrate(ctx_t *c, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept nogil:
    with gil:
        return (<Machine> <object> c.data)._run_migrate(c, vma, old, new, flags)


cdef int call_wait(ctx_t *c, int what, uint32_t which) noexcept nogil:
    with gil:
        return (<Machine> <object> c.data)._run_wait(c, what, which)


cdef class Hooked:
    """While a hook of a machine runs in this thread."""

    cdef Machine machine

    def __cinit__(self, Machine machine):
        self.machine = machine

    def __enter__(self):
        self.machine.hooked[get_ident()] = self.machine.hooked.get(get_ident(), 0) + 1

    def __exit__(self, *error):
        self.machine.hooked[get_ident()] -= 1
        if self.machine.hooked[get_ident()] == 0:
            del self.machine.hooked[get_ident()]


cdef class Machine:
    """Memory of a NUMA machine and all processes on it; owner of the whole state.

    Parameters
    ----------
    node_pages, node_cpus, node_reserved, node_watermarks : list of int
        Frames, processors, frames kept for the kernel, and frames left to whoever takes no other node, per node.
    distances : ndarray of uint8, shape (n, n)
        Distance between nodes; decides the fall-back order, ties by number.
    page_bytes : int
        Content kept per page: 0, 8 or 4096 bytes.
    profile : bytes
        A record of the dtype ``PROFILE``, which is ``profile_t``.
    access_stats : bool
        Count accesses per page and node.
    scatter_seed : int
        0, or a seed to hand out frames in random order.
    swap_slots : list of int
        Pages of each swap device.

    Raises
    ------
    MemoryError
        The host refused the address space.
    """

    def __cinit__(self, list node_pages, list node_cpus, distances, int page_bytes, bytes profile,
                  list node_reserved, list node_watermarks, bint access_stats=False, uint64_t scatter_seed=0,
                  list swap_slots=None, *args, **kwargs):
        self.m = <machine_t *> calloc(1, sizeof(machine_t))
        if self.m == NULL:
            raise MemoryError
        if set_profile(self.m, <const char *> profile, len(profile)):
            raise ValueError(f"profile must be a record of {PROFILE.itemsize} bytes, not {len(profile)}")
        self.m.page_bytes = page_bytes
        self.m.access_stats = access_stats
        self.m.width = STAGE
        self.hooked = {}
        self.m.next_pid = 1000
        self.m.next_ino = 1
        self.m.next_ops = 1
        self.build(node_pages, node_cpus, node_reserved, node_watermarks, distances, scatter_seed, swap_slots or [])

    cdef int build(self, list pages, list cpus, list reserved, list watermarks, distances, uint64_t seed,
                   list swap_slots) except -1:
        cdef node_spec_t nodes[MAX_NODES]
        cdef uint64_t slots[MAX_SWAPFILES]
        cdef uint32_t i, n = <uint32_t> len(pages), devices = <uint32_t> len(swap_slots)
        cdef uint8_t *rows = <uint8_t *> data_of(distances, cnp.NPY_UINT8, "distances")
        for i in range(n):
            nodes[i].pages = pages[i]
            nodes[i].cpus = cpus[i]
            nodes[i].reserved = reserved[i]
            nodes[i].watermark = watermarks[i]
            nodes[i].weight = 1
        for i in range(devices):
            slots[i] = swap_slots[i]
        if devices and not self.m.profile.swap:
            raise ValueError("swap needs a kernel profile with swap=1, which only those of 2006 have")
        if build_nodes(self.m, nodes, n, rows) or build_arenas(self.m) or build_swap(self.m, slots, devices):
            raise MemoryError("the host refused to reserve the memory of the machine")
        if seed:
            scatter(self.m, seed)
        return 0

    def __dealloc__(self):
        checker_release(&self.checker)
        if self.m != NULL:
            ctx_release_all(self.m)
            mig_release_all(self.m)
            arenas_release(self.m)
            free(self.m)

    def __init__(self, *args, **kwargs):
        pass

    # -- contexts: one per call and thread -------------------------------------------------------------------

    cdef ctx_t *enter(self) except NULL:
        # What may raise comes before what is held.
        cdef bint asked = self.wait_hook is not None or self.is_nested() or pmg_load32(&self.m.migs_busy) != 0
        cdef ctx_t *c = ctx_get(self.m)
        if c == NULL:
            raise MemoryError("no memory for another call")
        c.data = <void *> self
        c.step_fn = NULL
        c.migrate_fn = call_migrate
        if self.step_hook is not None:
            c.step_fn = call_step
        c.wait_fn = call_wait
        c.wait_mode = MODE_ACTORS if asked else MODE_THREADS
        return c

    cdef bint is_nested(self):
        """Whether a hook makes the call: what it waits for may be held by the very call that the hook interrupts."""
        return len(self.hooked) != 0 and get_ident() in self.hooked

    cdef int wait_nested(self, ctx_t *c) except *:
        """One round of waiting in a call that a hook makes, or beside migrations that only their caller can go on with; it
        ends where nobody else is left to end it.
        """
        cdef uint32_t busy = pmg_load32(&self.m.ctx_busy) - ctx_held(self.m), depth = self.hooked.get(get_ident(), 0)
        cdef double now = monotonic()
        PyErr_CheckSignals()
        if c.nested_deadline == 0:
            c.nested_deadline = now + HOOK_PATIENCE
        if now > c.nested_deadline or busy <= depth + 1 and (depth or active_count() == 1):
            raise RuntimeError(
                "a hook made a call that waits for what is held while the hook runs" if depth else
                "the call waits for a migration that is under way: step that one, or make accesses through a context")
        sleep(0)
        return 0

    cdef void put_mm(self, ctx_t *c) noexcept:
        """The last reference tears the address space down, which may wait."""
        if not mmput_unless_last(self.m, c.mm):
            with nogil:
                mmput(c, c.mm)
        c.mm = 0

    cdef int leave(self, ctx_t *c) except -1:
        """The call is over.  What a hook raised during it is raised here, in the call it interrupted."""
        if c.mm:
            self.put_mm(c)
        if c.task:
            put_task(self.m, c.task)
        error = take_error(c)
        ctx_put(c)
        if error is not None:
            raise error
        return 0

    cdef int _run_hook(self, ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept:
        hook = self.step_hook           # it may be taken away while a call is under way, by itself or by another thread
        if hook is None:
            return 0
        try:
            with Hooked(self):
                hook(step, [pfns[i] for i in range(n)])
        except BaseException as error:
            keep_error(c, error)
        return 0

    cdef int _run_migrate(self, ctx_t *c, vma_t *vma, uint64_t old, uint64_t new, uint32_t flags) noexcept:
        try:
            with Hooked(self):
                return self._vma_migrate(vma.ops, vma_index(self.m, vma), old, new, flags)
        except BaseException as error:
            keep_error(c, error)
            return -EIO

    def _vma_migrate(self, uint32_t ops, uint32_t vma, uint64_t old, uint64_t new, uint32_t flags):
        """The migrate operation ``ops`` of a VMA; who registers some overrides this."""
        return 0

    def _new_ops(self):
        """A number for a table of operations."""
        return pmg_add32(&self.m.next_ops, 1) - 1

    def _vma_info(self, uint32_t vma):
        """(address space, start, end in bytes, flags) of a VMA; for its migrate operation."""
        cdef vma_t *v = vma_of(self.m, vma)
        return v.mm, v.start << 12, v.end << 12, v.flags

    def _vma_frames(self, uint32_t vma):
        """Frame of each page of a VMA, -1 where there is none; for its migrate operation."""
        cdef vma_t *v = vma_of(self.m, vma)
        out = np.empty(v.end - v.start, np.int64)
        cdef int64_t *p = <int64_t *> data_of(out, cnp.NPY_INT64, "out")
        with nogil:
            vma_frames(self.m, v, v.start, v.end - v.start, p)
        return out

    def _vma_remap(self, uint32_t vma, uint64_t addr, pfns):
        """Other frames, with their content, into a VMA without page structs; for its migrate operation."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef vma_t *v = vma_of(self.m, vma)
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                remap_frames(c, v, addr >> 12, n, p)
        finally:
            self.leave(c)

    def _all_reserved(self, pfns):
        """Whether all frames are kept for the kernel: no allocator gives them out."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t i
        for i in range(<uint64_t> len(pfns)):
            if not pfn_is_reserved(self.m, p[i]):
                return False
        return True

    cdef int _run_wait(self, ctx_t *c, int what, uint32_t which) noexcept:
        hook = self.wait_hook
        try:
            if hook is not None:
                return int(hook(what, which))
            if what == WAIT_PASS or not (self.is_nested() or pmg_load32(&self.m.migs_busy)):
                return 0
            return self.wait_nested(c)
        except BaseException as error:
            keep_error(c, error)
            return -PMG_WAIT

    # -- building blocks -----------------------------------------------------------------------------------------

    def _spawn(self, uint32_t cpu, uint32_t uid):
        """Pid of a new process, or -ENOMEM."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t pid
        try:
            with nogil:
                pid = task_new(c, cpu, uid)
        finally:
            self.leave(c)
        return pid if pid else -ENOMEM

    def _find_task(self, uint32_t pid):
        """Whether a process has this pid, which was not reaped; init comes into being when it is asked for."""
        cdef ctx_t *c = self.enter()
        cdef task_t *t
        try:
            with nogil:
                t = find_task(c, pid)
                if t != NULL:
                    put_task(self.m, <uint32_t> (t - task_of(self.m, 0)))
        finally:
            self.leave(c)
        return t != NULL

    def _pids(self):
        """Pids of all processes that were not reaped, rising; init is not listed."""
        cdef uint32_t room = 0, n = all_pids(self.m, NULL, 0)
        pids = None
        while n > room:             # more were started meanwhile
            room = n + 16
            pids = np.empty(room, np.uint32)
            n = all_pids(self.m, <uint32_t *> cnp.PyArray_DATA(pids), room)
        return [pid for pid in sorted(pids[:n].tolist()) if pid != INIT_PID] if n else []

    def _new_file(self, uint32_t kind, uint64_t pages, uint64_t ino=0, uint32_t read_ahead=32):
        """Index of a new file with one open handle, or -ENOMEM."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t f
        try:
            with nogil:
                f = file_new(c, kind, pages, ino)
                if f:
                    file_of(self.m, f).ra_pages = read_ahead
        finally:
            self.leave(c)
        return f if f else -ENOMEM

    def _close_file(self, uint32_t file):
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                file_put(c, file)
        finally:
            self.leave(c)

    def _file_info(self, uint32_t file):
        """(kind, size in pages, inode number, cached pages) of a file."""
        cdef file_t *f = file_of(self.m, file)
        return f.kind, pmg_load(&f.size), f.ino, pmg_load(&f.nrpages)

    def _file_name(self, uint32_t file, uint64_t ino):
        """What the file with this inode number is called; None: shared anonymous memory, or it is gone."""
        cdef uint32_t room = 0, n = 256
        name = b""
        while n > room:
            room = n
            name = bytearray(room)
            n = file_get_name(self.m, file, ino, <char *> name, room)
        return name[:n].decode("utf-8", "surrogateescape") if n else None

    def _set_file_name(self, uint32_t file, bytes name):
        """0 or -ENOMEM."""
        return file_set_name(self.m, file, name, <uint32_t> len(name))

    def _file_busy(self, uint32_t file):
        return pmg_load32(&file_of(self.m, file).busy) != 0

    def _set_file_busy(self, uint32_t file, bint busy):
        pmg_store32(&file_of(self.m, file).busy, busy)

    def _set_file_ino(self, uint32_t file, uint64_t ino):
        file_of(self.m, file).ino = ino

    def _set_next_ino(self, uint64_t ino):
        """Inode number of the next shared object or file that is made without one."""
        self.m.next_ino = ino

    def _file_frames(self, uint32_t file):
        """Frame of each cached page of a file, 0 where none is cached; a copy."""
        cdef file_t *f = file_of(self.m, file)
        out = np.zeros(f.cache.n, np.uint32)
        if f.cache.n:
            memcpy(cnp.PyArray_DATA(out), vec_at(self.m, &f.cache), <size_t> f.cache.n * 4)
        return out

    def _counters(self):
        """Event counters by name, of all processors and of calls under way."""
        cdef uint64_t total[64]
        with nogil:
            all_vm_events(self.m, total)
        return {name: total[k] for k, name in enumerate(COUNTERS)}

    def _counters_raw(self):
        """Counters of every processor, shape (processors, counters), read-only, without a copy."""
        cdef uint64_t n = sizeof(vm_event_state_t) // 8
        words = lend(self, self.m.vm_events, self.m.nr_cpus * n, cnp.NPY_UINT64)
        return words.reshape(-1, n)[:, :NR_COUNTERS]

    def _counter(self, int k):
        cdef uint64_t total[64]
        with nogil:
            all_vm_events(self.m, total)
        return total[k]

    def _node_free(self, int nid):
        return node_free_pages(self.m, nid)

    def _fallback(self, int nid):
        """Nodes in the order an allocation that starts at ``nid`` tries them."""
        return [self.m.node[nid].fallback[i] for i in range(self.m.nr_nodes)]

    def _swap_info(self):
        """(slots, slots in use) of every swap device."""
        return [(self.m.swap_info[i].max - 1, pmg_load32(&self.m.swap_info[i].inuse)) for i in range(self.m.nr_swapfiles)]

    def _swap_out(self, pfns):
        """Write frames to their slots or files and free them; how many are gone."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t n = len(pfns), gone
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                gone = swap_out(c, p, n)
        finally:
            self.leave(c)
        return gone

    def _swapoff(self, uint32_t device):
        """Bring everything on a device back into memory and use it no more: 0 or -errno."""
        if device >= self.m.nr_swapfiles:
            return -EINVAL
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_swapoff(c, device, &rule)
        finally:
            self.leave(c)
        return answer(rc, rule)

    def _swapon(self, uint32_t device):
        """Use a device again: 0 or -errno."""
        if device >= self.m.nr_swapfiles:
            return -EINVAL
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_swapon(c, device, &rule)
        finally:
            self.leave(c)
        return answer(rc, rule)

    def _migrate_lists(self, pfns, int32_t nid):
        """Four lists: frames isolated, migrated to a node (-1: swapped out), looked at, and disposed of.

        (rc, frames moved, failed, and left; content of those moved), as they were before they were put back.
        """
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef ctx_t *c
        cdef lists_t l
        cdef int64_t rc
        room = np.empty(3 * n + MIGRATE_CHUNK_SIZE + 1, np.uint32)
        l.source = <uint32_t *> cnp.PyArray_DATA(room)
        l.moved = l.source + n
        l.failed = l.moved + n
        l.to = l.failed + n
        c = self.enter()
        try:
            with nogil:
                lists_begin(c, &l, p, n, nid)
                rc = <int64_t> migrate_page_lists(c, &l)
            try:
                left = l.source - <uint32_t *> cnp.PyArray_DATA(room)
                moved = room[n:n + l.nr_moved].copy()
                failed = room[2 * n:2 * n + l.nr_failed].copy()
                kept = room[left:left + l.n].copy()
                content = self._list_content(moved)
            finally:
                with nogil:
                    lists_end(c, &l)
        finally:
            self.leave(c)
        return rc, moved, failed, kept, content

    def _list_content(self, pfns):
        """What the old frames of moved pages still hold."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t *o
        cdef uint64_t i, n = len(pfns)
        if self.m.page_bytes == 0:
            return None
        out = np.empty(n, np.uint64)
        o = <uint64_t *> cnp.PyArray_DATA(out)
        for i in range(n):
            o[i] = page_token(self.m, p[i])
        return out

    def _swap_map(self):
        """Entries and cache that name each slot, device after device, their headers first; without a copy."""
        return lend(self, self.m.swap_map, self.m.nr_swap_slots, cnp.NPY_UINT32)

    def _set_weight(self, int nid, uint8_t weight):
        self.m.node[nid].weight = weight

    def _weights(self):
        """Weight of every node for weighted interleaving, 1 for those that are not there; an array of 64."""
        return np.array([self.m.node[i].weight or 1 for i in range(MAX_NODES)], np.uint8)

    @property
    def nr_cpus(self):
        """Number of processors."""
        return self.m.nr_cpus

    @property
    def _memory_mask(self):
        """Nodes with memory that are online, as bits: what every cpuset here allows."""
        return pmg_load(&self.m.has_memory)

    def _cpu_nid(self, uint32_t cpu):
        return self.m.cpu_node[cpu]

    def _node_range(self, int nid):
        """(first frame, first behind the last) of a node."""
        return self.m.node[nid].first, self.m.node[nid].end

    def _nids(self, pfns):
        """Node of frame numbers of uint64, -1 where there is no such frame."""
        cdef uint64_t *p = <uint64_t *> data_of(pfns, cnp.NPY_UINT64, "pfns")
        cdef uint64_t i, n = len(pfns)
        cdef int32_t *o
        out = np.empty(n, np.int32)
        o = <int32_t *> cnp.PyArray_DATA(out)
        with nogil:
            for i in range(n):
                o[i] = page_to_nid(self.m, <uint32_t> p[i]) if p[i] < self.m.nr_frames else -1
        return out

    @property
    def _nr_frames(self):
        return self.m.nr_frames

    @property
    def width(self):
        """Pages a stage of the migration engine handles, 1 to 64; results do not depend on it."""
        return self.m.width

    @width.setter
    def width(self, n):
        if not hasattr(n, "__index__"):
            raise TypeError(f"width must be an integer, not {n!r}")
        if not 1 <= n <= STAGE:
            raise ValueError(f"width must be 1 to {STAGE}, not {n}")
        self.m.width = n

    # -- views -----------------------------------------------------------------------------------------------------

    def _frames_raw(self):
        """The frame records, read-only, without a copy."""
        return lend(self, self.m.frames, self.m.nr_frames * 2, cnp.NPY_UINT64).view(FRAME_DTYPE)

    def _tables_raw(self):
        """Page tables handed out so far, shape (tables, 512), read-only, without a copy; table 0 is unused."""
        return lend(self, self.m.pt, <uint64_t> self.m.tables.fresh * PTRS_PER_PTE, cnp.NPY_UINT64) \
            .reshape(-1, PTRS_PER_PTE)

    @property
    def table_pfn(self):
        """Physical page number of page table 0: above every frame."""
        return self.m.table_pfn

    def _mlock_counts(self):
        return lend(self, self.m.mlock_count, self.m.nr_frames, cnp.NPY_UINT32)

    def _arenas(self):
        """Every reserved arena as bytes, read-only, without a copy; for tests."""
        return [lend(self, self.m.arenas[i], self.m.arena_bytes[i], cnp.NPY_UINT8) for i in range(self.m.nr_arenas)]

    def _content_raw(self):
        """First eight bytes of each frame as a strided view; None without content."""
        if self.m.page_bytes == 0:
            return None
        words = lend(self, self.m.content, self.m.nr_frames * (self.m.page_bytes // 8), cnp.NPY_UINT64)
        return words.reshape(-1, self.m.page_bytes // 8)

    # -- invariants ------------------------------------------------------------------------------------------------

    def check(self, bint full=False):
        """Hold every invariant of a machine at rest; the cost grows with what is in use.

        Parameters
        ----------
        full : bool, default False
            Also look at every frame and every free list.

        Raises
        ------
        InvariantError
            With the rule, the page and both values.
        """
        cdef violation_t v
        cdef int rule
        with nogil:
            rule = check_machine(self.m, &self.checker, full, &v)
        if rule < 0:
            raise MemoryError("no memory for the notes of check()")
        if rule:
            raise invariant_error(self.m, &v)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _at_step(self, hook):
        """Call ``hook(step, pfns)`` between the stages of every migration; None: no hook."""
        self.step_hook = hook

    def _on_wait(self, hook):
        """Call ``hook(what, which)`` instead of spinning where anything waits; None: spin."""
        self.wait_hook = hook

    def _start_trace(self, uint64_t capacity, bint locks=False):
        cdef int kind
        cdef ctx_t *c = ctx_first(self.m)
        if self.m.trace == NULL or self.m.trace_max < capacity:
            self.m.trace_max = 0
            self.m.trace = <uint64_t *> arena_new(self.m, capacity * 16)
            if self.m.trace == NULL:
                raise MemoryError(f"the host refused to reserve {capacity * 16} bytes")
            self.m.trace_max = capacity
        self.m.trace_n = 0
        while c != NULL:
            for kind in range(<int> C_LOCK_SWAP - <int> C_LOCK_PAGE + 1):
                c.traced[kind] = c.count[<int> C_LOCK_PAGE + kind]
            c = c.older
        self.m.tracing = 2 if locks else 1

    @property
    def _tracing(self):
        return self.m.tracing != 0

    @property
    def _trace_locks(self):
        return self.m.trace_locks != 0

    @_trace_locks.setter
    def _trace_locks(self, bint on):
        self.m.trace_locks = on

    def _stop_trace(self):
        """Locks taken after a context's last step are recorded here, so that none is missing."""
        cdef ctx_t *c = ctx_first(self.m)
        while c != NULL and self.m.tracing == 2:
            trace_locks(c, 0)
            c = c.older
        self.m.tracing = 0

    def _trace_raw(self):
        """Events recorded so far, read-only; see _migrate for the words."""
        cdef uint64_t n = min(self.m.trace_n, self.m.trace_max)
        if n == 0:
            return np.empty(0, TRACE_DTYPE)
        return lend(self, self.m.trace, n * 2, cnp.NPY_UINT64).view(TRACE_DTYPE)

    def _migrate_frames(self, pfns, nodes, status):
        """Page i to node i, without a process context; how many did not move."""
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef int32_t *k = <int32_t *> data_of(nodes, cnp.NPY_INT32, "nodes")
        cdef int32_t *s = <int32_t *> data_of(status, cnp.NPY_INT32, "status")
        cdef uint64_t n = len(pfns)
        cdef ctx_t *c = self.enter()
        cdef int64_t rc
        try:
            with nogil:
                rc = migrate_frames(c, p, k, n, s)
        finally:
            self.leave(c)
        return rc

    def _evacuate(self, int nid, uint64_t first, uint64_t n, uint64_t targets, uint32_t max_passes, int keep,
                  Process holder):
        """Empty a node and take it offline, or with nid -1 just a range of frames: (error, passes, pages migrated)."""
        cdef evacuation_t e
        cdef ctx_t *c
        cdef uint32_t rule = 0
        cdef int64_t rc
        e.first = first
        e.end = first + n
        e.targets = targets
        e.max_passes = max_passes
        e.keep = <keep_t> keep
        e.keep_task = 0
        e.passes = 0
        e.migrated = 0
        c = self.enter()
        try:
            if holder is not None:
                if get_task(self.m, holder._task, holder._pid) == NULL:
                    return -ESRCH, 0, 0
                e.keep_task = holder._task
            with nogil:
                rc = offline_node(c, nid, &e, &rule) if nid >= 0 else migrate_range(c, &e)
                if e.keep_task:
                    put_task(self.m, e.keep_task)
        finally:
            self.leave(c)
        return answer(rc, rule), e.passes, e.migrated

    def _online(self, int nid):
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                online_node(c, nid)
        finally:
            self.leave(c)

    def _mappings(self, uint32_t pfn):
        """(address space, address) of whoever maps a frame, through the reverse map and in its order.

        No lock is taken: for a machine at rest, or at a step of a migration.
        """
        cdef machine_t *m = self.m
        cdef frame_t *f = &m.frames[pfn]
        cdef uint32_t vmas[STAGE]
        cdef uint32_t i, leaf, n = STAGE, skip = 0, tree
        cdef uint64_t vpn
        cdef vma_t *vma
        found = []
        if not f.mapping:
            return found
        tree = anon_vma_of(m, f.mapping).tree if f.state & PG_anon else file_of(m, f.mapping).tree
        while n == STAGE:
            n = rmap_vmas(m, tree, f.index, f.index, skip, vmas, STAGE)
            skip += n
            for i in range(n):
                vma = vma_of(m, vmas[i])
                vpn = vma_address(vma, f.index)
                leaf = walk_leaf(m, mm_of(m, vma.mm).pgd, vpn) if vpn < vma.end else 0
                if leaf and pte_present(leaf_pte(m, leaf, vpn)[0]) and pte_pfn(leaf_pte(m, leaf, vpn)[0]) == pfn:
                    found.append((vma.mm, vpn << 12))
        return found


cdef class Process:
    """A process of a machine: the calling side of every system call.

    Any number of threads may use one object.  A call that is under way when another thread ends the process, and lets
    it be reaped, goes on with the record and the address space it began with: it never sees those of a process that
    was started since.  A call that comes after the reaping raises ``ProcessGoneError``.

    Parameters
    ----------
    machine : Machine
    pid : int
        Its number.

    Raises
    ------
    ProcessGoneError
        No process has that number, or it was reaped.
    """

    def __cinit__(self, Machine machine not None, uint32_t pid, *args, **kwargs):
        self.core = machine
        self.m = machine.m
        self._pid = pid
        self.t = find_get_task_by_vpid(self.m, pid)
        if self.t == NULL:
            raise self.gone()
        self._task = <uint32_t> (self.t - task_of(self.m, 0))
        put_task(self.m, self._task)

    def __init__(self, *args, **kwargs):
        pass

    cdef object gone(self):
        return ProcessGoneError(f"Process {self._pid} has exited")

    cdef task_t *hold(self) except NULL:
        """The record, which is this process's until put_task."""
        cdef task_t *t = get_task(self.m, self._task, self._pid)
        if t == NULL:
            raise self.gone()
        return t

    cdef bint attach(self, ctx_t *c) noexcept:
        """Make the process the caller of what the context does; its record stays as long.  False: it was reaped."""
        if get_task(self.m, self._task, self._pid) == NULL:
            return False
        c.task = self._task
        ctx_bind(c, pmg_load32(&self.t.cpu))
        return True

    cdef ctx_t *enter(self) except NULL:
        cdef ctx_t *c = self.core.enter()
        if not self.attach(c):
            self.core.leave(c)
            raise self.gone()
        return c

    cdef ctx_t *look(self) except NULL:
        """Enter with the address space of the process, if it has one still; it stays until the call leaves."""
        cdef ctx_t *c = self.enter()
        cdef uint32_t mm = pmg_load32(&self.t.mm)
        if mm and mmget_not_zero(self.m, mm):
            c.mm = mm
            if pmg_load32(&self.t.mm) != mm:        # it exited, and the address space may be another process's
                self.core.put_mm(c)
        return c

    cdef ctx_t *begin(self) except NULL:
        """look() for calls that only a process with an address space can make."""
        cdef ctx_t *c = self.look()
        if c.mm == 0:
            self.core.leave(c)
            raise self.gone()
        return c

    # -- who it is -------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process number, unique on its machine."""
        return self._pid

    @property
    def _mm(self):
        """Number of its address space, 0 once it has exited."""
        cdef uint32_t mm = pmg_load32_acq(&self.t.mm)
        return mm if pmg_load32(&self.t.pid) == self._pid else 0    # in this order: a new owner stores its pid first

    @property
    def alive(self):
        """False once the process has exited or was killed."""
        return pmg_load32_acq(&self.t.state) == TASK_RUNNING and pmg_load32(&self.t.pid) == self._pid

    @property
    def _reaped(self):
        """True once its number is free."""
        return pmg_load32_acq(&self.t.state) == TASK_FREE or pmg_load32(&self.t.pid) != self._pid

    def _cred(self):
        """(uid, euid, suid, gid, capabilities, dumpable), all of one moment."""
        cdef cred_t cred
        cdef ctx_t *c = self.enter()
        try:
            get_cred(c, self.t, &cred)
        finally:
            self.core.leave(c)
        return cred.uid, cred.euid, cred.suid, cred.gid, cred.caps, bool(cred.dumpable)

    def _setuid(self, uint32_t uid, uint32_t gid, bint dumpable):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_setuid(c, uid, gid, dumpable, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _get_cpu(self):
        cdef uint32_t cpu = pmg_load32(&self.hold().cpu)
        put_task(self.m, self._task)
        return cpu

    def _set_cpu(self, uint32_t cpu):
        pmg_store32(&self.hold().cpu, cpu)
        put_task(self.m, self._task)

    def _limits(self, uint64_t memlock):
        """RLIMIT_MEMLOCK in bytes."""
        pmg_store(&self.hold().memlock, memlock)
        put_task(self.m, self._task)

    def _faults(self):
        """(minor, major) faults since the start of the process."""
        cdef task_t *t = self.hold()
        cdef uint64_t minor = pmg_load(&t.min_flt), major = pmg_load(&t.maj_flt)
        put_task(self.m, self._task)
        return minor, major

    def _usage(self):
        """(rss_anon, rss_file, rss_shmem, locked, total) in pages; all 0 of a zombie."""
        cdef ctx_t *c = self.look()
        cdef mm_t *mm = mm_of(self.m, c.mm)         # record 0 is never handed out and all 0
        cdef uint64_t anon = pmg_load(<uint64_t *> &mm.rss_anon), file = pmg_load(<uint64_t *> &mm.rss_file)
        cdef uint64_t shmem = pmg_load(<uint64_t *> &mm.rss_shmem)
        cdef uint64_t locked = pmg_load(&mm.locked_vm), total = pmg_load(&mm.total_vm)
        self.core.leave(c)
        return <int64_t> anon, <int64_t> file, <int64_t> shmem, locked, total

    # -- address space ---------------------------------------------------------------------------------------------

    def _mmap(self, uint64_t addr, uint64_t length, uint32_t prot, uint32_t flags, uint32_t file, uint64_t offset):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mmap(c, addr, length, prot, flags, file, offset, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mmap_pfns(self, pfns, uint32_t prot, uint32_t ops):
        cdef uint32_t *p = <uint32_t *> data_of(pfns, cnp.NPY_UINT32, "pfns")
        cdef uint64_t n = len(pfns)
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mmap_pfns(c, p, n, prot, ops, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _vm_ops(self, uint64_t addr, uint32_t ops):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_vm_ops(c, addr, ops, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _munmap(self, uint64_t addr, uint64_t length):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_munmap(c, addr, length, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mprotect(self, uint64_t addr, uint64_t length, uint32_t prot):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mprotect(c, addr, length, prot, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mremap(self, uint64_t old, uint64_t old_len, uint64_t new_len, uint32_t flags, uint64_t new_addr):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mremap(c, old, old_len, new_len, flags, new_addr, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _madvise(self, uint64_t addr, uint64_t length, int advice):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_madvise(c, addr, length, advice, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mlock(self, uint64_t addr, uint64_t length, uint32_t flags):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mlock(c, addr, length, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _munlock(self, uint64_t addr, uint64_t length):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_munlock(c, addr, length, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mlockall(self, uint32_t flags):
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_mlockall(c, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _munlockall(self):
        cdef ctx_t *c = self.begin()
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_munlockall(c)
        finally:
            self.core.leave(c)
        return rc

    # -- accesses --------------------------------------------------------------------------------------------------

    def _touch(self, uint64_t addr, uint64_t n, bint write, values=None, out=None):
        """Access ``n`` pages in order: (pages done, minor faults, major faults, signal)."""
        cdef uint64_t *v = <uint64_t *> data_of(values, cnp.NPY_UINT64, "values") if values is not None else NULL
        cdef uint64_t *o = <uint64_t *> data_of(out, cnp.NPY_UINT64, "out") if out is not None else NULL
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
        """Accesses in order: (accesses done, minor faults, major faults, signal)."""
        cdef uint64_t *a = <uint64_t *> data_of(addresses, cnp.NPY_UINT64, "addresses")
        cdef uint64_t n = len(addresses)
        cdef uint8_t *w = NULL
        cdef bint every = False
        cdef touch_t r, part
        cdef uint64_t most = n if deferred else UNINTERRUPTED       # a deferred call counts as one
        cdef access_t access = access_deferred if deferred else access_many
        cdef ctx_t *c
        if cnp.PyArray_Check(write):
            w = <uint8_t *> data_of(write, cnp.PyArray_TYPE(write), "write")
            if cnp.PyArray_ITEMSIZE(write) != 1 or <uint64_t> len(write) != n:
                raise ValueError(f"write must hold one flag of one byte for each of {n} accesses")
        else:
            every = write
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

    # -- life ------------------------------------------------------------------------------------------------------

    def _fork(self):
        """Pid of the child or -errno."""
        cdef ctx_t *c = self.begin()
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_fork(c)
        finally:
            self.core.leave(c)
        return rc

    def _exit(self, bint zombie=False):
        """Nothing is left to do when another thread was faster."""
        cdef ctx_t *c = self.core.enter()
        try:
            if self.attach(c):
                with nogil:
                    do_exit(c, self.t, zombie, False)
        finally:
            self.core.leave(c)

    def _reap(self):
        """Likewise."""
        cdef ctx_t *c = self.core.enter()
        try:
            if self.attach(c):
                with nogil:
                    task_reap(c, self.t)
        finally:
            self.core.leave(c)

    def _pin(self, uint64_t addr, uint64_t n, bint longterm):
        """(pages held or -errno, pin index)."""
        cdef ctx_t *c = self.begin()
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef uint32_t pin = 0
        try:
            with nogil:
                rc = pmg_sys_pin(c, addr, n, longterm, &pin, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule), pin

    def _unpin(self, uint32_t pin):
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_unpin(c, pin, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    # -- files -----------------------------------------------------------------------------------------------------

    def _fwrite(self, uint32_t file, uint64_t index, values):
        cdef uint64_t *v = <uint64_t *> data_of(values, cnp.NPY_UINT64, "values")
        cdef uint64_t n = len(values)
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_write(c, file, index, n, v, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _fread(self, uint32_t file, uint64_t index, out):
        cdef uint64_t *v = <uint64_t *> data_of(out, cnp.NPY_UINT64, "out")
        cdef uint64_t n = len(out)
        cdef ctx_t *c = self.enter()
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_read(c, file, index, n, v)
        finally:
            self.core.leave(c)
        return rc

    def _ftruncate(self, uint32_t file, uint64_t pages):
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_ftruncate(c, file, pages, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _punch(self, uint32_t file, uint64_t index, uint64_t n):
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_fallocate(c, file, index, n, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _fadvise(self, uint32_t file, uint64_t index, uint64_t n, int advice, bint sync):
        cdef ctx_t *c = self.enter()
        cdef uint32_t rule = 0
        cdef int64_t rc
        try:
            with nogil:
                rc = pmg_sys_fadvise(c, file, index, n, advice, sync, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    # -- policies and migration --------------------------------------------------------------------------------------

    def _set_mempolicy(self, uint32_t mode, nodes, uint64_t maxnode):
        cdef pmg_user_t mask = user_of(nodes, cnp.NPY_UINT8)
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.begin()
        try:
            with nogil:
                rc = pmg_sys_set_mempolicy(c, mode, &mask, maxnode, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _get_mempolicy(self, mode, nodes, uint64_t maxnode, uint64_t addr, uint64_t flags):
        """Mode word (int32) and mask (uint64) are stored where there is room."""
        cdef pmg_user_t word = user_of(mode, cnp.NPY_INT32), mask = user_of(nodes, cnp.NPY_UINT64)
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.begin()
        try:
            with nogil:
                rc = pmg_sys_get_mempolicy(c, &word, &mask, maxnode, addr, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

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
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.begin()
        try:
            with nogil:
                rc = pmg_sys_set_mempolicy_home_node(c, start, length, node, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _mbind(self, uint64_t start, uint64_t length, uint32_t mode, nodes, uint64_t maxnode, uint64_t flags):
        cdef pmg_user_t mask = user_of(nodes, cnp.NPY_UINT8)
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.begin()
        try:
            with nogil:
                rc = pmg_sys_mbind(c, start, length, mode, &mask, maxnode, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _move_pages(self, int32_t pid, uint64_t count, pages, nodes, status, uint32_t flags):
        """nodes None: a query; what is no memory cannot be read or written."""
        cdef pmg_user_t p = user_of(pages, cnp.NPY_UINT64), k = user_of(nodes, cnp.NPY_INT32)
        cdef pmg_user_t s = user_of(status, cnp.NPY_INT32)
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                rc = pmg_sys_move_pages(c, pid, count, &p, &k, &s, flags, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    def _migrate_pages(self, int32_t pid, uint64_t maxnode, old_nodes, new_nodes):
        cdef pmg_user_t old = user_of(old_nodes, cnp.NPY_UINT8), new = user_of(new_nodes, cnp.NPY_UINT8)
        cdef uint32_t rule = 0
        cdef int64_t rc
        cdef ctx_t *c = self.enter()
        try:
            with nogil:
                rc = pmg_sys_migrate_pages(c, pid, maxnode, &old, &new, &rule)
        finally:
            self.core.leave(c)
        return answer(rc, rule)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _vmas(self):
        """One row of VMA_DTYPE per mapping, by address; start and end in bytes.

        The policy is the one that counts at the start of the mapping, for shared memory the object's.
        """
        cdef ctx_t *c = self.look()
        cdef uint64_t room = 16, n = 0
        cdef vma_row_t *rows
        cdef int rc = 0
        try:
            while True:
                out = np.empty(room, VMA_DTYPE)
                rows = <vma_row_t *> cnp.PyArray_DATA(out)
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
        """Page-table entries of n pages, 0 where no table is; a copy."""
        cdef cnp.npy_intp shape = <cnp.npy_intp> n
        cdef uint64_t *p
        cdef uint64_t v, first = addr >> 12
        cdef pagewalk_t w
        cdef ctx_t *c
        out = cnp.PyArray_ZEROS(1, &shape, cnp.NPY_UINT64, 0)
        p = <uint64_t *> cnp.PyArray_DATA(out)
        c = self.look()
        try:
            with nogil:
                if c.mm and mmap_read_lock(c, c.mm) == 0:
                    pagewalk_start(&w, self.m, mm_of(self.m, c.mm), first, first + n)
                    while pagewalk_next(&w):
                        for v in range(w.vpn, w.stop):  # one by one: processors set accessed and dirty bits meanwhile
                            p[v - first] = pmg_load(leaf_pte(self.m, w.leaf, v))
                    mmap_read_unlock(c, c.mm)
        finally:
            self.core.leave(c)
        return out

    def _access_counts(self, uint64_t addr, uint64_t n):
        """Accesses of n pages from each node, shape (nodes, n); all zero without access_stats."""
        cdef uint32_t nid
        cdef uint32_t *counts
        cdef ctx_t *c
        out = np.zeros((self.m.nr_nodes, n), np.uint32)
        if self.m.stats == NULL:
            return out
        counts = <uint32_t *> cnp.PyArray_DATA(out)
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
    """Describe the mappings, if there is room for all; how many there are.  mmap_lock held."""
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
    UNINTERRUPTED = 1 << 22         # accesses between two looks for Ctrl-C: some 50 ms


ctypedef void (*access_t)(
    ctx_t *c, task_t *t, const uint64_t *addresses, const uint8_t *writes, bint write_all, uint64_t n,
    touch_t *r) noexcept nogil


cdef bint touch_goes_on(touch_t *r, uint64_t n) except -1:
    """Accesses are left, nothing has stopped them, and no handler of a signal raises."""
    if r.done and r.done < n:
        PyErr_CheckSignals()
    return r.done < n and not r.signal and not r.wait


cdef void add_touch(touch_t *r, touch_t *part) noexcept:
    r.done += part.done
    r.minflt += part.minflt
    r.majflt += part.majflt
    r.signal = part.signal
    r.wait = part.wait


# -- the arithmetic of policies, for whole arrays ------------------------------------------------------------------

def mpol_effective(uint32_t mode, uint32_t flags, bytes user, uint64_t allowed):
    """Nodes of a set of 1,024 bits that a policy uses where only ``allowed`` are there; 0 for EINVAL."""
    cdef machine_t *m = <machine_t *> calloc(1, sizeof(machine_t))
    cdef nodemask_t mask
    cdef mpol_t pol
    cdef uint32_t rule, word = mode | flags
    cdef int rc
    if m == NULL:
        raise MemoryError
    memset(&mask, 0, sizeof(mask))
    memcpy(&mask, PyBytes_AS_STRING(user), min(<size_t> len(user), sizeof(mask)))
    m.profile.mode_mask = 0x7f
    m.profile.mode_flags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING
    m.profile.balancing_many = 1
    m.has_memory = allowed
    m.nr_nodes = MAX_NODES
    rc = sanitize_mpol_flags(m, word, &mode, &flags, &rule) or mpol_set_nodemask(m, mode, flags, &mask, &pol, &rule)
    free(m)
    return pol.nodes if rc == 0 else 0


def mpol_targets(uint32_t mode, uint32_t flags, uint64_t nodes, weights, pages, int32_t local, out):
    """Node of each page number under a policy; out is int32, weights 64 numbers of uint8 (or None: all 1)."""
    cdef uint64_t *p = <uint64_t *> data_of(pages, cnp.NPY_UINT64, "pages")
    cdef int32_t *o = <int32_t *> data_of(out, cnp.NPY_INT32, "out")
    cdef uint64_t i, n = len(pages)
    cdef machine_t *m
    cdef ctx_t c
    cdef mpol_t pol
    cdef uint64_t mask = 0
    if <uint64_t> len(out) != n:
        raise ValueError(f"out must hold {n} nodes, not {len(out)}")
    m = <machine_t *> calloc(1, sizeof(machine_t))
    if m == NULL:
        raise MemoryError
    m.nr_nodes = MAX_NODES
    m.has_memory = <uint64_t> -1
    m.profile.mbind_ilx = 1             # all 64 bits count; callers cut what their kernel cuts
    for i in range(MAX_NODES):
        m.node[i].weight = weights[i] if weights is not None else 1
        m.node[i].fallback[0] = <uint32_t> i
        for k in range(1, MAX_NODES):
            m.node[i].fallback[k] = <uint32_t> (k - 1 if <uint64_t> k <= i else k)
    memset(&c, 0, sizeof(c))
    c.m = m
    c.nid = local
    pol.mode = mode
    pol.flags = flags
    pol.home_node = -1
    pol.nodes = nodes
    pol.user = nodes
    with nogil:
        for i in range(n):
            o[i] = policy_node(&c, &pol, p[i], &mask)
    free(m)
