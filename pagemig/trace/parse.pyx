"""Compiled parsers of text: lines in, arrays of accesses out.

Each parser takes whole lines and returns columns with an entry per access. A line that does not
match the format ends the parsing, and the parser says where; with ``skip`` it counts such lines
instead.
"""

import numpy as np

cimport cython
from cpython.buffer cimport PyBuffer_Release, PyBUF_SIMPLE, PyObject_CheckBuffer, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from pagemig._arrays cimport own_data

ctypedef const unsigned char *text_t

#: Bytes of an access at most; the state of a processor that one instruction saves is some 10 KiB.
LARGEST = 1 << 16

cdef enum:
    _LARGEST = 1 << 16

cdef uint64_t PAGES = <uint64_t>1 << 52  # page numbers are below
cdef uint64_t GIGA = 1_000_000_000
cdef uint64_t TENTH = <uint64_t>0xFFFFFFFFFFFFFFFF // 10

cdef enum Role:
    IGNORED, ADDRESS, PAGE, SIZE, WRITE, TIME, THREAD, PROCESS, COUNT

#: What a column of a table can be, by name.
ROLES = {
    "": <int>IGNORED, "address": <int>ADDRESS, "page": <int>PAGE, "size": <int>SIZE,
    "write": <int>WRITE, "time": <int>TIME, "thread": <int>THREAD, "process": <int>PROCESS,
    "count": <int>COUNT,
}

cdef uint8_t HEX[256]
cdef int _k
for _k in range(256):
    HEX[_k] = 255
for _k in range(10):
    HEX[48 + _k] = _k
for _k in range(6):
    HEX[97 + _k] = HEX[65 + _k] = 10 + _k


cdef inline text_t hexadecimal(text_t p, text_t end, uint64_t *value) noexcept nogil:
    """Read up to 16 hexadecimal digits; return where they end, NULL if there are none or more."""
    cdef text_t start = p
    cdef uint64_t number = 0
    while p < end and HEX[p[0]] != 255:
        number = number << 4 | HEX[p[0]]
        p += 1
    value[0] = number
    return p if 0 < p - start <= 16 else NULL


cdef inline text_t decimal(text_t p, text_t end, uint64_t *value) noexcept nogil:
    """Read a decimal number of 64 bits; return where it ends, NULL if there is none or it is larger."""
    cdef text_t start = p
    cdef uint64_t number = 0, digit
    while p < end and 48 <= p[0] <= 57:
        digit = p[0] - 48
        if number > TENTH or (number == TENTH and digit > 5):
            return NULL
        number = number * 10 + digit
        p += 1
    value[0] = number
    return p if p > start else NULL


cdef inline text_t seconds(text_t p, text_t end, uint64_t *value) noexcept nogil:
    """Read seconds with up to nine decimals as nanoseconds; NULL if there are none or too many."""
    cdef uint64_t whole = 0, part = 0
    cdef int places = 0
    p = decimal(p, end, &whole)
    if p == NULL or whole > <uint64_t>18_000_000_000:
        return NULL
    if p < end and p[0] == c'.':
        p += 1
        while p < end and 48 <= p[0] <= 57:
            if places < 9:
                part = part * 10 + (p[0] - 48)
                places += 1
            p += 1
    while places < 9:
        part *= 10
        places += 1
    value[0] = whole * GIGA + part
    return p


@cython.final
cdef class Columns:
    """Columns being filled, only those that a format has."""

    cdef object _address, _size, _write, _time, _process, _thread, _count
    cdef uint64_t *address
    cdef uint32_t *size
    cdef uint8_t *write
    cdef uint64_t *time
    cdef uint32_t *process
    cdef uint32_t *thread
    cdef uint32_t *count
    cdef Py_ssize_t n

    cdef int make(self, Py_ssize_t most, bint time, bint owners, bint count) except -1:
        self.n = 0
        self._address, self._size, self._write = np.empty(most, np.uint64), np.empty(most, np.uint32), np.empty(most, np.uint8)
        self.address = <uint64_t *> own_data(self._address)
        self.size = <uint32_t *> own_data(self._size)
        self.write = <uint8_t *> own_data(self._write)
        if time:
            self._time = np.empty(most, np.uint64)
            self.time = <uint64_t *> own_data(self._time)
        if owners:
            self._process, self._thread = np.empty(most, np.uint32), np.empty(most, np.uint32)
            self.process = <uint32_t *> own_data(self._process)
            self.thread = <uint32_t *> own_data(self._thread)
        if count:
            self._count = np.empty(most, np.uint32)
            self.count = <uint32_t *> own_data(self._count)
        return 0

    cdef tuple done(self):
        return (
            self._address[:self.n],
            self._size[:self.n],
            self._write[:self.n].view(np.bool_),
            None if self._time is None else self._time[:self.n],
            None if self._process is None else self._process[:self.n],
            None if self._thread is None else self._thread[:self.n],
            None if self._count is None else self._count[:self.n],
        )


cdef class Parser:
    """Base of the parsers.

    Attributes
    ----------
    malformed : int
        Lines so far that did not match the format.
    bad : int
        Offset of the first such line in the latest text; -1 if there was none.
    skipped : int
        Events so far without an address.
    """

    cdef readonly int64_t malformed
    cdef readonly Py_ssize_t bad
    cdef readonly int64_t skipped
    cdef bint skip

    def __init__(self, *, bint skip=False):
        self.skip = skip
        self.malformed = self.skipped = 0
        self.bad = -1

    def feed(self, text):
        """Parse whole lines; return the columns of `Accesses`, None for one that the format does not have."""
        cdef Columns out = Columns()
        cdef Py_buffer given
        if not PyObject_CheckBuffer(text):
            raise TypeError(f"text must be bytes, not {text!r:.80}")
        try:
            PyObject_GetBuffer(text, &given, PyBUF_SIMPLE)
        except (BufferError, ValueError):
            raise ValueError(f"text must be contiguous bytes, not {text!r:.80}") from None
        try:
            if given.itemsize != 1:
                raise TypeError(f"text must be bytes, not {text!r:.80}")
            self.bad = -1
            self.make_room(out, given.len)
            with nogil:
                self.parse(<text_t> given.buf, <text_t> given.buf + given.len, out)
        finally:
            PyBuffer_Release(&given)
        return out.done()

    cdef int make_room(self, Columns out, Py_ssize_t length) except -1:
        """Make the columns of the format, with room for all accesses of a text."""
        raise TypeError("a Parser parses nothing: use Lackey, Table or Perf")

    cdef void parse(self, text_t begin, text_t end, Columns out) noexcept nogil:
        """Fill the columns."""

    cdef bint refuses(self, Py_ssize_t at) noexcept nogil:
        """Count a malformed line; return whether parsing ends with it."""
        if self.bad < 0:
            self.bad = at
        self.malformed += 1
        return not self.skip


cdef inline text_t line_end(text_t p, text_t end) noexcept nogil:
    cdef text_t found = <text_t>memchr(p, c'\n', end - p)
    return end if found == NULL else found


@cython.final
cdef class Lackey(Parser):
    """Parser for the output of valgrind's lackey tool; `pagemig.trace.readers.LackeyReader` has the rules.

    Parameters
    ----------
    skip : bool
        Count malformed lines instead of stopping at the first.

    Attributes
    ----------
    instructions : int
        Instruction fetches so far; the time of an access is how many came before it.
    """

    cdef readonly uint64_t instructions

    cdef int make_room(self, Columns out, Py_ssize_t length) except -1:
        return out.make(length // 6 + 1, True, False, False)  # "L 0,1" and its newline are six bytes

    cdef void parse(self, text_t begin, text_t end, Columns out) noexcept nogil:
        cdef text_t p = begin
        cdef text_t line
        cdef uint64_t address = 0, size = 0, instructions = self.instructions
        cdef Py_ssize_t n = 0
        cdef int lead
        cdef unsigned char kind
        while p < end:
            line = p
            if p[0] == c'I' and p + 1 < end and p[1] == c' ':
                instructions += 1
                p = line_end(p, end) + 1
                continue
            lead = 0
            while lead < 2 and p < end and p[0] == c' ':
                p += 1
                lead += 1
            kind = p[0] if p < end else c'\n'
            if (kind == c'L' or kind == c'S' or kind == c'M') and p + 1 < end and p[1] == c' ':
                p += 2
                while p < end and p[0] == c' ':
                    p += 1
                p = hexadecimal(p, end, &address)
                if p != NULL and p < end and p[0] == c',':
                    p = decimal(p + 1, end, &size)
                    if p != NULL and p < end and p[0] == c'\r':
                        p += 1
                    if (
                        p != NULL and (p == end or p[0] == c'\n')
                        and 0 < size <= _LARGEST and address <= address + (size - 1)
                    ):
                        out.address[n] = address
                        out.size[n] = <uint32_t>size
                        out.write[n] = kind != c'L'
                        out.time[n] = instructions
                        n += 1
                        p += 1
                        continue
            elif lead == 0 and (
                kind == c'\n' or kind == c'=' or kind == c'-' or kind == c'*'
                or (kind == c'\r' and p + 1 < end and p[1] == c'\n')
            ):
                p = line_end(line, end) + 1
                continue
            if self.refuses(line - begin):
                break
            p = line_end(line, end) + 1
        out.n = n
        self.instructions = instructions


cdef int word(text_t p, Py_ssize_t length) noexcept nogil:
    """Whether a word says that an access stores; -1 if it says neither."""
    if length == 1:
        if p[0] == c'0' or p[0] == c'r' or p[0] == c'R' or p[0] == c'l' or p[0] == c'L' or p[0] == c'f' or p[0] == c'F':
            return 0
        if (
            p[0] == c'1' or p[0] == c'w' or p[0] == c'W' or p[0] == c's' or p[0] == c'S'
            or p[0] == c'm' or p[0] == c'M' or p[0] == c't' or p[0] == c'T'
        ):
            return 1
        return -1
    if same(p, length, b"read") or same(p, length, b"load") or same(p, length, b"false") or same(p, length, b"ld"):
        return 0
    if same(p, length, b"write") or same(p, length, b"store") or same(p, length, b"true") or same(p, length, b"st"):
        return 1
    return -1


cdef bint same(text_t p, Py_ssize_t length, const char *name) noexcept nogil:
    """Whether a piece of text is a word, ignoring case."""
    cdef Py_ssize_t k = 0
    while k < length and name[k] and (p[k] | 32) == <unsigned char>name[k]:
        k += 1
    return k == length and not name[k]


@cython.final
cdef class Table(Parser):
    """Parser for tables: one access per line, its columns separated by a character.

    Parameters
    ----------
    roles : list of str
        What each column is: a key of `ROLES`.
    delimiter : str
        One character; a blank stands for any run of blanks.
    hexadecimal : bool
        Whether addresses are hexadecimal also without ``0x``.
    seconds : bool
        Whether times are seconds, to be taken as nanoseconds.
    skip : bool
        Count malformed lines instead of stopping at the first.
    """

    cdef list _roles
    cdef int nr
    cdef int roles[32]
    cdef unsigned char delimiter
    cdef bint hexadecimal, seconds, has_time, has_owner, has_count

    def __init__(self, list roles, str delimiter, *, bint hexadecimal=False, bint seconds=False, bint skip=False):
        cdef int k
        if not 1 <= len(roles) <= 32:
            raise ValueError(f"a table has 1 to 32 columns, not {len(roles)}")
        Parser.__init__(self, skip=skip)
        self.nr, self.delimiter = len(roles), ord(delimiter)
        for k in range(self.nr):
            self.roles[k] = ROLES[roles[k]]
        self.hexadecimal, self.seconds = hexadecimal, seconds
        self.has_time = "time" in roles
        self.has_owner = "thread" in roles or "process" in roles
        self.has_count = "count" in roles

    cdef int make_room(self, Columns out, Py_ssize_t length) except -1:
        return out.make(length // 2 + 1, self.has_time, self.has_owner, self.has_count)

    cdef void parse(self, text_t begin, text_t end, Columns out) noexcept nogil:
        cdef text_t p = begin
        cdef text_t stop
        while p < end:
            stop = line_end(p, end)
            if not self.row(p, stop, out) and self.refuses(p - begin):
                return
            p = stop + 1

    cdef bint row(self, text_t p, text_t end, Columns out) noexcept nogil:
        """Parse one line; True if it was a row or may be skipped."""
        cdef text_t stop
        cdef text_t last
        cdef uint64_t value[9]
        cdef int k, role
        cdef bint blank = self.delimiter == c' '
        if end > p and (end - 1)[0] == c'\r':
            end -= 1
        while p < end and (p[0] == c' ' or (p[0] == c'\t' and self.delimiter != c'\t')):
            p += 1
        if p == end or p[0] == c'#':
            return True
        for k in range(9):
            value[k] = 0
        value[<int>SIZE] = value[<int>COUNT] = 1
        for k in range(self.nr):
            if k:
                if blank:
                    while p < end and (p[0] == c' ' or p[0] == c'\t'):
                        p += 1
                elif p >= end or p[0] != self.delimiter:
                    return False
                else:
                    p += 1
            stop = p
            while stop < end and not (stop[0] == self.delimiter or (blank and stop[0] == c'\t')):
                stop += 1
            last = stop
            while p < last and (p[0] == c' ' or p[0] == c'"'):
                p += 1
            while last > p and ((last - 1)[0] == c' ' or (last - 1)[0] == c'"'):
                last -= 1
            role = self.roles[k]
            if role != IGNORED and not self.value(role, p, last, &value[role]):
                return False
            p = stop
        while blank and p < end and (p[0] == c' ' or p[0] == c'\t'):
            p += 1
        if p != end:
            return False
        return self.put(value, out)

    cdef bint value(self, int role, text_t p, text_t end, uint64_t *to) noexcept nogil:
        """Parse one field; False if it is malformed."""
        cdef int kind
        if role == WRITE:
            kind = word(p, end - p)
            to[0] = kind == 1
            return kind >= 0
        if role == TIME and self.seconds:
            return seconds(p, end, to) == end
        if end - p > 2 and p[0] == c'0' and (p[1] | 32) == c'x':
            return hexadecimal(p + 2, end, to) == end
        if self.hexadecimal and (role == ADDRESS or role == PAGE):
            return hexadecimal(p, end, to) == end
        return p < end and decimal(p, end, to) == end

    cdef bint put(self, uint64_t *value, Columns out) noexcept nogil:
        cdef uint64_t address = value[<int>ADDRESS], size = value[<int>SIZE]
        if value[<int>PAGE]:
            if value[<int>PAGE] >= PAGES:
                return False
            address = value[<int>PAGE] << 12
        if size == 0 or size > _LARGEST or address > address + (size - 1):
            return False
        if value[<int>COUNT] >> 32 or value[<int>COUNT] == 0:
            return False
        if value[<int>THREAD] >> 32 or value[<int>PROCESS] >> 32:
            return False
        out.address[out.n], out.size[out.n], out.write[out.n] = address, <uint32_t>size, value[<int>WRITE] != 0
        if self.has_time:
            out.time[out.n] = value[<int>TIME]
        if self.has_owner:
            out.process[out.n], out.thread[out.n] = <uint32_t>value[<int>PROCESS], <uint32_t>value[<int>THREAD]
        if self.has_count:
            out.count[out.n] = <uint32_t>value[<int>COUNT]
        out.n += 1
        return True


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == c' ' or c == c'\t'


cdef inline text_t skip_blanks(text_t p, text_t end) noexcept nogil:
    while p < end and is_blank(p[0]):
        p += 1
    return p


cdef inline text_t token_end(text_t p, text_t end) noexcept nogil:
    while p < end and not is_blank(p[0]):
        p += 1
    return p


cdef bint has(text_t p, text_t end, const char *what, Py_ssize_t length) noexcept nogil:
    """Whether a piece of text contains another."""
    while end - p >= length:
        p = <text_t>memchr(p, what[0], end - p - length + 1)
        if p == NULL:
            return False
        if memcmp(p, what, length) == 0:
            return True
        p += 1
    return False


@cython.final
cdef class Perf(Parser):
    """Parser for the output of ``perf script``; `pagemig.trace.readers.PerfReader` has the rules.

    Parameters
    ----------
    skip : bool
        Count malformed lines instead of stopping at the first.
    """

    cdef int make_room(self, Columns out, Py_ssize_t length) except -1:
        return out.make(length // 4 + 1, True, True, False)

    cdef void parse(self, text_t begin, text_t end, Columns out) noexcept nogil:
        cdef text_t p = begin
        cdef text_t stop
        while p < end:
            stop = line_end(p, end)
            # A call chain follows its event on lines that begin with a tab.
            if p < stop and p[0] != c'#' and p[0] != c'\t' and not self.event(p, stop, out):
                if self.refuses(p - begin):
                    return
            p = stop + 1

    cdef bint event(self, text_t p, text_t end, Columns out) noexcept nogil:
        """Parse one line; True if it was an event or may be skipped."""
        cdef text_t start
        cdef text_t name
        cdef text_t name_end
        cdef uint64_t time = 0, address = 0, error = 0
        cdef uint64_t process = 0, thread = 0
        cdef bint timed = False, write
        if end > p and (end - 1)[0] == c'\r':
            end -= 1
        start = p = skip_blanks(p, end)
        if p == end:
            return True
        while not timed and p < end:
            name = p
            p = token_end(p, end)
            if (p - 1)[0] == c':' and self.is_time(name, p - 1):
                timed = seconds(name, p - 1, &time) == p - 1
                if timed:
                    self.owner(start, name, &process, &thread)
            p = skip_blanks(p, end)
        if not timed:
            return False
        name = name_end = p
        while p < end:  # the period may precede the event's name
            name, p = p, token_end(p, end)
            name_end = p
            p = skip_blanks(p, end)
            if (name_end - 1)[0] == c':':
                break
        if (name_end - 1)[0] != c':':
            return False
        if not self.operand(p, end, &address, &error):
            return False
        if address == 0:
            self.skipped += 1
            return True
        write = has(name, name_end, "store", 5) or has(p, end, "OP STORE", 8) or error & 2
        out.address[out.n], out.size[out.n], out.write[out.n] = address, 1, write
        out.time[out.n] = time
        out.process[out.n], out.thread[out.n] = <uint32_t>process, <uint32_t>thread
        out.n += 1
        return True

    cdef bint is_time(self, text_t p, text_t end) noexcept nogil:
        """Whether a token is digits, a point and digits."""
        cdef int points = 0
        cdef text_t start = p
        while p < end:
            if p[0] == c'.':
                points += 1
            elif not 48 <= p[0] <= 57:
                return False
            p += 1
        return points == 1 and end - start > 2

    cdef void owner(self, text_t start, text_t end, uint64_t *process, uint64_t *thread) noexcept nogil:
        """Get process and thread from the last token before the time of the form N or N/M."""
        cdef text_t p
        cdef text_t stop = end
        cdef text_t after
        while stop > start:
            while stop > start and is_blank((stop - 1)[0]):
                stop -= 1
            p = stop
            while p > start and not is_blank((p - 1)[0]):
                p -= 1
            after = decimal(p, stop, thread)
            if after != NULL and after < stop and after[0] == c'/':
                process[0] = thread[0]
                if decimal(after + 1, stop, thread) == stop:
                    return
            elif after == stop and p < stop:
                process[0] = 0
                return
            stop = p
        process[0] = thread[0] = 0

    cdef bint operand(self, text_t p, text_t end, uint64_t *address, uint64_t *error) noexcept nogil:
        """Get the address of an event, and the error code of a fault if it is given."""
        cdef text_t stop
        cdef text_t after
        if end - p > 10 and memcmp(p, b"address=0x", 10) == 0:  # the tracepoint of page faults
            stop = hexadecimal(p + 10, end, address)
            if stop == NULL:
                return False
            while stop < end:
                p = skip_blanks(stop, end)
                stop = token_end(p, end)
                if stop - p > 13 and memcmp(p, b"error_code=0x", 13) == 0:
                    return hexadecimal(p + 13, stop, error) == stop
            return True
        stop = token_end(p, end)
        after = p + 2 if stop - p > 2 and p[0] == c'0' and p[1] == c'x' else p
        if hexadecimal(after, stop, address) != stop:
            return False
        p = skip_blanks(stop, end)
        if p == end:
            return True
        while p < end:  # without a second number, the first is the instruction's address
            stop = token_end(p, end)
            if p[0] == c'|' or self.is_number(p, stop):
                return True
            p = skip_blanks(stop, end)
        return False

    cdef bint is_number(self, text_t p, text_t end) noexcept nogil:
        """Whether a token is an address or a data source, and not a symbol such as ``add``."""
        cdef bint digit = False
        if end - p < 6:
            return False
        while p < end:
            if HEX[p[0]] == 255:
                return False
            digit |= p[0] <= 57
            p += 1
        return digit
