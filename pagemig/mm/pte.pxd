"""Page-table entries, and swap entries in place of absent pages; all inline, without state.

A present entry has the x86-64 layout, so that a hardware simulator can walk the tables::

    63 NX | 58..62 - | 12..51 pfn | 11 - | 9 special | 7 PSE | 6 D | 5 A | 2 US | 1 RW | 0 P

Bit 8 with P clear is PROT_NONE, as in Linux: the entry maps a page that the processor may not access.
A nonzero entry that is neither present nor PROT_NONE is a swap entry::

    59..63 type | 12..58 offset | 11..9 - | 1..8 zero

For a migration entry the offset is the frame number of the page being moved in its low 40 bits and the
accessed and dirty bits of the replaced entry above it (Linux 6.1; earlier kernels lost them).
"""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from *:
    """
    #define PTE_P 1ull
    #define PTE_RW 2ull
    #define PTE_US 4ull
    #define PTE_A 32ull
    #define PTE_D 64ull
    #define PTE_PSE 128ull
    #define PTE_PROTNONE 256ull
    #define PTE_SPECIAL 512ull
    #define PTE_NX (1ull << 63)
    #define PTE_PFN_MASK 0x000ffffffffff000ull
    #define PTE_TABLE (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D)
    #define SWP_TYPE_SHIFT 59
    #define SWP_MIGRATION_READ 29ull
    #define SWP_MIGRATION_READ_EXCLUSIVE 30ull
    #define SWP_MIGRATION_WRITE 31ull
    #define SWP_MIG_SHIFT 47            /* from A and D to their places in the offset */
    #define SWP_MIG_YOUNG (PTE_A << SWP_MIG_SHIFT)
    #define SWP_MIG_DIRTY (PTE_D << SWP_MIG_SHIFT)
    """
    enum:
        SWP_TYPE_SHIFT, SWP_MIG_SHIFT
    const uint64_t PTE_P, PTE_RW, PTE_US, PTE_A, PTE_D, PTE_PSE, PTE_PROTNONE, PTE_SPECIAL
    const uint64_t PTE_NX, PTE_PFN_MASK, PTE_TABLE
    const uint64_t SWP_MIGRATION_READ, SWP_MIGRATION_READ_EXCLUSIVE, SWP_MIGRATION_WRITE
    const uint64_t SWP_MIG_YOUNG, SWP_MIG_DIRTY

ctypedef uint64_t pte_t


cdef inline bint pte_none(pte_t pte) noexcept nogil:
    return pte == 0


cdef inline bint pte_present(pte_t pte) noexcept nogil:
    """Whether the entry maps a page; as in the kernel, a PROT_NONE entry does."""
    return (pte & (PTE_P | PTE_PROTNONE)) != 0


cdef inline bint pte_protnone(pte_t pte) noexcept nogil:
    return (pte & (PTE_P | PTE_PROTNONE)) == PTE_PROTNONE


cdef inline uint64_t pte_pfn(pte_t pte) noexcept nogil:
    return (pte & PTE_PFN_MASK) >> 12


cdef inline bint pte_write(pte_t pte) noexcept nogil:
    return (pte & PTE_RW) != 0


cdef inline bint pte_dirty(pte_t pte) noexcept nogil:
    return (pte & PTE_D) != 0


cdef inline bint is_swap_pte(pte_t pte) noexcept nogil:
    return pte != 0 and not pte_present(pte)


cdef inline uint64_t swp_type(pte_t pte) noexcept nogil:
    return pte >> SWP_TYPE_SHIFT


cdef inline bint is_migration_entry(pte_t pte) noexcept nogil:
    return not pte_present(pte) and swp_type(pte) >= SWP_MIGRATION_READ


cdef inline bint is_writable_migration_entry(pte_t pte) noexcept nogil:
    """``is_write_migration_entry`` in the kernels of 2006."""
    return not pte_present(pte) and swp_type(pte) == SWP_MIGRATION_WRITE


cdef inline uint32_t migration_entry_to_pfn(pte_t pte) noexcept nogil:
    return <uint32_t> ((pte >> 12) & 0xffffffffu)


cdef inline pte_t make_migration_entry(uint64_t type, uint32_t pfn, pte_t old) noexcept nogil:
    """Make an entry of ``type`` for ``pfn`` that keeps the accessed and dirty bits of ``old``."""
    return (type << SWP_TYPE_SHIFT) | (<pte_t> pfn << 12) | (old & (PTE_A | PTE_D)) << SWP_MIG_SHIFT


cdef inline pte_t migration_entry_bits(pte_t entry) noexcept nogil:
    """Get the accessed and dirty bits of the replaced entry, in their places in a present entry."""
    return (entry >> SWP_MIG_SHIFT) & (PTE_A | PTE_D)


cdef inline pte_t migration_entry_set_type(pte_t pte, uint64_t type) noexcept nogil:
    """Change the type of an entry: fork and mprotect downgrade entries in place."""
    return (pte & ((1ull << SWP_TYPE_SHIFT) - 1)) | (type << SWP_TYPE_SHIFT)


cdef inline pte_t make_swap_entry(uint64_t type, uint64_t offset) noexcept nogil:
    return (type << SWP_TYPE_SHIFT) | (offset << 12)
