"""Machines as bytes, for Python: saved through a callable, loaded, copied, and adopted by an object."""
from cpython.buffer cimport PyBUF_WRITE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EBUSY, EINTR, ENOMEM
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free

from pagemig._core cimport call_peek, call_stop, Machine, Stop
from pagemig.mm.context cimport ctx_release_all
from pagemig.mm.mig cimport mig_release_all
from pagemig.mm.page_alloc cimport arenas_release
from pagemig.mm.state cimport is_described, state_copy, state_load, state_problem, state_save
from pagemig.mm.types cimport machine_t, node_t, profile_t

from threading import get_ident

from pagemig import constants
from pagemig.errors import StateError


cdef class Stream(Stop):
    """A callable, and the error that it or a signal handler raised."""

    cdef object call

    def __cinit__(self, call):
        self.call = call


cdef int64_t give(void *private_, const void *p, uint64_t n) noexcept with gil:
    cdef Stream stream = <Stream> private_
    try:
        PyErr_CheckSignals()
        stream.call((<const char *> p)[:n])
    except BaseException as error:
        stream.error = error
        return -1
    return <int64_t> n


cdef int64_t take(void *private_, void *p, uint64_t n) noexcept with gil:
    """Let ``call(view)`` fill the memory; it returns how much of it."""
    cdef Stream stream = <Stream> private_
    cdef uint64_t done = 0, got
    try:
        view = PyMemoryView_FromMemory(<char *> p, <Py_ssize_t> n, PyBUF_WRITE)
        PyErr_CheckSignals()
        while done < n:
            got = stream.call(view[done:])
            if got == 0:
                break
            done += got
    except BaseException as error:
        stream.error = error
        return -1
    return <int64_t> done


cdef class Loaded:
    """A machine that no object owns yet.

    Attributes
    ----------
    extra : bytes
        What the caller of `save` stored with it.
    """

    cdef machine_t *m
    cdef readonly bytes extra

    def __dealloc__(self):
        release(self.m)

    def facts(self):
        """Return what a machine like this one is made of: nodes, profile, distances, page_bytes, access_stats, swap.

        Sizes are in bytes; a node is a tuple of the arguments of ``Node``.
        """
        cdef machine_t *m = self.m
        cdef const node_t *node
        nodes = []
        for i in range(m.nr_nodes):
            node = &m.node[i]
            reserved = node.reserved if i or node.reserved > 1 else 0       # the zero page is not the caller's wish
            nodes.append((
                (node.end - node.first) * constants.PAGE_SIZE,
                node.nr_cpus,
                reserved * constants.PAGE_SIZE,
                node.low * constants.PAGE_SIZE,
            ))
        distances = [[m.distance[i][k] for k in range(m.nr_nodes)] for i in range(m.nr_nodes)]
        swap = [(<uint64_t> m.swap_info[i].max - 1) * constants.PAGE_SIZE for i in range(m.nr_swapfiles)]
        profile = (<const char *> &m.profile)[:sizeof(profile_t)]
        return nodes, profile, distances, m.page_bytes, m.access_stats != 0, swap


cdef void release(machine_t *m) noexcept:
    if m != NULL:
        ctx_release_all(m)
        mig_release_all(m)
        arenas_release(m)
        free(m)


cdef class Copying:
    """The scope in which a machine is read: it may not change."""

    cdef Machine machine
    cdef object before

    def __init__(self, Machine machine):
        self.machine = machine

    def __enter__(self):
        self.machine.must_be_whole()
        self.before, self.machine.copying = self.machine.copying, get_ident()

    def __exit__(self, *_):
        self.machine.copying = self.before


def save(Machine machine not None, write, bytes extra):
    """Write a machine, and ``extra``, through ``write(bytes)``.

    Raises
    ------
    StateError
        It cannot be saved now; the text says what to do.
    """
    cdef Stream stream = Stream(write)
    cdef const char *p = extra
    cdef uint64_t n = len(extra)
    cdef const char *what
    cdef int64_t rc
    with Copying(machine):
        with nogil:
            rc = state_save(machine.m, p, n, give, call_stop, call_peek, <void *> stream, &what)
        if rc == -EINTR and stream.error is None:
            PyErr_CheckSignals()
            with nogil:     # the handler has returned, and nothing is written yet
                rc = state_save(machine.m, p, n, give, call_stop, NULL, <void *> stream, &what)
    if stream.error is not None:
        raise stream.error
    if rc == -EBUSY:
        raise StateError((<bytes> what).decode())
    if rc < 0:
        raise MemoryError("no memory to save the machine")


def load(read_into):
    """Read a machine through ``read_into(memoryview)``, which returns how many bytes it stored.

    Raises
    ------
    StateError
        The stream is no machine of this build; the text says what to do.
    """
    cdef Stream stream = Stream(read_into)
    cdef Loaded loaded = Loaded()
    cdef void *extra
    cdef uint64_t n, layout
    cdef char text[200]
    cdef int why
    with nogil:
        loaded.m = state_load(take, call_stop, <void *> stream, &extra, &n, &layout, &why)
    if stream.error is not None:
        raise stream.error
    if why == -ENOMEM:
        raise MemoryError("no memory for the machine")
    if loaded.m == NULL:
        state_problem(why, layout, text, sizeof(text))
        raise StateError((<bytes> text).decode())
    loaded.extra = (<const char *> extra)[:n]
    free(extra)
    return loaded


def copy(Machine machine not None):
    """Copy a machine."""
    cdef Loaded loaded = Loaded()
    cdef Stop stop = Stop()
    cdef const char *what
    cdef int why
    with Copying(machine):
        with nogil:
            loaded.m = state_copy(machine.m, call_stop, call_peek, <void *> stop, &why, &what)
        if loaded.m == NULL and why == -EINTR and stop.error is None:
            PyErr_CheckSignals()
            with nogil:     # the handler has returned
                loaded.m = state_copy(machine.m, call_stop, NULL, <void *> stop, &why, &what)
    if stop.error is not None:
        raise stop.error
    if why == -EBUSY:
        raise StateError((<bytes> what).decode())
    if loaded.m == NULL:
        raise MemoryError("no memory for the copy")
    loaded.extra = b""
    return loaded


def adopt(Machine machine not None, Loaded loaded not None):
    """Make a new, unused machine object own what was loaded.

    Raises
    ------
    StateError
        The machine was made from another description.
    """
    cdef machine_t *unused = machine.m
    if not is_described(loaded.m, unused):
        raise StateError("its description is not of the machine in it")
    machine.m = loaded.m
    loaded.m = unused
    machine.hear()
