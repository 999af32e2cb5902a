"""Whether SQLite's write-ahead log is damaged, looked at before SQLite opens it.

After a crash most of what was acknowledged last stands in the file `…-wal`. SQLite reads it up to the first frame that is not as it
was written, takes everything after that for the torn end of a crash, and says nothing: a log whose first bytes are damaged is an
empty one to it. But each transaction is on the disk before the next one begins, so what a crash tears is part of one transaction at
most. When more than one follows the first bad frame, the log is damaged.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
import sys
from array import array
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_MAGIC: Final = 0x377F0682
"""Its lowest bit says which end of a number comes first in what is summed up."""
_32_BITS: Final = 0xFFFFFFFF
_PAGES: Final = range(512, 65536 + 1)

_Sums = tuple[int, int]


class _Log(NamedTuple):
    """The header of a log."""

    big_endian: bool
    page_size: int
    salts: _Sums
    """Of its present use; frames with others are left over from an earlier one."""
    sums: _Sums


def is_damaged(path: Path) -> bool:
    """Whether acknowledged changes in a write-ahead log cannot be read any more."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if not header:
            return False
        log = _log(header)
        return log is None or _bad_commits(file, log) > 1


def _log(header: bytes) -> _Log | None:
    """Read a header; None when it is not as it was written."""
    if len(header) < _HEADER.size:
        return None
    magic, _, page_size, _, salt1, salt2, *sums = _HEADER.unpack(header)
    log = _Log(bool(magic & 1), page_size, (salt1, salt2), (sums[0], sums[1]))
    good = magic & ~1 == _MAGIC and page_size in _PAGES and _summed(header[:24], (0, 0), log) == log.sums
    return log if good else None


def _bad_commits(file: BinaryIO, log: _Log) -> int:
    """Count the transactions that end at or after the first frame that is not as it was written."""
    sums, good, bad_commits = log.sums, True, 0
    while len(frame := file.read(_FRAME.size + log.page_size)) == _FRAME.size + log.page_size:
        _, is_commit, salt1, salt2, *written = _FRAME.unpack_from(frame)
        ours = (salt1, salt2) == log.salts
        if good and ours:
            sums = _summed(frame[_FRAME.size :], _summed(frame[:8], sums, log), log)
        good = good and ours and sums == (written[0], written[1])
        if ours and not good and is_commit:
            bad_commits += 1
    return bad_commits


def _summed(data: bytes, sums: _Sums, log: _Log) -> _Sums:
    words = array("I", data)
    if log.big_endian != (sys.byteorder == "big"):
        words.byteswap()
    first, second = sums
    pairs = iter(words)
    for one, two in zip(pairs, pairs, strict=True):
        first = (first + one + second) & _32_BITS
        second = (second + two + first) & _32_BITS
    return first, second
