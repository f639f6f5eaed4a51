"""The public face for Cython: the table of pagemig/api.h, not the core's own structures.

::

    from pagemig cimport pmg_api, pmg_import

    cdef const pmg_api *api = pmg_import()      # NULL with an ImportError set: another ABI

Compile with the flags of ``python -m pagemig --cflags``.  The structures are the header's; a module built with an older
header keeps working, since the table only grows.
"""
from pagemig.mm.api cimport (
    PMG_ABI, PMG_EABI, PMG_EBUSYCTX, PMG_K_FAULT, PMG_K_HIT, PMG_K_MAJOR, PMG_K_MINOR, PMG_K_SIGNAL, PMG_K_WAIT,
    PMG_M_COPIED, PMG_M_DONE, PMG_M_PASS, PMG_M_STAGE, PMG_M_UNMAPPED, PMG_M_WAITS, PMG_NOFAULT, PMG_NOSET, PMG_READ,
    PMG_STATUS_UNSET, PMG_W_MM, PMG_W_NONE, PMG_W_PAGE, PMG_WRITE, pmg_api, pmg_cost, pmg_ctx, pmg_info, pmg_machine,
    pmg_mig, pmg_mig_event, pmg_node_spec, pmg_outcome, pmg_spec, pmg_task, pmg_user, pmg_walk,
)

from pagemig.mm.notify cimport (
    PMG_EHOOK, pmg_callbacks, PMG_F_COW, PMG_F_EXIT, PMG_F_FORK, PMG_F_FREE, PMG_F_MIGRATE, PMG_F_PROTECT, PMG_F_REMAP,
    PMG_F_UNMAP, pmg_flush,
)

cdef extern from "pagemig/boot.h":
    const pmg_api *pmg_import() except NULL
