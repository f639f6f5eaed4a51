/* pagemig for other simulators: a table of functions.  C99 and C++11; needs no Python and no other header of pagemig.
 *
 * Get the table from pagemig/boot.h (a host that embeds or extends Python), from `from pagemig cimport pmg_import` (Cython),
 * or from pagemig.api.address (ctypes, cffi, numba).
 *
 * Units: va, pa and len are bytes; pfn and n are frames and pages; node -1 is no node.
 * A function that returns int or int64_t returns a value >= 0, -errno with the kernel's meaning, one of PMG_WAIT, PMG_EABI,
 * PMG_EBUSYCTX and PMG_EHOOK, or -(1024 + bug) where the real kernel would have crashed.
 * A structure that crosses the border begins with `size`: the caller stores the sizeof it was compiled with, and pagemig
 * reads and writes no more than that.
 * No function takes the interpreter lock, and pagemig keeps no pointer of the caller beyond a call.
 * A context is used by one thread at a time.  Contexts of one machine may run concurrently, unless one of them owns time.
 */
#ifndef PAGEMIG_API_H
#define PAGEMIG_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PMG_ABI 1                          /* changes only when something is removed or changes its meaning */
#define PMG_CAPSULE "pagemig._api.table"   /* name of the capsule that holds the table */

enum {
    PMG_WAIT = -512,      /* the call would wait and nothing is lost: see ctx_wait, then repeat the call as it was */
    PMG_EABI = -600,      /* a structure of a size that this build does not know */
    PMG_EBUSYCTX = -601,  /* the context is in a call, or a machine still has contexts */
    PMG_EHOOK = -602      /* a callback returned an error */
};
#define PMG_STATUS_UNSET (-2147483647 - 1) /* a status that the kernel never stored */

typedef struct pmg_machine pmg_machine;    /* its address never changes */
typedef struct pmg_ctx pmg_ctx;
typedef uint64_t pmg_task;                 /* a pid, never reused on a machine; ESRCH once it has been reaped */

/* ---- machines ---- */
typedef struct pmg_node_spec {
    uint64_t pages;
    uint64_t reserved;    /* how many of those the kernel keeps */
    uint32_t cpus;
    uint32_t weight;      /* of weighted interleaving, 1 to 255; 0 counts as 1 */
} pmg_node_spec;

typedef struct pmg_spec {
    uint32_t size;
    uint32_t nr_nodes;            /* 1 to 64 */
    uint32_t page_bytes;          /* content kept per page: 0, 8 or 4096 */
    uint32_t access_stats;        /* 1: count accesses per page and node */
    const pmg_node_spec *nodes;
    const uint8_t *distances;     /* nr_nodes x nr_nodes, by rows; NULL: 10 and 20 */
    const char *kernel;           /* a profile's name: "6.1", "6.12", "2.6.18", ... */
    uint64_t scatter;             /* seed of the order in which frames are allocated; 0: ascending */
} pmg_spec;

typedef struct pmg_info {
    uint32_t size;
    uint32_t nr_nodes, nr_cpus, page_bytes;
    uint64_t nr_frames;
    uint64_t table_pfn;           /* physical page of page table 0: above every frame */
    const void *frames;           /* records of 16 bytes, see docs/model.md; read only, by 64-bit atomic loads */
    const uint64_t *tables;       /* page tables of 512 entries in the x86-64 layout; table i is page table_pfn + i */
    uint64_t max_tables;          /* capacity of the arena; unused tables read 0 */
} pmg_info;

/* ---- one access ---- */
enum {
    PMG_READ = 0,
    PMG_WRITE = 1,
    PMG_NOFAULT = 16,     /* answer PMG_K_FAULT instead of faulting the page in */
    PMG_NOSET = 32        /* leave the accessed and dirty bits to the host's walker: see pte_set */
};
enum {
    PMG_K_HIT = 0,
    PMG_K_MINOR = 1,      /* after a minor fault */
    PMG_K_MAJOR = 2,      /* after a fault that read a disk */
    PMG_K_WAIT = 3,       /* nothing happened: wait for wait_what, then repeat the access */
    PMG_K_SIGNAL = 4,     /* the program gets `signal` instead */
    PMG_K_FAULT = 5       /* PMG_NOFAULT: it would fault */
};
enum { PMG_W_NONE = 0, PMG_W_PAGE = 1, PMG_W_MM = 2, PMG_W_WRITEBACK = 3, PMG_W_I_RWSEM = 4, PMG_W_PASS = 5 };

typedef struct pmg_outcome {  /* 32 bytes */
    uint8_t kind;             /* PMG_K_* */
    uint8_t levels;           /* page-table levels that a walker reads: 4 where there is a leaf table */
    uint8_t signal;           /* 7 SIGBUS, 9 SIGKILL (out of memory), 11 SIGSEGV */
    uint8_t faults;           /* faults taken */
    int32_t node;             /* of the page; -1: no page */
    uint64_t pa;              /* physical address: page and offset */
    uint32_t wait_what;       /* PMG_W_*: what is waited for */
    uint32_t wait_which;      /* PMG_W_PAGE: the frame; PMG_W_MM: the address space */
    uint64_t pte;             /* the entry as it is now; may be a migration entry */
} pmg_outcome;

typedef struct pmg_walk {     /* what a page-table walker reads, top level first */
    uint64_t entry_pa[4];
    uint64_t entry[4];
    uint32_t levels;          /* how many entries are set */
    uint32_t pad;
} pmg_walk;

/* ---- what happened, as counts, never as time ---- */
typedef struct pmg_cost {
    uint32_t size, pad;
    uint64_t faults_minor, faults_major;
    uint64_t pages_allocated, pages_copied, copy_bytes;    /* all copies: on write, at fork, by migration */
    uint64_t entries_removed, entries_restored, flushes;   /* flushes: see pmg_flush */
    uint64_t page_locks, ptl_locks, anon_vma_locks, i_mmap_locks;
    uint64_t pages_migrated, pages_failed, migration_waits;
    uint64_t flushed_pages;           /* of flushes that name their pages */
    uint64_t ipis;                    /* processors told to flush, the caller's own excluded */
    uint64_t bytes_from[64];          /* copied bytes by node: the load on a host's links */
    uint64_t bytes_to[64];
} pmg_cost;

/* ---- callbacks: run in the thread of the call that causes them, without the interpreter lock ---- */
enum {
    PMG_F_MIGRATE = 0,    /* entries of pages that are migrated or swapped out */
    PMG_F_PROTECT = 1,    /* mprotect, or writeback of a file's page */
    PMG_F_UNMAP = 2,      /* munmap, MADV_DONTNEED, truncation */
    PMG_F_COW = 3,        /* a private copy replaced a page */
    PMG_F_FORK = 4,
    PMG_F_REMAP = 5,      /* mremap */
    PMG_F_EXIT = 6,
    PMG_F_FREE = 7        /* MADV_FREE: entries became old and clean */
};

typedef struct pmg_flush {    /* a TLB flush; the entries have changed, and no frame has been freed yet */
    uint32_t size;
    uint32_t why;             /* PMG_F_* */
    uint64_t cr3;             /* of the address space; 0: of all: one flush for a batch of migrated pages */
    uint64_t va;              /* first address */
    uint64_t n;               /* pages; 0: the whole address space */
    const uint64_t *cpus;     /* processors that the address space has run on, one bit each */
    uint32_t words;           /* of cpus */
    uint32_t ipis;            /* how many of those are not the caller's own */
} pmg_flush;

/* Callbacks of a host; NULL where it wants none.  c is the context of the call, NULL for a call from Python.
 * target, flush and fault run under locks and may only call translate, walk, cr3, machine_info and ctx_wait of the table.
 * moved and step run with page locks at most and may also call with another context, if that one owns time.
 * Any other call there returns -EDEADLK.  A callback that returns anything but 0 (target: less than -1) ends the call
 * early, as an abort does, with PMG_EHOOK. */
typedef struct pmg_callbacks {
    uint32_t size, pad;
    void *priv;
    int32_t (*target)(void *priv, pmg_ctx *c, uint32_t pfn, int32_t wanted);   /* node that pfn moves to; -1: wanted */
    int32_t (*flush)(void *priv, pmg_ctx *c, const pmg_flush *f);
    int32_t (*moved)(void *priv, pmg_ctx *c, const uint32_t *from, const uint32_t *to, const int32_t *result, uint32_t n);
    int32_t (*step)(void *priv, pmg_ctx *c, uint32_t step, const uint32_t *pfns, uint32_t n);
    int32_t (*fault)(void *priv, pmg_ctx *c, uint64_t va, uint32_t kind, uint32_t pfn);    /* kind: PMG_K_* */
} pmg_callbacks;

/* ---- migrations that take the caller's time ---- */
typedef uint64_t pmg_mig;
enum {
    PMG_M_UNMAPPED = 1,   /* migration entries are installed: the flush and the copy may take time now */
    PMG_M_COPIED = 2,     /* the content is in the new frames, the migration entries are still there */
    PMG_M_STAGE = 3,      /* src has moved to dst, or with dst 0 was put back: waiters for those pages may continue */
    PMG_M_PASS = 4,       /* the next pass begins, over the pages that did not move */
    PMG_M_WAITS = 5,      /* for wait_what, wait_which: step again when that may be over */
    PMG_M_DONE = 6        /* the call is over: mig_end returns its result */
};

typedef struct pmg_mig_event {
    uint32_t size;
    uint32_t at;              /* PMG_M_* */
    uint32_t n;               /* pages in src and dst */
    uint32_t passes;          /* passes before this one, over all lists of the call */
    int32_t node;             /* where they go; -2: to several nodes */
    uint32_t flushes;         /* TLB flushes since the last stop: one per entry, or one per batch */
    uint64_t copy_bytes;      /* at PMG_M_UNMAPPED: bytes to copy; at the other stops: bytes copied since the last one */
    uint32_t wait_what, wait_which;
    const uint32_t *src;      /* frames; valid until the next call about this migration */
    const uint32_t *dst;
    uint64_t ipis;            /* processors told to flush since the last stop */
} pmg_mig_event;

enum { PMG_CALL_MOVE_PAGES = 1, PMG_CALL_MIGRATE_PAGES = 2, PMG_CALL_MBIND = 3, PMG_CALL_FRAMES = 4 };

typedef struct pmg_mig_info {             /* a migration in progress */
    uint32_t size;
    uint32_t call;            /* PMG_CALL_* */
    uint32_t cpu;
    uint32_t at;              /* PMG_M_* of its last stop, 0 before its first step */
    pmg_task task;            /* the caller; 0: none */
    uint64_t statuses;        /* length of the array that mig_end returns */
    uint64_t arguments[6];    /* of the call, by its kind: pid, count, flags; pid, maxnode; va, len, mode, maxnode, flags; n */
} pmg_mig_info;

enum { PMG_FILE_TMPFS = 1, PMG_FILE_RAMFS = 2, PMG_FILE_EXT4 = 3, PMG_FILE_MINIX = 4 };

/* User memory as a call gets it: NULL, PMG_BAD (a wild pointer), or `bytes` accessible bytes; EFAULT beyond them. */
typedef struct pmg_user {
    void *p;
    uint64_t bytes;
} pmg_user;
#ifndef PMG_BAD
#define PMG_BAD ((void *) -4096l)
#endif

/* What save writes through and load reads through: each returns the number of bytes it took or gave, which is n, or for a
 * read at the end fewer; negative: it failed. */
typedef int64_t (*pmg_write)(void *priv, const void *p, uint64_t n);
typedef int64_t (*pmg_read)(void *priv, void *p, uint64_t n);

typedef struct pmg_api {
    uint32_t abi;
    uint32_t size;            /* of the table in this build: functions are only ever appended */

    /* machines.  machine_free returns PMG_EBUSYCTX while contexts are open. */
    int (*machine_new)(const pmg_spec *spec, pmg_machine **out);
    int (*machine_free)(pmg_machine *m);
    int (*machine_info)(const pmg_machine *m, pmg_info *out);
    int (*check)(pmg_machine *m, uint32_t full, char *text, size_t n);      /* 0, or 1 with the broken rule in text */
    int (*counters)(const pmg_machine *m, uint64_t *out, uint32_t n);       /* number of counters; more are appended */
    const char *(*counter_name)(uint32_t i);                                /* NULL beyond the last */

    /* contexts: a process on a processor.  task 0: no process, for spawn and migrate_frames.  A context that owns time
     * never spins: a call that would wait returns PMG_WAIT. */
    int (*ctx_open)(pmg_machine *m, pmg_task task, uint32_t cpu, uint32_t owns_time, pmg_ctx **out);
    int (*ctx_bind)(pmg_ctx *c, pmg_task task, uint32_t cpu);
    void (*ctx_close)(pmg_ctx *c);
    int (*ctx_wait)(const pmg_ctx *c, uint32_t *what, uint32_t *which);     /* after PMG_WAIT: 1 when it may be over */
    int (*cost_take)(pmg_ctx *c, pmg_cost *out);                            /* since the last cost_take */

    /* processes and mappings */
    int64_t (*spawn)(pmg_ctx *c, uint32_t cpu, uint32_t uid);               /* a pmg_task */
    int64_t (*fork)(pmg_ctx *c);                                            /* the child's pmg_task */
    int (*exit)(pmg_ctx *c);                                                /* exit and reap; then bind the context anew */
    int64_t (*mmap)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t prot, uint32_t flags, uint32_t file, uint64_t off);
    int (*munmap)(pmg_ctx *c, uint64_t va, uint64_t len);
    int (*mprotect)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t prot);
    int64_t (*mremap)(pmg_ctx *c, uint64_t va, uint64_t len, uint64_t new_len, uint32_t flags, uint64_t new_va);
    int (*madvise)(pmg_ctx *c, uint64_t va, uint64_t len, int advice);
    int (*mlock)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t flags);
    int (*munlock)(pmg_ctx *c, uint64_t va, uint64_t len);

    /* addresses */
    int (*translate)(pmg_ctx *c, uint64_t va, pmg_outcome *out);            /* the kind; changes nothing, never waits */
    int (*access)(pmg_ctx *c, uint64_t va, uint32_t how, pmg_outcome *out); /* the kind */
    uint64_t (*access_packed)(pmg_ctx *c, uint64_t va, uint32_t how);       /* pfn << 16 | (uint8_t) node << 8 | kind */
    int64_t (*access_many)(pmg_ctx *c, const uint64_t *va, const uint8_t *write, uint64_t n, int8_t *node, uint8_t *kind,
                           pmg_outcome *stopped);                           /* accesses done; if fewer, *stopped says why */
    int (*walk)(pmg_ctx *c, uint64_t va, pmg_walk *out);                    /* levels */
    int (*pte_set)(pmg_ctx *c, uint64_t entry_pa, uint64_t expect, uint64_t bits);  /* a walker's A and D: 1 set, 0 changed */
    uint64_t (*cr3)(pmg_ctx *c);

    /* The kernel's calls, with its arguments and all of its checks.  pid 0 is the caller itself; nodes with p NULL make a
     * query; a status is a node, -errno, or PMG_STATUS_UNSET.  rule (may be NULL) receives the number of the rule that
     * refused the call.  Masks are arrays of bytes with their maxnode.  Shorter forms for the common cases are below. */
    int64_t (*move_pages)(pmg_ctx *c, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes,
                          const pmg_user *status, uint32_t flags, uint32_t *rule);
    int64_t (*migrate_pages)(pmg_ctx *c, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes,
                             const pmg_user *new_nodes, uint32_t *rule);
    int64_t (*mbind)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
                     uint64_t flags, uint32_t *rule);
    int64_t (*set_mempolicy)(pmg_ctx *c, uint32_t mode, const pmg_user *nodes, uint64_t maxnode, uint32_t *rule);
    int64_t (*get_mempolicy)(pmg_ctx *c, const pmg_user *mode, const pmg_user *nodes, uint64_t maxnode, uint64_t va,
                             uint64_t flags, uint32_t *rule);
    int64_t (*set_mempolicy_home_node)(pmg_ctx *c, uint64_t va, uint64_t len, uint64_t node, uint64_t flags,
                                       uint32_t *rule);
    int64_t (*migrate_frames)(pmg_ctx *c, const uint32_t *pfn, const int32_t *nodes, uint64_t n, int32_t *status);

    /* The same calls in the caller's time, any number at once.  mig_move_pages and the other mig_ calls below copy their
     * arguments and begin.  mig_step runs to the next place where time may pass (PMG_M_*), with pages locked behind
     * migration entries.  What happens between two steps (accesses, fork, munmap, exit, other migrations) meets those
     * entries as in the kernel.  mig_end returns the call's result and releases it.  Before PMG_M_DONE it runs the call to
     * its end, or with abort gives it up: -EINTR, pages that have moved stay, the rest is put back.  Of status only NULL,
     * PMG_BAD and the size count; mig_end stores the statuses.  -ESRCH: no such migration. */
    int (*mig_move_pages)(pmg_ctx *c, int32_t pid, uint64_t count, const pmg_user *pages, const pmg_user *nodes,
                          const pmg_user *status, uint32_t flags, pmg_mig *out);
    int (*mig_migrate_pages)(pmg_ctx *c, int32_t pid, uint64_t maxnode, const pmg_user *old_nodes,
                             const pmg_user *new_nodes, pmg_mig *out);
    int (*mig_mbind)(pmg_ctx *c, uint64_t va, uint64_t len, uint32_t mode, const pmg_user *nodes, uint64_t maxnode,
                     uint64_t flags, pmg_mig *out);
    int (*mig_frames)(pmg_ctx *c, const uint32_t *pfn, const int32_t *nodes, uint64_t n, pmg_mig *out);
    int (*mig_step)(pmg_ctx *c, pmg_mig h, pmg_mig_event *event);           /* PMG_M_* */
    int64_t (*mig_end)(pmg_ctx *c, pmg_mig h, uint32_t abort, int32_t *status, uint64_t n, uint32_t *rule);

    /* The callbacks are copied; NULL removes them.  No other call may be under way.  They belong to the process, not to
     * the machine's state: a copied or loaded machine has none. */
    int (*set_callbacks)(pmg_machine *m, const pmg_callbacks *callbacks);

    /* Threads of a program: tasks in one address space, each with its processor, policy, interleave cursor, credentials and
     * fault counts.  exit ends all of them, exit_thread only the calling task (the last one ends the process). */
    int64_t (*clone_thread)(pmg_ctx *c, uint32_t cpu);                      /* the thread's pmg_task */
    int (*exit_thread)(pmg_ctx *c);

    /* Files, for mmap; the kinds are PMG_FILE_*.  file_close drops the handle; mappings keep the file. */
    int64_t (*file_new)(pmg_ctx *c, uint32_t kind, uint64_t pages);         /* its number */
    int (*file_close)(pmg_ctx *c, uint32_t file);
    int (*ftruncate)(pmg_ctx *c, uint32_t file, uint64_t pages);
    int (*punch_hole)(pmg_ctx *c, uint32_t file, uint64_t index, uint64_t n);

    int (*mlockall)(pmg_ctx *c, uint32_t flags);
    int (*munlockall)(pmg_ctx *c);
    int64_t (*pin)(pmg_ctx *c, uint64_t va, uint64_t n, uint32_t longterm, uint32_t *handle);   /* n pages; see docs */
    int (*unpin)(pmg_ctx *c, uint32_t handle);
    int (*setuid)(pmg_ctx *c, uint32_t uid, uint32_t gid, uint32_t dumpable);
    int (*swapoff)(pmg_ctx *c, uint32_t device);                            /* devices are those of pm.Machine(swap=...) */
    int (*swapon)(pmg_ctx *c, uint32_t device);
    int (*offline)(pmg_ctx *c, uint32_t node);
    int (*online)(pmg_ctx *c, uint32_t node);

    /* Store the handles of at most n migrations in progress; return how many there are.  A loaded or copied machine has the
     * migrations of its original, with the same handles. */
    int64_t (*migrations)(pmg_machine *m, pmg_mig *out, uint64_t n);
    int (*mig_info)(pmg_machine *m, pmg_mig h, pmg_mig_info *out);

    /* The whole state of a machine, with its migrations in progress, so that what follows is what would have followed.
     * Contexts and callbacks are the host's and stay behind.  save returns the bytes written.  -EBUSY: not now; -EINVAL:
     * the stream is no machine of this build; -EIO: the host's function failed.  text (may be NULL) gets a sentence about
     * the error that says what to do.  machine_free frees what load and copy make. */
    int64_t (*save)(pmg_machine *m, pmg_write write, void *priv, char *text, size_t n);
    int (*load)(pmg_read read, void *priv, pmg_machine **out, char *text, size_t n);
    int (*copy)(pmg_machine *m, pmg_machine **out, char *text, size_t n);
} pmg_api;

#define PMG_HAS(api, f) ((api)->size >= offsetof(pmg_api, f) + sizeof((api)->f))
static inline int pmg_usable(const pmg_api *api) { return api && api->abi == PMG_ABI && PMG_HAS(api, set_callbacks); }

/* The shorter forms: pages of the calling process, and node masks of 64 bits. */
static inline int64_t pmg_move_pages(const pmg_api *api, pmg_ctx *c, const uint64_t *va, const int32_t *nodes, uint64_t n,
                                     uint32_t flags, int32_t *status)
{
    pmg_user pages, targets, out;

    pages.p = (void *) va;
    pages.bytes = n * sizeof(*va);
    targets.p = (void *) nodes;
    targets.bytes = nodes ? n * sizeof(*nodes) : 0;
    out.p = status;
    out.bytes = n * sizeof(*status);
    return api->move_pages(c, 0, n, &pages, &targets, &out, flags, NULL);
}

static inline int64_t pmg_mbind(const pmg_api *api, pmg_ctx *c, uint64_t va, uint64_t len, uint32_t mode, uint64_t nodes,
                                uint64_t flags)
{
    pmg_user mask;

    mask.p = &nodes;
    mask.bytes = sizeof(nodes);
    return api->mbind(c, va, len, mode, &mask, 65, flags, NULL); /* the kernel counts one bit less */
}

static inline int64_t pmg_migrate_pages(const pmg_api *api, pmg_ctx *c, int32_t pid, uint64_t old_nodes,
                                        uint64_t new_nodes)
{
    pmg_user from, to;

    from.p = &old_nodes;
    to.p = &new_nodes;
    from.bytes = to.bytes = sizeof(uint64_t);
    return api->migrate_pages(c, pid, 65, &from, &to, NULL);
}

#ifdef __cplusplus
}
#endif
#endif
