"""Files and shared memory: the page cache, shmem_getpage, read-ahead, write(2) and read(2), writeback."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from pagemig.mm.atomic cimport pmg_load
from pagemig.mm.types cimport ctx_t, FILE_EXT4, FILE_MINIX, FILE_SHMEM, file_t, machine_t, vma_t


cdef extern from *:
    """
    #define NO_PAGE (~0ull)         /* an index beyond every other */
    """
    const uint64_t NO_PAGE


cdef inline bint has_disk(file_t *f) noexcept nogil:
    """Whether the file's pages have a backing store, and buffers once they were dirty."""
    return f.kind == FILE_EXT4 or f.kind == FILE_MINIX


cdef inline bint has_migratepage(file_t *f) noexcept nogil:
    return f.kind == FILE_SHMEM or f.kind == FILE_EXT4

cdef uint32_t file_new(ctx_t *c, uint32_t kind, uint64_t pages, uint64_t ino) noexcept nogil   # one handle; 0: ENOMEM
cdef void file_get(machine_t *m, uint32_t file) noexcept nogil
cdef bint file_get_not_zero(machine_t *m, uint32_t file) noexcept nogil
cdef int file_set_name(machine_t *m, uint32_t file, const char *name, uint32_t n) noexcept nogil   # 0 or -ENOMEM
cdef uint32_t file_get_name(machine_t *m, uint32_t file, uint64_t ino, char *out, uint32_t room) noexcept nogil
cdef void file_put(ctx_t *c, uint32_t file) noexcept nogil           # the last reference frees pages, policy and object
# frame of a cached page with one more reference (find_get_page), 0 when absent.  file.lock taken inside.
cdef uint32_t find_get_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil
# the same for n pages under one lock; returns how many are cached, with 0 in pfns for the others
cdef uint32_t find_get_pages(machine_t *m, file_t *f, uint64_t index, uint32_t n, uint32_t *pfns) noexcept nogil
# whether a locked page is still this page of the file
cdef bint page_belongs(machine_t *m, uint32_t pfn, file_t *f, uint64_t index) noexcept nogil
cdef uint32_t find_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil                  # takes no reference
# take or release the slot; the caller holds the page lock.  add_to_page_cache takes the cache's reference.
cdef int add_to_page_cache(ctx_t *c, file_t *f, uint64_t index, uint32_t pfn) noexcept nogil      # 0, -EEXIST, -ENOMEM
cdef void delete_from_page_cache(ctx_t *c, uint32_t pfn) noexcept nogil
# the page a fault wants, referenced and locked, in *pfn.  Returns 0 or VM_FAULT_* (SIGBUS beyond the size, OOM;
# MAJOR may be or-ed in).
cdef int shmem_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil
cdef int filemap_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil
# vm_ops->fault: one of the two above, by the file's kind
cdef int vma_fault(ctx_t *c, vma_t *vma, uint64_t index, uint32_t *pfn) noexcept nogil
# page_mkwrite: a locked page is about to be written through a mapping and becomes dirty, with buffers on ext4
cdef void file_page_dirty(ctx_t *c, file_t *f, uint32_t pfn) noexcept nogil
# faults of a mapping found n cached pages, so read-ahead pays off
cdef void mmap_hit(file_t *f, uint64_t n) noexcept nogil
# pages written, or -errno; extends the file; i_rwsem taken inside
cdef int64_t pmg_sys_write(
        ctx_t *c, uint32_t file, uint64_t index, uint64_t n, const uint64_t *values, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_read(ctx_t *c, uint32_t file, uint64_t index, uint64_t n, uint64_t *values) noexcept nogil
# write a locked page to its backing store; False: it has none
cdef bint file_writepage(ctx_t *c, uint32_t pfn) noexcept nogil
cdef bint try_to_release_page(ctx_t *c, uint32_t pfn) noexcept nogil                 # a locked, clean page gives up its buffers


cdef enum:
    RA_PAGES = 32                   # read-ahead window of a disk: 128 KiB
    MMAP_LOTSAMISS = 100            # so many more misses than hits: reading around a fault does not pay off
    VMAS = 16                       # VMAs fetched from an i_mmap tree at a time
    POSIX_FADV_WILLNEED = 3
    POSIX_FADV_DONTNEED = 4
    POSIX_FADV_NOREUSE = 5

cdef void do_page_cache_ra(ctx_t *c, file_t *f, uint64_t index, uint64_t nr, uint64_t lookahead) noexcept nogil
cdef int i_rwsem_lock(ctx_t *c, uint32_t file) noexcept nogil
cdef uint64_t nr_slots(file_t *f) noexcept nogil
cdef uint64_t next_page(machine_t *m, file_t *f, uint64_t index) noexcept nogil    # NO_PAGE: there is none
cdef int writeback_pages(ctx_t *c, file_t *f, uint64_t first, uint64_t last) noexcept nogil
cdef int find_lock_page(ctx_t *c, file_t *f, uint64_t index, uint32_t *pfn) noexcept nogil


cdef inline uint64_t i_size_read(file_t *f) noexcept nogil:
    """Read the size: the holder of i_rwsem writes it, faults and readers look at it without a lock."""
    return pmg_load(&f.size)

cdef void disk_discard(machine_t *m, file_t *f, uint64_t first, uint64_t last) noexcept nogil
