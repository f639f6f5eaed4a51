"""Page faults, copying of page tables at fork, and zapping."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.frame cimport page_test, page_test_set
from pagemig.mm.pte cimport pte_t
from pagemig.mm.types cimport ctx_t, machine_t, mm_t, PG_dirty, vma_t

# One fault.  mmap_lock held in either mode; vma covers vpn and its protection was checked.  0 or VM_FAULT_*.
# Counts pgfault; the caller counts min_flt and maj_flt of the process.  VM_FAULT_RETRY: found a migration entry.
cdef int handle_mm_fault(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t flags) noexcept nogil
# mmap_lock held; 0 or -PMG_WAIT; counts C_MIGRATION_WAIT
cdef int migration_entry_wait(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil


cdef enum:
    ZAP_EVEN_COWS = 1           # also private copies of a file's pages
    ZAP_MAY_STOP = 2            # no spin lock is held, and the caller can resume where this stops


cdef struct gather_t:           # mmu_gather: frames whose entries are cleared and not flushed yet
    uint32_t mm                 # 0: part of an outer gather, or no callback hears of flushes
    uint64_t start, n           # pages; n 0: the whole address space
    uint32_t why                # PMG_F_*
    bint cleared                # whether it cleared an entry that TLBs may hold
    uint32_t *words
    uint32_t used, room

cdef void tlb_gather_begin(ctx_t *c, gather_t *g, mm_t *mm, uint64_t start, uint64_t n, uint32_t why) noexcept nogil
cdef void tlb_gather_end(ctx_t *c, gather_t *g) noexcept nogil
cdef uint64_t zap_page_range(ctx_t *c, mm_t *mm, vma_t *vma, uint64_t start, uint64_t end, uint32_t how) noexcept nogil
# for fork: 0 or -ENOMEM
cdef int copy_page_range(ctx_t *c, mm_t *dst_mm, vma_t *dst, mm_t *src_mm, vma_t *src) noexcept nogil
# one fault on an entry that names a slot: 0, VM_FAULT_MAJOR, or an error.  The page is mapped read-only.
cdef int do_swap_page(ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t pte) noexcept nogil


cdef inline void set_page_dirty(machine_t *m, uint32_t pfn) noexcept nogil:
    if not page_test(m, pfn, PG_dirty):
        page_test_set(m, pfn, PG_dirty)

cdef uint32_t get_entry_page(ctx_t *c, mm_t *mm, uint64_t vpn) noexcept nogil
cdef int wait_on_page_locked(ctx_t *c, uint32_t pfn) noexcept nogil
cdef int map_swapcache_page(
        ctx_t *c, vma_t *vma, uint64_t vpn, uint32_t leaf, pte_t entry, uint32_t pfn) noexcept nogil
