"""swapon and swapoff."""
from libc.stdint cimport int64_t, uint32_t

from pagemig.mm.types cimport ctx_t

# take device ``type`` out of use and read everything on it back into memory.  0 or -errno with the rule that refused;
# after -ENOMEM or -PMG_WAIT the device is in use again
cdef int64_t pmg_sys_swapoff(ctx_t *c, uint32_t type, uint32_t *rule) noexcept nogil
cdef int64_t pmg_sys_swapon(ctx_t *c, uint32_t type, uint32_t *rule) noexcept nogil
