"""The table of functions for other simulators: the declarations of pagemig/api.h, and the table itself."""
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from pagemig.mm.notify cimport pmg_callbacks, pmg_ctx
from pagemig.mm.types cimport ctx_t, machine_t, profile_t, stop_t

cdef extern from "pagemig/api.h" nogil:
    enum:
        PMG_ABI, PMG_EABI, PMG_EBUSYCTX, PMG_STATUS_UNSET
        PMG_READ, PMG_WRITE, PMG_NOFAULT, PMG_NOSET
        PMG_K_HIT, PMG_K_MINOR, PMG_K_MAJOR, PMG_K_WAIT, PMG_K_SIGNAL, PMG_K_FAULT
        PMG_W_NONE, PMG_W_PAGE, PMG_W_MM
        PMG_M_UNMAPPED, PMG_M_COPIED, PMG_M_STAGE, PMG_M_PASS, PMG_M_WAITS, PMG_M_DONE

    ctypedef struct pmg_machine:
        pass
    ctypedef uint64_t pmg_task

    ctypedef struct pmg_node_spec:
        uint64_t pages, reserved
        uint32_t cpus, weight

    ctypedef struct pmg_spec:
        uint32_t size, nr_nodes, page_bytes, access_stats
        const pmg_node_spec *nodes
        const uint8_t *distances
        const char *kernel
        uint64_t scatter

    ctypedef struct pmg_info:
        uint32_t size, nr_nodes, nr_cpus, page_bytes
        uint64_t nr_frames, table_pfn
        const void *frames
        const uint64_t *tables
        uint64_t max_tables

    ctypedef struct pmg_outcome:
        uint8_t kind, levels, signal, faults
        int32_t node
        uint64_t pa
        uint32_t wait_what, wait_which
        uint64_t pte

    ctypedef struct pmg_walk:
        uint64_t entry_pa[4]
        uint64_t entry[4]
        uint32_t levels

    ctypedef struct pmg_cost:
        uint32_t size
        uint64_t faults_minor, faults_major, pages_allocated, pages_copied, copy_bytes
        uint64_t entries_removed, entries_restored, flushes
        uint64_t page_locks, ptl_locks, anon_vma_locks, i_mmap_locks
        uint64_t pages_migrated, pages_failed, migration_waits, flushed_pages, ipis
        uint64_t bytes_from[64]
        uint64_t bytes_to[64]

    ctypedef struct pmg_user:
        void *p
        uint64_t bytes

    ctypedef uint64_t pmg_mig

    ctypedef struct pmg_mig_event:
        uint32_t size, at, n
        uint32_t passes
        int32_t node
        uint32_t flushes
        uint64_t copy_bytes
        uint32_t wait_what, wait_which
        const uint32_t *src
        const uint32_t *dst
        uint64_t ipis

    ctypedef struct pmg_mig_info:
        uint32_t size, call, cpu, at
        pmg_task task
        uint64_t statuses
        uint64_t arguments[6]

    ctypedef int64_t (*pmg_write)(void *priv, const void *p, uint64_t n) noexcept nogil
    ctypedef int64_t (*pmg_read)(void *priv, void *p, uint64_t n) noexcept nogil

    ctypedef struct pmg_api:
        uint32_t abi, size
        int (*machine_new)(const pmg_spec *spec, pmg_machine **out) noexcept nogil
        int (*machine_free)(pmg_machine *m) noexcept nogil
        int (*machine_info)(const pmg_machine *m, pmg_info *out) noexcept nogil
        int (*check)(pmg_machine *m, uint32_t full, char *text, size_t n) noexcept nogil
        int (*counters)(const pmg_machine *m, uint64_t *out, uint32_t n) noexcept nogil
        const char *(*counter_name)(uint32_t i) noexcept nogil
        int (*ctx_open)(pmg_machine *m, pmg_task task, uint32_t cpu, uint32_t owns_time, pmg_ctx **out) noexcept nogil
        int (*ctx_bind)(pmg_ctx *c, pmg_task task, uint32_t cpu) noexcept nogil
        void (*ctx_close)(pmg_ctx *c) noexcept nogil
        int (*ctx_wait)(const pmg_ctx *c, uint32_t *what, uint32_t *which) noexcept nogil
        int (*cost_take)(pmg_ctx *c, pmg_cost *out) noexcept nogil
        int64_t (*spawn)(pmg_ctx *c, uint32_t cpu, uint32_t uid) noexcept nogil
        int64_t (*fork)(pmg_ctx *c) noexcept nogil
        int (*exit)(pmg_ctx *c) noexcept nogil
        int64_t (*mmap)(
            pmg_ctx *c, uint64_t va, uint64_t len, uint32_t prot, uint32_t flags, uint32_t file, uint64_t off) noexcept nogil
        int (*munmap)(pmg_ctx *c, uint64_t va, uint64_t len) noexcept nogil
        int (*mprotect)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t prot) noexcept nogil
        int64_t (*mremap)(
            pmg_ctx *c, uint64_t va, uint64_t len, uint64_t new_len, uint32_t flags, uint64_t new_va) noexcept nogil
        int (*madvise)(pmg_ctx *c, uint64_t va, uint64_t len, int advice) noexcept nogil
        int (*mlock)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t flags) noexcept nogil
        int (*munlock)(pmg_ctx *c, uint64_t va, uint64_t len) noexcept nogil
        int (*translate)(pmg_ctx *c, uint64_t va, pmg_outcome *out) noexcept nogil
        int (*access)(pmg_ctx *c, uint64_t va, uint32_t how, pmg_outcome *out) noexcept nogil
        uint64_t (*access_packed)(pmg_ctx *c, uint64_t va, uint32_t how) noexcept nogil
        int64_t (*access_many)(
            pmg_ctx *c, const uint64_t *va, const uint8_t *write, uint64_t n, int8_t *node, uint8_t *kind,
            pmg_outcome *stopped) noexcept nogil
        int (*walk)(pmg_ctx *c, uint64_t va, pmg_walk *out) noexcept nogil
        int (*pte_set)(pmg_ctx *c, uint64_t entry_pa, uint64_t expect, uint64_t bits) noexcept nogil
        uint64_t (*cr3)(pmg_ctx *c) noexcept nogil
        int64_t (*move_pages)(
            pmg_ctx *c, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes,
            const pmg_user *status, uint32_t flags, uint32_t *rule) noexcept nogil
        int64_t (*migrate_pages)(
            pmg_ctx *c, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes, const pmg_user *new_nodes,
            uint32_t *rule) noexcept nogil
        int64_t (*mbind)(
            pmg_ctx *c, uint64_t va, uint64_t len, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
            uint64_t flags, uint32_t *rule) noexcept nogil
        int64_t (*set_mempolicy)(
            pmg_ctx *c, uint32_t mode, const pmg_user *nodes, uint64_t maxnode, uint32_t *rule) noexcept nogil
        int64_t (*get_mempolicy)(
            pmg_ctx *c, const pmg_user *mode, const pmg_user *nodes, uint64_t maxnode, uint64_t va, uint64_t flags,
            uint32_t *rule) noexcept nogil
        int64_t (*set_mempolicy_home_node)(
            pmg_ctx *c, uint64_t va, uint64_t len, uint64_t node, uint64_t flags, uint32_t *rule) noexcept nogil
        int64_t (*migrate_frames)(
            pmg_ctx *c, const uint32_t *pfn, const int32_t *nodes, uint64_t n, int32_t *status) noexcept nogil
        int (*mig_move_pages)(
            pmg_ctx *c, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes,
            const pmg_user *status, uint32_t flags, pmg_mig *out) noexcept nogil
        int (*mig_migrate_pages)(
            pmg_ctx *c, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes, const pmg_user *new_nodes,
            pmg_mig *out) noexcept nogil
        int (*mig_mbind)(
            pmg_ctx *c, uint64_t va, uint64_t len, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
            uint64_t flags, pmg_mig *out) noexcept nogil
        int (*mig_frames)(
            pmg_ctx *c, const uint32_t *pfn, const int32_t *nodes, uint64_t n, pmg_mig *out) noexcept nogil
        int (*mig_step)(pmg_ctx *c, pmg_mig h, pmg_mig_event *event) noexcept nogil
        int64_t (*mig_end)(
            pmg_ctx *c, pmg_mig h, uint32_t abort, int32_t *status, uint64_t n, uint32_t *rule) noexcept nogil
        int (*set_callbacks)(pmg_machine *m, const pmg_callbacks *callbacks) noexcept nogil
        int64_t (*clone_thread)(pmg_ctx *c, uint32_t cpu) noexcept nogil
        int (*exit_thread)(pmg_ctx *c) noexcept nogil
        int64_t (*file_new)(pmg_ctx *c, uint32_t kind, uint64_t pages) noexcept nogil
        int (*file_close)(pmg_ctx *c, uint32_t file) noexcept nogil
        int (*ftruncate)(pmg_ctx *c, uint32_t file, uint64_t pages) noexcept nogil
        int (*punch_hole)(pmg_ctx *c, uint32_t file, uint64_t index, uint64_t n) noexcept nogil
        int (*mlockall)(pmg_ctx *c, uint32_t flags) noexcept nogil
        int (*munlockall)(pmg_ctx *c) noexcept nogil
        int64_t (*pin)(pmg_ctx *c, uint64_t va, uint64_t n, uint32_t longterm, uint32_t *handle) noexcept nogil
        int (*unpin)(pmg_ctx *c, uint32_t handle) noexcept nogil
        int (*setuid)(pmg_ctx *c, uint32_t uid, uint32_t gid, uint32_t dumpable) noexcept nogil
        int (*swapoff)(pmg_ctx *c, uint32_t device) noexcept nogil
        int (*swapon)(pmg_ctx *c, uint32_t device) noexcept nogil
        int (*offline)(pmg_ctx *c, uint32_t node) noexcept nogil
        int (*online)(pmg_ctx *c, uint32_t node) noexcept nogil
        int64_t (*migrations)(pmg_machine *m, pmg_mig *out, uint64_t n) noexcept nogil
        int (*mig_info)(pmg_machine *m, pmg_mig h, pmg_mig_info *out) noexcept nogil
        int64_t (*save)(pmg_machine *m, pmg_write write, void *priv, char *text, size_t n) noexcept nogil
        int (*load)(pmg_read read, void *priv, pmg_machine **out, char *text, size_t n) noexcept nogil
        int (*copy)(pmg_machine *m, pmg_machine **out, char *text, size_t n) noexcept nogil

# mig_move_pages and mig_frames, which ask `stop` (may be NULL) while they copy the arguments: -EINTR if it is True
cdef int start_move_pages(
    pmg_ctx *c, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes, const pmg_user *status,
    uint32_t flags, pmg_mig *out, stop_t stop, void *private_) noexcept nogil
cdef int start_frames(
    pmg_ctx *c, const uint32_t *pfn, const int32_t *nodes, uint64_t n, pmg_mig *out, stop_t stop,
    void *private_) noexcept nogil
# let the waits of a context that does not own time go through a function from now on
cdef void ctx_waits_by(
    pmg_ctx *ctx, int (*wait_fn)(ctx_t *c, int what, uint32_t which) noexcept nogil, void *data) noexcept nogil
# mig_step; with `looks` it may also return MIG_LOOKS: the caller checks for signals and calls again
cdef int mig_next_stop(pmg_ctx *c, pmg_mig h, pmg_mig_event *event, bint looks) noexcept nogil
# run a step that was interrupted to its stop, which the next step tells; True: the caller checks for signals and calls again
cdef bint mig_settle(pmg_ctx *c, pmg_mig h) noexcept nogil
# run on without stops; True: the caller checks for signals and calls again
cdef bint mig_goes_on(pmg_ctx *c, pmg_mig h) noexcept nogil
# the table, filled at import
cdef const pmg_api *api_table() noexcept nogil
# a kernel's name and switches, for machine_new; False: the list is full
cdef bint register_kernel(const char *name, const profile_t *profile) noexcept nogil
# a modelled counter's name, in the order of counter_t
cdef void register_counter(uint32_t i, const char *name) noexcept nogil
