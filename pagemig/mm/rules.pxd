"""Why a call was refused: the number that goes with an errno; errors.py has the message for each."""


cdef enum rule_t:
    RULE_NONE = 0
    RULE_MOVE_FLAGS = 1
    RULE_MOVE_ALL = 2
    RULE_NO_MEMORY = 3
    RULE_TO_NODES_PRIVILEGE = 4
    RULE_TO_NODES_ABSENT = 5
    RULE_TO_NODES_NONE = 6
    RULE_MODE = 7
    RULE_STATIC_RELATIVE = 8
    RULE_BALANCING = 9
    RULE_MASK_SIZE = 10
    RULE_MASK_BEYOND = 11
    RULE_BIND_FLAGS = 12
    RULE_UNALIGNED = 13
    RULE_RANGE_WRAPS = 14
    RULE_NODES_ABSENT = 15
    RULE_NODES_NONE = 16
    RULE_MODE_NO_NODES = 17
    RULE_NODES_EMPTY = 18
    RULE_MAXNODE_SMALL = 19
    RULE_MAXNODE_LARGE = 20
    RULE_GET_FLAGS = 21
    RULE_MEMS_ALLOWED = 22
    RULE_ADDR_FLAG = 23
    RULE_NOT_INTERLEAVING = 24
    RULE_HOME_FLAGS = 25
    RULE_HOME_NODE = 26
    RULE_LENGTH = 27
    RULE_OFFSET = 28
    RULE_CALL = 29
    RULE_OCCUPIED = 30
    RULE_NO_ROOM = 31
    RULE_HUGETLB = 32
    RULE_FILE_RANGE = 33
    RULE_PROT = 34
    RULE_HOLE = 35
    RULE_MEMLOCK = 36
    RULE_MEMLOCK_ZERO = 37
    RULE_MLOCK_FLAGS = 38
    RULE_MLOCKALL_NOTHING = 39
    RULE_MLOCKALL_FLAGS = 40
    RULE_ADVICE = 41
    RULE_MREMAP_FLAGS = 42
    RULE_MREMAP_MAYMOVE = 43
    RULE_DONTUNMAP_LENGTH = 44
    RULE_DONTUNMAP = 45
    RULE_FILE_SIZE = 46
    RULE_NO_HOLES = 47
    RULE_SWAP_OFF = 48
    RULE_SWAP_ON = 49
    RULE_NODE_RESERVED = 50
    RULE_UID = 51
    RULE_PIN = 52
    RULE_NOTHING_THERE = 53
    NR_RULES = 54


cdef inline int refuse(int err, rule_t number, unsigned int *rule) noexcept nogil:
    """Return ``-err``, and store the rule unless ``rule`` is NULL."""
    if rule != NULL:
        rule[0] = number
    return -err
