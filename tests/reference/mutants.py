"""Files gone wrong: mutations of bytes and of JSON, digests put right again where asked for."""

import copy
import gzip
import hashlib
import json
import os
import resource
import signal
import struct
import sys
import traceback
import zlib
from pathlib import Path

from manifests.errors import CutswapError
from reference.lookup3 import seal, sealed_ranges

TIMEOUT_S = 10
MEMORY_BYTES = 1 << 30

ODD_VALUES = (
    None, True, False, 0, -1, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 53) + 1, 1 << 63,
    10**40, 0.5, -0.0, 1e308, "", "a", "../../etc/passwd", "/dev/zero", "\x00", "\x1b[2J",
    "\u202e", "a" * 64, "0" * 64, "x" * 70_000, "shard-00000.h5", "shard-99999.h5", [], {}, [[]],
    [None] * 999, {"a": {"a": {"a": 1}}}, {"": ""},
)  # fmt: skip
ODD_WORDS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40]


def mutated_bytes(rng, data, ranges=None):
    """A copy of `data` with one to four changes; in half the cases within one of `ranges`."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        start, end = 0, len(data)
        if ranges and rng.random() < 0.5:
            start, end = ranges[int(rng.integers(len(ranges)))]
        place = int(rng.integers(start, max(start + 1, min(end, len(data)))))
        length = int(rng.integers(1, 1 + min(200, max(1, len(data) - place))))
        change = int(rng.integers(8 if ranges is None else 5))
        if change == 0 and place < len(data):
            data[place] ^= 1 << int(rng.integers(8))
        elif change == 1 and place < len(data):
            data[place] = int(rng.integers(256))
        elif change in (2, 3):  # a size, an offset or a count
            width = int(rng.choice([1, 2, 4, 8]))
            word = int(rng.choice(ODD_WORDS)) % (1 << 8 * width)
            data[place : place + width] = word.to_bytes(width, "little")[: len(data) - place]
        elif change == 4:
            other = int(rng.integers(max(1, len(data) - length)))
            data[place : place + length] = data[other : other + len(data[place : place + length])]
        elif change == 5:
            del data[place : place + length]
        elif change == 6:
            data[place:place] = data[place : place + length]
        elif change == 7 and rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def mutated_json(rng, plain):
    """A copy of a JSON value in which one to three places are changed, removed or doubled."""
    plain = copy.deepcopy(plain)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(plain))
        if not places:
            break
        parent, key = places[int(rng.integers(len(places)))]
        change = int(rng.integers(7))
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[key + "x"] = parent.pop(key)
        elif change == 2:
            other, place = places[int(rng.integers(len(places)))]
            parent[key] = copy.deepcopy(other[place])
        elif change == 3 and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent[key : key + 1]) * int(rng.choice([1, 2, 70])))
        elif change == 4 and isinstance(parent[key], int):
            parent[key] = int(parent[key]) + int(rng.choice([-1, 1, 1 << 20, -(1 << 20)]))
        elif change == 5:
            for _ in range(int(rng.choice([1, 5, 40]))):
                parent[key] = [parent[key]]
        else:
            parent[key] = copy.deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])
    return plain


def _places(value):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def mutated_document(rng, data, *, indent):
    """JSON changed as bytes or as a value; as a value it keeps its canonical form."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, data)
    plain = mutated_json(rng, json.loads(data))
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(plain, sort_keys=True, indent=indent, separators=separators)
    return (text + ("" if indent is None else "\n")).encode()


def mutated_shard(rng, data, ranges, *, is_repaired):
    """A shard changed mostly in its metadata, whose checksums fit again where asked for."""
    data = bytearray(mutated_bytes(rng, data, ranges if rng.random() < 0.9 else None))
    if is_repaired:
        seal(data, [place for place in ranges if place[1] <= len(data)])
    return bytes(data)


def mutated_png(rng, data, *, is_repaired):
    """A PNG, whose chunks' checksums fit again where asked for."""
    data = bytearray(mutated_bytes(rng, data))
    place = 8
    while is_repaired and place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def mutated_recipe(rng, data, *, is_repaired):
    """A recipe changed in its file or in the text behind it; its digest fits where asked for."""
    head, body = data.split(b"\n", 1)
    if rng.random() < 0.3:
        body = mutated_bytes(rng, body)
    elif rng.random() < 0.3:
        body = gzip.compress(mutated_bytes(rng, gzip.decompress(body)), mtime=0)
    else:
        lines = gzip.decompress(body).splitlines()
        for _ in range(int(rng.integers(1, 3))):
            row = int(rng.integers(len(lines)))
            plain = mutated_json(rng, json.loads(lines[row]))
            lines[row] = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
        body = gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0)
    if is_repaired:
        head = head[:-64] + hashlib.sha256(body).hexdigest().encode()
    elif rng.random() < 0.2:
        head = mutated_bytes(rng, head)
    return head + b"\n" + body


def shard_ranges(data):
    """The metadata of a shard whose checksums can be put right."""
    ranges = sealed_ranges(data)
    assert len(ranges) > 40
    return ranges


def outcome(read, *, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES):
    """How reading goes in a forked child with limits.

    Returns:
        "success", "<name of a CutswapError>", or what must not be: "died: ..." or "raised: ...".
    """
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(source)
            os.write(target, _limited(read, timeout_s, memory_bytes).encode()[:8000])
        finally:
            os._exit(0)
    os.close(target)
    with open(source, "rb") as stream:
        text = stream.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"died: {signal.Signals(os.WTERMSIG(status)).name}"
    return text or "died: without a word"


def _limited(read, timeout_s, memory_bytes):
    # The default actions end the process even where it is busy inside a C library. Processor time
    # is what a busy machine leaves alone; the other clock ends a process that waits.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    signal.setitimer(signal.ITIMER_REAL, 10 * timeout_s)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, resource.RLIM_INFINITY))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        read()
    except CutswapError as error:
        text = str(error)
        if not text.isprintable() or len(text) > 1500:
            return f"raised: an error that is no plain line: {ascii(text)[:500]}"
        return type(error).__name__
    except BaseException:
        return "raised: " + "".join(traceback.format_exception(*sys.exc_info()))[-6000:]
    return "success"
