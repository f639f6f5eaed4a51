"""The state of a machine: C structs, flag bits and constants.  The contract of the core.

Units: ``start``, ``end``, ``vpn``, ``pgoff`` and sizes are in pages unless a name says bytes.  References
are indices (``uint32_t``; 0 is "none" for every kind but nodes and CPUs), never pointers: that is what makes
copying and pickling a machine exact.  The only pointers are the bases of the reserved arenas in ``machine_t``.

Locks, outermost first; two of a kind by rising number (a node's zone lock is the innermost)::

    file.i_rwsem > mm.lock (mmap_lock) > PG_locked of a frame > file.i_mmap_lock > anon_vma.lock (of the root)
      > ptdesc.lock (page table) > task.alloc_lock
      > {node.lock, file.lock (page cache, shared policy, name) > heap lock, nodemask_lock > slab lock,
         swap_lock > tree_lock (swap cache), pid_lock, lock of vm_event_state_t, ctx_lock}

The target page of a migration is taken by trylock only.  None is ever taken while waiting for the
interpreter lock.
"""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from pagemig.mm.pte cimport pte_t


cdef extern from *:
    """
    /* ---- frame state word: flags 20 bits | references REF_BITS | mapcount MAP_BITS ----
     *
     * A count at its limit accepts no further lasting reference or mapping: see page_try_get and page_try_map.  The
     * room above the limit is for temporary ones: references of calls under way, per-CPU mlock lists, and entries that
     * fork copies while their page is under migration.  Those entries are counted when they are restored, at most one
     * per process. */
    #ifdef PAGEMIG_PLANT_NARROW             /* make narrow: tests reach the limits */
    #define REF_BITS 10
    #define MAP_BITS 6
    #define REF_LIMIT 600
    #define MAP_LIMIT 24
    #define GUP_PIN_COUNTING_BIAS 16
    #define MAX_TASKS 38
    #else
    #define REF_BITS 24
    #define MAP_BITS 20
    #define REF_LIMIT 0xc00000ull
    #define MAP_LIMIT 0xc0000ull
    #define GUP_PIN_COUNTING_BIAS 1024
    #define MAX_TASKS (1 << 16)
    #endif
    _Static_assert(MAP_LIMIT + MAX_TASKS < 1 << MAP_BITS && MAP_LIMIT < REF_LIMIT, "temporary references and mappings fit");
    #define PG_locked        (1ull << 0)
    #define PG_referenced    (1ull << 1)
    #define PG_uptodate      (1ull << 2)
    #define PG_dirty         (1ull << 3)
    #define PG_lru           (1ull << 4)
    #define PG_active        (1ull << 5)
    #define PG_writeback     (1ull << 6)
    #define PG_private       (1ull << 7)   /* has buffers: one more reference */
    #define PG_swapcache     (1ull << 8)
    #define PG_swapbacked    (1ull << 9)   /* anonymous, tmpfs or shared anonymous */
    #define PG_mlocked       (1ull << 10)
    #define PG_unevictable   (1ull << 11)
    #define PG_anon          (1ull << 12)  /* frame.mapping is an anon_vma, else a file */
    #define PG_anon_exclusive (1ull << 13)
    #define PG_reserved      (1ull << 14)  /* the zero page and what a node keeps for the kernel */
    #define PG_isolated      (1ull << 15)  /* off the LRU, a migrator holds one reference */
    #define PG_order_shift   16            /* two bits reserved for larger pages */
    #define PG_readahead     (1ull << 18)  /* a reader that reaches the page starts the next read-ahead */
    #define PG_cached        (1ull << 19)  /* in a page cache: one reference (PG_anon is clear) */
    #define FRAME_FLAGS      0xfffffull
    #define REF_SHIFT        20
    #define REF_ONE          (1ull << REF_SHIFT)
    #define REF_MASK         ((1ull << REF_BITS) - 1)
    #define MAP_SHIFT        (REF_SHIFT + REF_BITS)
    #define MAP_ONE          (1ull << MAP_SHIFT)
    #define MAP_MASK         ((1ull << MAP_BITS) - 1)

    /* ---- VMA flags, the kernel's bits where user space sees them ---- */
    #define VM_READ       0x1u
    #define VM_WRITE      0x2u
    #define VM_EXEC       0x4u
    #define VM_SHARED     0x8u
    #define VM_MAYREAD    0x10u
    #define VM_MAYWRITE   0x20u
    #define VM_MAYEXEC    0x40u
    #define VM_MAYSHARE   0x80u
    #define VM_PFNMAP     0x400u
    #define VM_LOCKED     0x2000u
    #define VM_IO         0x4000u
    #define VM_SEQ_READ   0x8000u
    #define VM_RAND_READ  0x10000u
    #define VM_DONTCOPY   0x20000u
    #define VM_DONTEXPAND 0x40000u
    #define VM_LOCKONFAULT 0x80000u
    #define VM_ACCOUNT    0x100000u
    #define VM_NORESERVE  0x200000u
    #define VM_DONTMIGRATE 0x800000u       /* the note's VM_DONTMIGRATE; no kernel has it */
    #define VM_WIPEONFORK 0x2000000u
    #define VM_DONTDUMP   0x4000000u
    #define VM_HUGEPAGE   0x20000000u
    #define VM_NOHUGEPAGE 0x40000000u
    #define VM_MERGEABLE  0x80000000u

    /* ---- fault flags and results ---- */
    #define FAULT_FLAG_WRITE   1
    #define FAULT_FLAG_UNSHARE 2   /* break sharing of an anonymous page for a long-term pin */
    #define VM_FAULT_OOM     1
    #define VM_FAULT_SIGBUS  2
    #define VM_FAULT_MAJOR   4
    #define VM_FAULT_SIGSEGV 8
    #define VM_FAULT_RETRY   16    /* take the mm lock again and start over */
    #define VM_FAULT_WAIT    32    /* the host owns time: unwind and return -PMG_WAIT */
    #define VM_FAULT_RESTARTED 64  /* the kernel dropped its lock for read-ahead and did the fault over */

    #define PMG_WAIT 512           /* -PMG_WAIT: a call unwound because it would have waited */
    #define PMG_BUG 1024           /* -(PMG_BUG + bug_t): the real kernel would have crashed */

    #define MAX_NODES 64
    #define MAX_SWAPFILES 29       /* the types above are migration entries */
    #define NODEMASK_WORDS 16      /* 1,024 nodes */
    #define NODEMASK_HASH 256      /* buckets */
    #define PID_HASH 1024          /* buckets */
    #define INIT_PID 1
    #define STAGE 64               /* pages the host handles at a time */
    #define STATS_SLOTS 8          /* arrays of access counts; the last one is shared, by atomic adds */
    #define PCP_MAX 256            /* frames a processor caches per node */
    #define PTRS_PER_PTE 512
    #define TASK_SIZE_PAGES (1ull << 35)
    #define MAX_INDEX_PAGES (1ull << 32)    /* 16 TiB: beyond it, pages of one mapping or file share an index */
    #define DEF_MAX_MAP_COUNT 65530
    """
    const uint64_t PG_locked, PG_referenced, PG_uptodate, PG_dirty, PG_lru, PG_active, PG_writeback
    const uint64_t PG_private, PG_swapcache, PG_swapbacked, PG_mlocked, PG_unevictable, PG_anon
    const uint64_t PG_anon_exclusive, PG_reserved, PG_isolated, PG_readahead, PG_cached, FRAME_FLAGS
    const uint64_t REF_ONE, REF_MASK, MAP_ONE, MAP_MASK, REF_LIMIT, MAP_LIMIT
    const uint32_t VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC
    const uint32_t VM_MAYSHARE, VM_PFNMAP, VM_LOCKED, VM_IO, VM_SEQ_READ, VM_RAND_READ
    const uint32_t VM_DONTCOPY, VM_DONTEXPAND, VM_LOCKONFAULT, VM_ACCOUNT, VM_NORESERVE
    const uint32_t VM_DONTMIGRATE, VM_WIPEONFORK, VM_DONTDUMP, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_MERGEABLE
    enum:
        PG_order_shift, REF_SHIFT, MAP_SHIFT, GUP_PIN_COUNTING_BIAS, MAX_TASKS
        FAULT_FLAG_WRITE, FAULT_FLAG_UNSHARE
        VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_MAJOR, VM_FAULT_SIGSEGV, VM_FAULT_RETRY, VM_FAULT_WAIT
        VM_FAULT_RESTARTED, PMG_WAIT, PMG_BUG, MAX_NODES, MAX_SWAPFILES, NODEMASK_WORDS, NODEMASK_HASH, PID_HASH
        INIT_PID, STAGE, STATS_SLOTS, PCP_MAX, PTRS_PER_PTE, DEF_MAX_MAP_COUNT
    const uint64_t TASK_SIZE_PAGES, MAX_INDEX_PAGES

# whether a long function without a context must end; ``private_`` is its argument
ctypedef bint (*stop_t)(void *private_) noexcept nogil

# ---- memory policies -----------------------------------------------------------------------------------


cdef enum:
    MPOL_DEFAULT = 0            # as a stored mode: no policy here, look one level up
    MPOL_PREFERRED = 1
    MPOL_BIND = 2
    MPOL_INTERLEAVE = 3
    MPOL_LOCAL = 4
    MPOL_PREFERRED_MANY = 5
    MPOL_WEIGHTED_INTERLEAVE = 6
    MPOL_F_STATIC_NODES = 0x8000
    MPOL_F_RELATIVE_NODES = 0x4000
    MPOL_F_NUMA_BALANCING = 0x2000
    MPOL_F_NODE = 1
    MPOL_F_ADDR = 2
    MPOL_F_MEMS_ALLOWED = 4
    MPOL_MF_STRICT = 1
    MPOL_MF_MOVE = 2
    MPOL_MF_MOVE_ALL = 4


ctypedef struct nodemask_t:
    uint64_t bits[16]


ctypedef struct nodemask_rec_t:     # a set with nodes above 63; each distinct set has one record, which is never freed
    nodemask_t mask
    uint32_t next               # in its bucket of machine.nodemask_hash
    uint32_t pad


ctypedef struct mpol_t:
    uint16_t mode               # MPOL_*; MPOL_DEFAULT means absent
    uint16_t flags              # MPOL_F_*
    int32_t home_node           # -1 none
    uint64_t nodes              # what allocation uses
    uint64_t user               # the caller's nodes below 64 (kept for STATIC and RELATIVE, else equal to nodes)
    uint32_t user_mask          # record of all the caller's nodes if some are above 63, else 0: mpol_equal compares it
    uint32_t pad

# ---- records -------------------------------------------------------------------------------------------


ctypedef struct frame_t:
    uint64_t state              # every access is a 64-bit atomic; see frame.pxd
    uint32_t mapping            # anon_vma if PG_anon, else file; 0 none
    uint32_t index              # page offset modulo 2^32


ctypedef struct ptdesc_t:       # one per page table, 64 bytes so that two locks never share a line
    uint32_t lock               # guards the entries of the table
    uint32_t level              # 1 leaf .. 4 top
    uint32_t used               # entries that are not zero; written under lock, read without it as a hint
    uint32_t mm
    uint64_t vpn                # first page the table covers
    uint32_t next               # free list
    uint32_t pad[9]


ctypedef struct vec_t:          # growable array of uint32_t in the heap
    uint64_t off                # offset in the heap, 0 none
    uint32_t n
    uint32_t cap


ctypedef struct vma_t:          # one mapping; guarded by mm.lock
    uint64_t start, end         # pages, end exclusive
    uint64_t pgoff              # pages
    uint32_t flags              # VM_*; atomic, since reverse-map walks read them without mm.lock
    uint32_t mm
    uint32_t file               # 0: anonymous private
    uint32_t anon_vma           # 0 until the first anonymous page
    uint32_t i_mmap             # rmap node in file's tree
    uint32_t chain              # first rmap node of the anon_vma chain (rnode.next links them)
    mpol_t pol
    uint32_t next               # free list
    uint32_t ops                # vm_ops with a migrate operation: number in the machine's table, 0 none


ctypedef struct rnode_t:        # a VMA's entry in an anon_vma or a file: node of an interval tree
    uint64_t start, last, max   # page indices modulo 2^32, last = start + n - 1 may reach beyond 2^32
    uint32_t vma
    uint32_t owner              # anon_vma or file
    uint32_t left, right
    uint32_t next               # chain of the vma; free list
    uint32_t prio
    uint64_t seq                # creation order: among equal ranges, walks visit the parent before the child


ctypedef struct anon_vma_t:
    uint32_t lock               # of the root: guards the trees of the whole family
    uint32_t root, parent
    uint32_t refcount           # 1 for its VMAs, in a root 1 for each living member; plus references of migrations
    uint32_t num_children       # anon_vmas whose parent this is (a root counts itself)
    uint32_t num_active_vmas    # VMAs whose anon_vma this is
    uint32_t tree               # root rnode
    uint32_t next               # free list


ctypedef struct sp_node_t:      # a range of a shared object's policy; list by rising start
    uint64_t start, end
    mpol_t pol
    uint32_t next
    uint32_t pad


ctypedef struct file_t:         # an inode: file or shared anonymous object
    uint32_t kind               # FILE_*
    uint32_t i_rwsem            # writers: write, truncate, punch
    uint32_t i_mmap_lock        # guards tree
    uint32_t lock               # guards cache, nrpages, disk, sp and name
    uint32_t tree               # root rnode of i_mmap
    uint32_t refs               # mappings + open handles; 0 frees the object
    uint32_t sp                 # first sp_node (shmem only)
    uint32_t uid
    uint64_t ino
    uint64_t size               # pages
    uint64_t nrpages            # cached pages; atomic, read without the lock
    vec_t cache                 # frame of each page, 0 absent (frame 0 is the zero page)
    # EXT4: what the disk holds, one uint64 token per page as two words; or bytes, see filemap
    vec_t disk
    uint32_t mode               # permission bits
    uint32_t next               # free list
    uint64_t ra[4]              # read-ahead state
    uint32_t busy               # its buffers are in use and cannot be released; atomic
    uint32_t name_bytes
    vec_t name                  # what user space calls it, UTF-8; guarded by lock
    uint32_t ra_pages           # longest read-ahead; 0: none
    uint32_t handles            # the part of refs that a host got from the function table and may close; atomic


cdef enum:
    FILE_SHMEM = 1              # tmpfs, and shared anonymous memory
    FILE_RAMFS = 2
    FILE_EXT4 = 3
    FILE_MINIX = 4              # has a disk, as EXT4, but no migratepage, like most file systems of 2006


ctypedef struct mm_t:           # an address space; type-stable: a freed record is only reused as an mm, see mmget_not_zero
    uint32_t lock               # mmap_lock
    uint32_t pgd                # top table, 0 once torn down
    uint32_t users              # its process and calls under way; atomic; 0: the record is free or about to be
    uint32_t def_flags          # VM_LOCKED, VM_LOCKONFAULT after mlockall(MCL_FUTURE)
    uint32_t has_pinned         # MMF_HAS_PINNED
    uint32_t dumpable           # atomic
    uint32_t next               # free list
    uint32_t page_table_lock    # guards vma.anon_vma against concurrent faults; taken inside anon_vma.lock
    vec_t vmas                  # indices of vma_t by rising address
    uint64_t total_vm, locked_vm    # pages; these and the next three are read without the lock, atomically
    int64_t rss_anon, rss_file, rss_shmem
    uint64_t locked_lost        # part of locked_vm: pages whose VMA lost VM_LOCKED to MREMAP_DONTUNMAP; guarded by lock
    int64_t rss_lost            # under rss_uncounted: pages mapped less pages counted in the three


ctypedef struct task_t:         # a process, or a thread of one; several threads of the host may make calls of it
    # Type-stable: a lookup that has only an index and a pid may read a freed record (get_task).  The first five fields,
    # state through cpu, are atomic.
    uint32_t state              # TASK_*
    uint32_t users              # one until it is reaped, and one a call under way; 0: the record is free
    uint32_t mm                 # 0 once exited
    uint32_t pid                # set before users; no other process of the machine ever has it
    uint32_t cpu
    uint32_t parent             # set before users
    uint32_t pid_next           # the next task of its bucket of machine.pid_hash; guarded by pid_lock
    uint32_t alloc_lock         # guards the fields below; caps, the fault counts and memlock are atomic too
    uint32_t uid, euid, suid, gid
    uint32_t caps               # CAP_*
    mpol_t pol                  # a change also holds mmap_lock for writing: faults read it under mmap_lock for reading
    uint32_t il_prev
    uint32_t il_weight
    uint64_t min_flt, maj_flt
    uint64_t memlock            # RLIMIT_MEMLOCK, bytes
    vec_t pins                  # pin_t held through open files; the leader's serves all its threads
    uint32_t next
    uint32_t leader             # the task whose pid is the process's; a leader names itself
    # of the leader; guarded by pid_lock, as thread_next is
    uint32_t threads            # first of its threads that have not exited, leader excluded
    uint32_t thread_next
    uint32_t live               # threads that have not exited, leader included
    uint32_t autoreap           # no process waits for it: it is reaped when the last thread exits
    uint32_t group_exit         # the whole process is exiting: no thread may start
    uint32_t pad


cdef enum:
    TASK_FREE = 0
    TASK_RUNNING = 1
    TASK_ZOMBIE = 2
    TASK_EXITING = 3
    CAP_SYS_NICE = 1
    CAP_SYS_PTRACE = 2
    CAP_IPC_LOCK = 4
    CAP_SYS_ADMIN = 8
    CAP_ALL = 15


ctypedef struct pin_t:          # a pipe or a set of registered buffers that holds pages
    uint32_t refs               # processes that hold the file
    uint32_t longterm           # 1: GUP_PIN_COUNTING_BIAS references a page, 0: one
    vec_t pages                 # frames
    uint32_t next
    uint32_t pad


ctypedef struct node_t:
    uint32_t lock               # the zone lock: guards fresh, nr_free, nr_stack, uncounted and the stack itself
    uint32_t nr_cpus
    uint64_t first, end         # frames of the node
    uint64_t fresh              # the first frame that was never allocated
    uint64_t nr_free            # fresh and returned frames, per-CPU lists excluded
    uint64_t nr_stack           # returned frames, newest on top
    uint64_t reserved
    uint64_t low                # the low watermark: below it only allocations with no fallback node are served
    uint64_t uncounted          # with a watermark: frames returned one by one, added to nr_free a batch at a time
    uint32_t fallback[64]       # zonelist: nodes by distance, ties by number, itself first
    uint8_t weight
    uint8_t pad[15]


ctypedef struct swap_info_t:    # a swap device; guarded by machine.swap_lock; its per-slot arrays are the machine's
    uint32_t first              # position of its slot 0, the header, in the machine's per-slot arrays
    uint32_t max                # slots, header included
    uint32_t inuse
    uint32_t next               # where the next search for a free slot starts
    uint32_t high               # the highest slot ever allocated
    uint32_t off                # SWAP_*


cdef enum:                      # swap_info_t.off: if not 0, no slot is allocated
    SWAP_ON = 0
    SWAP_OFF = 1
    SWAP_LEAVING = 2            # swapoff is in progress


ctypedef struct slab_t:         # allocator of fixed-size records by index; index 0 is never allocated
    char *base
    uint32_t size, next_off     # bytes of a record; where its free-list link is
    uint32_t max, fresh, free, used
    uint32_t lock
    uint32_t keep               # type-stable (SLAB_TYPESAFE_BY_RCU): records are not cleared when reused

# ---- counters ------------------------------------------------------------------------------------------
# Two families.  The modelled kernel's depend neither on ``machine.width`` nor on the host: a lock counts per page where
# that kernel takes it per page.  The host's (C_HOST_*) count the locks that pagemig itself takes and contends for.


cdef enum counter_t:
    C_PGFAULT, C_PGMAJFAULT, C_PGALLOC, C_PGFREE
    C_NUMA_HIT, C_NUMA_MISS, C_NUMA_FOREIGN, C_NUMA_INTERLEAVE, C_NUMA_LOCAL, C_NUMA_OTHER
    C_PGMIGRATE_SUCCESS, C_PGMIGRATE_FAIL
    C_UNEVICTABLE_MLOCKED, C_UNEVICTABLE_MUNLOCKED
    C_COW, C_COW_REUSE, C_ZERO_PAGE_FAULT, C_FAULT_AROUND, C_MIGRATION_WAIT, C_OOM_KILL
    C_TLB_FLUSH, C_PTES_DROPPED, C_PTES_RESTORED
    C_PSWPIN, C_PSWPOUT, C_SWAP_SLOTS, C_REQUESTS_SCANNED
    C_LOCK_PAGE, C_LOCK_ZONE, C_LOCK_LRU, C_LOCK_PTL, C_LOCK_ANON_VMA, C_LOCK_I_MMAP, C_LOCK_TREE, C_LOCK_SWAP
    C_HOST_PTL, C_HOST_RMAP
    C_HOST_PAGE_CONTENDED, C_HOST_ZONE_CONTENDED, C_HOST_PTL_CONTENDED, C_HOST_RMAP_CONTENDED
    C_HOST_MM_CONTENDED, C_HOST_SWAP_CONTENDED, C_HOST_WAITS
    NR_COUNTERS

# ---- kernel profile: the switches that the core reads; kernels.py explains each and is compared with this at import ----


ctypedef struct profile_t:
    uint32_t engine
    uint32_t passes
    uint32_t force_pass
    uint32_t writeback_pass
    uint32_t batch
    uint32_t async_first
    uint32_t async_passes
    uint32_t copy_first
    uint32_t untouched_enoent
    uint32_t mbind_ilx
    uint32_t isolate_counts
    uint32_t migrate_unlocked
    uint32_t weighted
    uint32_t balancing_many
    uint32_t fault_around
    uint32_t pagevec
    uint32_t pcp_bulk
    uint32_t ahead_is_minor
    uint32_t gup_checks_files
    uint32_t populate_whole
    uint32_t mprotect_unaccounts
    uint32_t pin_fast
    uint32_t mmap_joins_left
    uint32_t merge_faulted
    uint32_t mremap_many
    uint32_t zap_drains
    uint32_t ra_uncut
    uint32_t swap
    uint32_t four_lists
    uint32_t plain_entries
    uint32_t counts_drop
    uint32_t locked_fails
    uint32_t locked_skipped
    uint32_t waiter_refs
    uint32_t family_anon_vma
    uint32_t rss_uncounted
    uint32_t check_range
    uint32_t strict_collects
    uint32_t busy_ignored
    uint32_t shared_nodes_move
    uint32_t page_results
    uint32_t whole_request
    uint32_t first_vma
    uint32_t arrays
    uint32_t this_node
    uint32_t nothing_enoent
    uint32_t zero_enoent
    uint32_t vma_hooks
    uint32_t last_unhooked
    uint32_t truncated_crashes
    uint32_t mbind_all_misplaced
    uint32_t range_leaks
    uint32_t mbind_splits
    uint32_t dirty_tracking
    uint32_t anon_exclusive
    uint32_t mprotect_keeps
    uint32_t ino_shifts
    uint32_t object_default
    uint32_t bind_ascending
    uint32_t il_next
    uint32_t mlock_marks
    uint32_t mlock_populates
    uint32_t populate_shared
    uint32_t advice_most
    uint32_t remove_loops
    uint32_t mremap_adjusts
    uint32_t swap_cluster
    uint32_t node_map_overrun
    uint32_t memlock
    uint32_t max_nodes
    uint32_t subset_nodes
    uint32_t absent_targets
    uint32_t uid_access
    uint32_t get_flags
    uint32_t mode_flags
    uint32_t call_mask
    uint32_t mode_mask

# ---- contexts and the machine --------------------------------------------------------------------------


cdef enum call_t:               # bits of profile.call_mask
    CALL_MBIND = 1
    CALL_SET_MEMPOLICY = 2
    CALL_GET_MEMPOLICY = 4
    CALL_MIGRATE_PAGES = 8
    CALL_MOVE_PAGES = 16
    CALL_SET_HOME_NODE = 32
    CALL_MLOCK2 = 64
    CALL_FALLOCATE = 128
    CALL_IO_URING = 256


cdef enum bug_t:                # where the real kernel would have crashed; errors.py has the messages
    BUG_VMA_ADDRESS = 1
    BUG_OFFLINE_NODE = 3
    BUG_TRUNCATED_RMAP = 4
    BUG_NODE_MAP = 5
    BUG_REMOVE_LOOPS = 6


cdef enum:
    WAIT_PAGE = 1               # what a context waits for: a page lock (or a migration entry, which is the same)
    WAIT_MM = 2
    WAIT_WRITEBACK = 3
    WAIT_I_RWSEM = 4
    WAIT_PASS = 5               # the next pass over a node that offlining has not emptied yet
    MODE_THREADS = 0            # spin, then yield
    MODE_ACTORS = 1             # call wait_fn: hand the baton to another actor
    MODE_HOST = 2               # return -PMG_WAIT: the embedding host owns time


cdef enum:
    ABORT = 1
    ABORT_HEEDED = 2


cdef enum keep_t:               # what keeps an anon_vma alive while migration entries stand for all mappings of its page
    KEEP_REFCOUNT = 0           # a reference on it
    KEEP_RCU = 1                # nothing: its record may be reused, though only as another anon_vma
    KEEP_MMAP_LOCK = 2          # the caller holds mmap_lock of kept_by_t.mm, and moves only pages mapped there
    KEEP_TRYLOCK = 3            # mmap_lock of an address space found through the reverse map, by trylock


ctypedef struct kept_by_t:
    uint32_t how                # keep_t
    uint32_t mm


cdef enum:
    PVEC_MAX = 31               # capacity of a per-CPU list in pages; profile.pagevec says when it is drained


ctypedef struct mlock_pvec_t:   # pages whose mlock count a CPU has yet to update; each entry owns a reference
    uint32_t lock               # several threads may run on one modelled CPU
    uint32_t n
    uint32_t munlock            # bit i: entry i is an munlock
    uint32_t pfn[31]

ctypedef struct machine_t
ctypedef struct ctx_t


ctypedef struct pcp_t:          # per-CPU list: frames that a modelled processor caches for one node
    uint32_t lock               # several threads may run on one processor; others drain the list when the node is empty
    uint32_t n
    uint32_t pfn[256]


ctypedef struct vm_event_state_t:   # events counted on a modelled processor, without those of calls under way
    uint64_t count[64]          # counter_t
    uint32_t lock               # guards count; a sum over all processors holds all their locks
    uint32_t pad[15]


ctypedef struct ctx_t:          # the context of one call; an argument of every core function
    # Host memory, pointers and scratch only: no part of the machine's state.
    machine_t *m
    ctx_t *next                 # free contexts; guarded by machine.ctx_lock
    ctx_t *older                # made before this one; set once
    uint32_t id                 # number of contexts made before it
    uint32_t task               # calling process, referenced during the call; 0 none
    uint32_t mm                 # its address space, alive during the call; 0 none
    uint32_t held               # a host keeps the context between its calls: check counts it as a user of both
    uint32_t inside             # such a context makes a call right now, on the thread's own stack
    uint32_t cpu
    int32_t nid                 # node of cpu
    uint32_t wait_mode          # MODE_*
    uint32_t wait_what          # WAIT_*: what the context waited for last and has not got yet; 0 nothing
    uint32_t wait_which         # the page, address space, file
    uint32_t dispensable        # the call can go on without what it waits for: see lock_page_or_not()
    uint32_t lru_disabled       # the call holds one count of machine.lru_disable_count
    uint32_t stats_slot         # the call's own array of access counts, plus one; 0 none yet
    int (*wait_fn)(ctx_t *c, int what, uint32_t which) noexcept nogil
    void *data                  # of wait_fn
    void *watch                 # the callbacks and counters that follow events (notify); NULL: none
    void *gather                # mmu_gather of a zap: entries cleared and not flushed yet (memory)
    uint64_t unflushed[64]      # processors that a batch of unmapped pages has yet to flush; kept only with a watch
    uint32_t flush_pending      # whether unflushed has any
    uint32_t hook_error         # a callback returned an error
    # runs fn where a call may enter the host: a fiber's own stack is not such a place; NULL: right here
    void (*outside_fn)(ctx_t *c, void (*fn)(void *arg) noexcept nogil, void *arg) noexcept nogil
    # a resumable call (mig) stops here and lets the caller's time pass; PAUSE_*, and the pages concerned
    void (*pause_fn)(ctx_t *c, int at, const uint32_t *src, const uint32_t *dst, uint32_t n) noexcept nogil
    void *mig                   # the record of that call
    void *places                # its call stack (place); NULL: the call is not resumable
    uint32_t abort              # ABORT: end the call without waiting or beginning anything new; ABORT_HEEDED: it did
    uint32_t signalled          # the caller wants the call to end
    uint32_t work               # pages handled since the last look at the clock
    uint32_t stride             # pages between two looks at the clock
    uint64_t clock_ns           # time of the last look at the clock; 0: none yet
    uint64_t looked_ns          # time of the last look for signals, or of the first at the clock
    bint (*signal_fn)(ctx_t *c) noexcept nogil  # whether the caller wants the call to end; NULL: it cannot
    uint32_t target_mm          # address space that the call holds beside its own; 0 none
    double nested_deadline      # when a call made from a hook gives up waiting, in seconds; 0: it has not waited yet
    uint64_t count[64]          # counter_t: events not yet folded into the processor's
    uint64_t traced[8]          # C_LOCK_* as of the last event, in a trace that holds locks
    pcp_t *pcp                  # the processor's, by node


ctypedef struct machine_t:
    uint64_t nr_frames
    uint32_t nr_nodes, nr_cpus
    uint64_t has_memory         # mask of online nodes with memory: what every cpuset here allows
    uint64_t online             # mask of nodes that allocate
    uint32_t page_bytes         # content per frame: 0, 8 or 4096
    uint32_t width              # pages a stage handles: 1..STAGE
    uint32_t access_stats
    uint32_t tracing            # 1: steps of migrations, 2: locks too
    uint32_t trace_locks        # whether records started from now on hold the locks
    uint32_t next_pid
    uint32_t pid_lock           # guards pid_hash
    uint32_t pid_hash[1024]     # first task of each bucket; reaped tasks are not in it
    uint32_t next_ops           # number of the next vm_ops; atomic
    uint64_t next_ino
    uint64_t table_pfn          # physical number of page table 0: above every frame
    profile_t profile
    node_t node[64]
    uint8_t distance[64][64]
    uint32_t cpu_node[4096]
    uint32_t *free_stack        # of all nodes: node.nr_stack from node.first on
    frame_t *frames
    uint8_t *content            # page_bytes per frame
    mlock_pvec_t *mlock_pvec    # one per CPU
    uint32_t *mlock_count       # mappings of a frame in locked VMAs
    pte_t *pt                   # page tables, PTRS_PER_PTE entries each; table 0 is unused
    ptdesc_t *ptdesc
    uint32_t *stats             # access counts: [slot][node][stats_index], NULL when off
    uint32_t stats_slots        # slots in use: the most calls that ever counted at once
    uint32_t stats_busy[8]      # a call counts in the slot, as its only writer; the last slot is shared
    uint32_t lru_disable_count  # calls under way that bypass the per-CPU lists; atomic
    char *heap                  # arrays of vec_t; size classes in heap_free
    uint64_t heap_fresh, heap_max
    uint64_t heap_free[48]
    uint32_t heap_lock
    uint32_t nr_swapfiles
    swap_info_t swap_info[MAX_SWAPFILES]
    uint32_t swap_lock          # guards swap_info and swap_map
    uint32_t tree_lock          # of the swap cache, one for all devices: guards swap_cache
    uint32_t nr_swap_slots      # in the arrays below
    uint32_t *swap_map          # references to a slot: swap entries and the swap cache
    uint32_t *swap_cache        # frame with the content of a slot, 0 none
    uint8_t *swap_content       # page_bytes per slot
    uint32_t *swap_entry        # slot of a frame in the swap cache (page->private)
    slab_t tables, vmas, rnodes, anon_vmas, sp_nodes, files, mms, tasks, pins, nodemasks
    uint32_t nodemask_lock      # guards nodemask_hash
    uint32_t nodemask_hash[256]
    pcp_t *pcp                  # [cpu][node]
    vm_event_state_t *vm_events     # [cpu]
    uint64_t *mm_cpus           # mm_cpumask, processors each address space has run on: cpu_words words each
    uint32_t cpu_words
    # contexts: the host's, not the machine's
    ctx_t *ctx_free
    ctx_t *ctx_newest
    uint32_t ctx_lock           # guards ctx_free and ctx_newest; innermost
    uint32_t nr_ctx, ctx_busy
    void *mig_free              # fibers of resumable calls (mig), the host's as contexts are; guarded by ctx_lock
    void **mig_table            # by index
    uint32_t mig_room           # places in the table
    uint32_t nr_migs, migs_busy     # made; under way
    uint32_t migs_running       # the latter that a thread steps at the moment; the others stand
    uint32_t evicting           # running calls that are in lock_page_or_not()
    # hooks: the host's too
    int (*step_fn)(ctx_t *c, int step, const uint32_t *pfns, uint32_t n) noexcept nogil   # NULL: none
    # vm_ops->migrate of one VMA: 0, an error, or a positive number; mmap_lock is held for reading
    int (*migrate_fn)(ctx_t *c, vma_t *vma, uint64_t from_nodes, uint64_t to_nodes, uint32_t flags) noexcept nogil
    void *hook_data             # the object that owns these two
    void *watch                 # for calls whose context has none of its own
    void *notifiers             # callbacks that were ever set (notify); the newest is heard if watch is set
    void *running               # callbacks that run, one of a thread inside another; guarded by ctx_lock
    uint32_t in_hooks           # how many; atomic
    uint64_t *trace             # migration steps, see trace.pyx
    uint64_t trace_n, trace_max
    uint64_t rnode_seq
    void *arenas[32]            # every reserved mapping, for release and copy
    uint64_t arena_bytes[32]
    uint32_t nr_arenas
    char *arena_at              # first unused byte of the mapping that holds them
    uint64_t arena_left         # bytes left there
    bint arena_measured         # dry run: sizes are only added up, in arena_left
