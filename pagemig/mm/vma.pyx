"""VMAs: the out-of-line part of vma.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from pagemig.mm.page_alloc cimport vec_at, vma_of
from pagemig.mm.pte cimport pte_t
from pagemig.mm.types cimport machine_t, mm_t, vma_t


cdef uint32_t vma_slot(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef uint32_t *vmas = vec_at(m, &mm.vmas)
    cdef uint32_t lo = 0, hi = mm.vmas.n, mid
    while lo < hi:
        mid = (lo + hi) // 2
        if vma_of(m, vmas[mid]).end > vpn:
            hi = mid
        else:
            lo = mid + 1
    return lo


cdef vma_t *find_vma(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef uint32_t slot = vma_slot(m, mm, vpn)
    return vma_of(m, vec_at(m, &mm.vmas)[slot]) if slot < mm.vmas.n else NULL


cdef vma_t *vma_lookup(machine_t *m, mm_t *mm, uint64_t vpn) noexcept nogil:
    cdef vma_t *vma = find_vma(m, mm, vpn)
    return vma if vma != NULL and vma.start <= vpn else NULL


cdef pte_t vma_pte(machine_t *m, vma_t *vma, uint32_t pfn) noexcept nogil:
    return (<pte_t> pfn << 12) | vm_page_prot(m, vma)
