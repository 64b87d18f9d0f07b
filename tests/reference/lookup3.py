"""HDF5's metadata checksum (Jenkins' lookup3, hashlittle), and where it lies in a file."""

import re
import struct

_MASK = 0xFFFFFFFF


def _turned(value, bits):
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def lookup3(data):
    """The checksum of `data`."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data + bytes(-len(data) % 12))
    for place in range(0, len(words) - 3, 3):
        a, b, c = ((x + y) & _MASK for x, y in zip((a, b, c), words[place:], strict=False))
        a = (a - c & _MASK) ^ _turned(c, 4)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _turned(a, 6)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _turned(b, 8)
        b = b + a & _MASK
        a = (a - c & _MASK) ^ _turned(c, 16)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _turned(a, 19)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _turned(b, 4)
        b = b + a & _MASK
    if not words:
        return c
    a, b, c = ((x + y) & _MASK for x, y in zip((a, b, c), words[-3:], strict=True))
    c = (c ^ b) - _turned(b, 14) & _MASK
    a = (a ^ c) - _turned(c, 11) & _MASK
    b = (b ^ a) - _turned(a, 25) & _MASK
    c = (c ^ b) - _turned(b, 16) & _MASK
    a = (a ^ c) - _turned(c, 4) & _MASK
    b = (b ^ a) - _turned(a, 14) & _MASK
    c = (c ^ b) - _turned(b, 24) & _MASK
    return c


def sealed_ranges(data):
    """Where a file of the newest kinds has metadata: `(start, end)`, the last four bytes of which
    are the checksum of those before.

    Found by what their headers say where that is simple, else by trying.
    """
    found = [(0, 48)]
    for match in re.finditer(rb"OHDR|OCHK|FAHD|FADB|FRHP|FHIB|BTHD|BTLF|EAHD|SMTB", data):
        start = match.start()
        if match[0] == b"OHDR":
            flags = data[start + 5]
            at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            ends = [at + width + int.from_bytes(data[at : at + width], "little") + 4]
        else:
            ends = range(start + 12, min(start + 1400, len(data)) + 1)
        for end in ends:
            if is_sealed(data, start, end):
                found.append((start, end))
                break
    return [place for place in found if is_sealed(data, *place)]


def is_sealed(data, start, end):
    """Whether the last four bytes of a range are the checksum of those before."""
    stored = data[end - 4 : end]
    return stored == lookup3(bytes(data[start : end - 4])).to_bytes(4, "little")


def seal(data, ranges):
    """Put the right checksum into every one of these ranges of a bytearray."""
    for start, end in ranges:
        data[end - 4 : end] = lookup3(bytes(data[start : end - 4])).to_bytes(4, "little")
