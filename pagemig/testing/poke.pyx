"""Read and store any field of any record of a machine, for tests that break invariants or wait for a state."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from pagemig._core cimport Machine
from pagemig.mm.page_alloc cimport file_of, free_stack, mm_of, pcp_of, task_of, vec_at
from pagemig.mm.pgtable cimport table_entries
from pagemig.mm.types cimport (
    anon_vma_t, file_t, machine_t, mm_t, node_t, pcp_t, pin_t, ptdesc_t, rnode_t, slab_t, sp_node_t, swap_info_t,
    task_t, vma_t,
)


def poke(Machine machine, str what, uint64_t index, str field, value=None):
    """Return the value of one field of one record, and store another unless it is None.

    Parameters
    ----------
    machine : Machine
        Owner of the record.
    what, index : str, int
        The kind of record, a key of ``FIELDS``, and its number; an entry of an array is ``owner << 32 | position``.
    field : str
        A key of that record in ``FIELDS``; empty where it is a number only.
    value : int, optional
        Stored, without taking a lock.
    """
    cdef int width
    cdef char *p = field_at(machine.m, what, index, field, &width)
    cdef uint64_t old = (<uint64_t *> p)[0] if width == 8 else (<uint32_t *> p)[0]
    if value is not None:
        if width == 8:
            (<uint64_t *> p)[0] = <uint64_t> (value & 0xffffffffffffffff)
        else:
            (<uint32_t *> p)[0] = <uint32_t> (value & 0xffffffff)
    return old


cdef char *field_at(machine_t *m, str what, uint64_t index, str field, int *width) except NULL:
    """Find the address of a field and its width in bytes."""
    cdef uint64_t high = index >> 32, low = index & 0xffffffffu
    cdef char *base
    offset, width[0] = FIELDS[what][field]
    if what == "frame":
        base = <char *> &m.frames[index]
    elif what == "mlock_count":
        base = <char *> &m.mlock_count[index]
    elif what == "pte":
        base = <char *> (table_entries(m, <uint32_t> high) + low)
    elif what == "table":
        base = <char *> &m.ptdesc[index]
    elif what == "node":
        base = <char *> &m.node[index]
    elif what == "stack":
        base = <char *> &free_stack(m, &m.node[high])[low]
    elif what == "pcp":
        base = <char *> pcp_of(m, <uint32_t> high, <int32_t> low)
    elif what == "mm_vma":
        base = <char *> &vec_at(m, &mm_of(m, <uint32_t> high).vmas)[low]
    elif what == "cache":
        base = <char *> &vec_at(m, &file_of(m, <uint32_t> high).cache)[low]
    elif what == "task_pin":
        base = <char *> &vec_at(m, &task_of(m, <uint32_t> high).pins)[low]
    elif what == "slab":
        base = <char *> slab_of(m, index)
    elif what == "swap_map":
        base = <char *> &m.swap_map[index]
    elif what == "swap_cache":
        base = <char *> &m.swap_cache[index]
    elif what == "swap_entry":
        base = <char *> &m.swap_entry[index]
    elif what == "swap_device":
        base = <char *> &m.swap_info[index]
    elif what in ("machine", "swap"):
        base = <char *> m
    elif what == "heap":
        base = <char *> &m.heap_lock
    else:
        base = record_at(m, what, index)
    return base + <size_t> offset


cdef slab_t *slab_of(machine_t *m, uint64_t i) noexcept:
    """Get a slab by its place in SLABS."""
    cdef slab_t *slabs[9]
    slabs[:] = [&m.tables, &m.vmas, &m.rnodes, &m.anon_vmas, &m.sp_nodes, &m.files, &m.mms, &m.tasks, &m.pins]
    return slabs[i]


cdef char *record_at(machine_t *m, str what, uint64_t index) noexcept:
    cdef slab_t *s = slab_of(m, SLABS.index(what + "s"))
    return s.base + index * s.size


SLABS = ("tables", "vmas", "rnodes", "anon_vmas", "sp_nodes", "files", "mms", "tasks", "pins")


FIELDS = {
    "frame": {"state": (0, 8), "mapping": (8, 4), "index": (12, 4)},
    "mlock_count": {"": (0, 4)},
    "pte": {"": (0, 8)},
    "stack": {"": (0, 4)},
    "mm_vma": {"": (0, 4)},
    "cache": {"": (0, 4)},
    "task_pin": {"": (0, 4)},
    "heap": {"lock": (0, 4)},
    "swap_map": {"": (0, 4)},
    "swap_cache": {"": (0, 4)},
    "swap_entry": {"": (0, 4)},
    "swap_device": {"inuse": (<size_t> &(<swap_info_t *> NULL).inuse, 4)},
    "machine": {
        "migs_running": (<size_t> &(<machine_t *> NULL).migs_running, 4),
        "evicting": (<size_t> &(<machine_t *> NULL).evicting, 4),
    },
    "swap": {
        "tree_lock": (<size_t> &(<machine_t *> NULL).tree_lock, 4),
        "swap_lock": (<size_t> &(<machine_t *> NULL).swap_lock, 4),
    },
    "table": {
        "lock": (<size_t> &(<ptdesc_t *> NULL).lock, 4), "level": (<size_t> &(<ptdesc_t *> NULL).level, 4),
        "used": (<size_t> &(<ptdesc_t *> NULL).used, 4), "mm": (<size_t> &(<ptdesc_t *> NULL).mm, 4),
        "vpn": (<size_t> &(<ptdesc_t *> NULL).vpn, 8), "next": (<size_t> &(<ptdesc_t *> NULL).next, 4),
    },
    "node": {
        "lock": (<size_t> &(<node_t *> NULL).lock, 4), "fresh": (<size_t> &(<node_t *> NULL).fresh, 8),
        "nr_free": (<size_t> &(<node_t *> NULL).nr_free, 8), "nr_stack": (<size_t> &(<node_t *> NULL).nr_stack, 8),
        "reserved": (<size_t> &(<node_t *> NULL).reserved, 8),
    },
    "pcp": {
        "lock": (<size_t> &(<pcp_t *> NULL).lock, 4), "n": (<size_t> &(<pcp_t *> NULL).n, 4),
        "pfn": (<size_t> &(<pcp_t *> NULL).pfn[0], 4),
    },
    "slab": {
        "used": (<size_t> &(<slab_t *> NULL).used, 4), "free": (<size_t> &(<slab_t *> NULL).free, 4),
        "fresh": (<size_t> &(<slab_t *> NULL).fresh, 4), "lock": (<size_t> &(<slab_t *> NULL).lock, 4),
    },
    "vma": {
        "start": (<size_t> &(<vma_t *> NULL).start, 8), "end": (<size_t> &(<vma_t *> NULL).end, 8),
        "pgoff": (<size_t> &(<vma_t *> NULL).pgoff, 8), "flags": (<size_t> &(<vma_t *> NULL).flags, 4),
        "mm": (<size_t> &(<vma_t *> NULL).mm, 4), "file": (<size_t> &(<vma_t *> NULL).file, 4),
        "anon_vma": (<size_t> &(<vma_t *> NULL).anon_vma, 4), "i_mmap": (<size_t> &(<vma_t *> NULL).i_mmap, 4),
        "chain": (<size_t> &(<vma_t *> NULL).chain, 4), "pol_nodes": (<size_t> &(<vma_t *> NULL).pol.nodes, 8),
        "home_node": (<size_t> &(<vma_t *> NULL).pol.home_node, 4), "ops": (<size_t> &(<vma_t *> NULL).ops, 4),
    },
    "rnode": {
        "start": (<size_t> &(<rnode_t *> NULL).start, 8), "last": (<size_t> &(<rnode_t *> NULL).last, 8),
        "max": (<size_t> &(<rnode_t *> NULL).max, 8), "vma": (<size_t> &(<rnode_t *> NULL).vma, 4),
        "owner": (<size_t> &(<rnode_t *> NULL).owner, 4), "left": (<size_t> &(<rnode_t *> NULL).left, 4),
        "right": (<size_t> &(<rnode_t *> NULL).right, 4), "next": (<size_t> &(<rnode_t *> NULL).next, 4),
        "prio": (<size_t> &(<rnode_t *> NULL).prio, 4),
    },
    "anon_vma": {
        "lock": (<size_t> &(<anon_vma_t *> NULL).lock, 4), "root": (<size_t> &(<anon_vma_t *> NULL).root, 4),
        "parent": (<size_t> &(<anon_vma_t *> NULL).parent, 4), "refcount": (<size_t> &(<anon_vma_t *> NULL).refcount, 4),
        "num_children": (<size_t> &(<anon_vma_t *> NULL).num_children, 4),
        "num_active_vmas": (<size_t> &(<anon_vma_t *> NULL).num_active_vmas, 4),
        "tree": (<size_t> &(<anon_vma_t *> NULL).tree, 4),
    },
    "sp_node": {"start": (<size_t> &(<sp_node_t *> NULL).start, 8), "end": (<size_t> &(<sp_node_t *> NULL).end, 8),
                "pol_nodes": (<size_t> &(<sp_node_t *> NULL).pol.nodes, 8)},
    "file": {
        "i_rwsem": (<size_t> &(<file_t *> NULL).i_rwsem, 4), "i_mmap_lock": (<size_t> &(<file_t *> NULL).i_mmap_lock, 4),
        "lock": (<size_t> &(<file_t *> NULL).lock, 4), "tree": (<size_t> &(<file_t *> NULL).tree, 4),
        "refs": (<size_t> &(<file_t *> NULL).refs, 4), "sp": (<size_t> &(<file_t *> NULL).sp, 4),
        "size": (<size_t> &(<file_t *> NULL).size, 8), "nrpages": (<size_t> &(<file_t *> NULL).nrpages, 8),
        "cache_n": (<size_t> &(<file_t *> NULL).cache.n, 4),
    },
    "mm": {
        "lock": (<size_t> &(<mm_t *> NULL).lock, 4), "pgd": (<size_t> &(<mm_t *> NULL).pgd, 4),
        "users": (<size_t> &(<mm_t *> NULL).users, 4), "total_vm": (<size_t> &(<mm_t *> NULL).total_vm, 8),
        "page_table_lock": (<size_t> &(<mm_t *> NULL).page_table_lock, 4),
        "locked_vm": (<size_t> &(<mm_t *> NULL).locked_vm, 8), "rss_anon": (<size_t> &(<mm_t *> NULL).rss_anon, 8),
        "rss_file": (<size_t> &(<mm_t *> NULL).rss_file, 8), "rss_shmem": (<size_t> &(<mm_t *> NULL).rss_shmem, 8),
        "vmas_n": (<size_t> &(<mm_t *> NULL).vmas.n, 4),
    },
    "task": {
        "state": (<size_t> &(<task_t *> NULL).state, 4), "mm": (<size_t> &(<task_t *> NULL).mm, 4),
        "live": (<size_t> &(<task_t *> NULL).live, 4), "mode": (<size_t> &(<task_t *> NULL).pol.mode, 4),
        "il_prev": (<size_t> &(<task_t *> NULL).il_prev, 4),
    },
    "pin": {"refs": (<size_t> &(<pin_t *> NULL).refs, 4), "longterm": (<size_t> &(<pin_t *> NULL).longterm, 4)},
}
