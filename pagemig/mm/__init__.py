"""The kernel: structs and functions without the interpreter, named as in Linux's ``mm/``."""
