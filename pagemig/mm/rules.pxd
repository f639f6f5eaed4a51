"""Why a call was refused: the number that goes with an errno, for which errors.py has the sentence."""


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
    NR_RULES = 27


cdef inline int refuse(int err, rule_t number, unsigned int *rule) noexcept nogil:
    """``-err``, and the rule for whoever wants to know."""
    if rule != NULL:
        rule[0] = number
    return -err
