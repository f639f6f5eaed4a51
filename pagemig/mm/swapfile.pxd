"""Swap devices come into use and leave it: swapon, and swapoff, which brings everything back into memory."""
from libc.stdint cimport uint32_t

from pagemig.mm.types cimport ctx_t

# take device ``type`` out of use: everything on it comes back into memory.  0, -EINVAL where it is not in use, -ENOMEM
# or -PMG_WAIT, the device is in use again then
cdef int swapoff(ctx_t *c, uint32_t type) noexcept nogil
cdef int swapon(ctx_t *c, uint32_t type) noexcept nogil                              # 0, -EBUSY where it is in use
