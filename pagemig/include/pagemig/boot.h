/* The table of pagemig/api.h for a host that embeds or extends Python.  Include Python.h first. */
#ifndef PAGEMIG_BOOT_H
#define PAGEMIG_BOOT_H

#include <Python.h>

#include "pagemig/api.h"

/* Import pagemig and get its table.  The caller holds the interpreter lock; calls through the table do not need it.
 * NULL with a Python exception set: pagemig is missing, or its ABI is not this header's. */
static inline const pmg_api *pmg_import(void)
{
    const pmg_api *api = (const pmg_api *) PyCapsule_Import(PMG_CAPSULE, 0);

    if (api && !pmg_usable(api)) {
        PyErr_Format(PyExc_ImportError,
                     "pagemig has ABI %u with a table of %u bytes; this program was built for ABI %d and needs at least %u: "
                     "build it again with the headers of the pagemig that is installed (python -m pagemig --cflags)",
                     api->abi, api->size, PMG_ABI, (unsigned) sizeof(pmg_api));
        return NULL;
    }
    return api;
}

#endif
