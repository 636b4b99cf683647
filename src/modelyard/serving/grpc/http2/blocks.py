"""Header blocks to fields (RFC 7541). Tables and Huffman codes are the `hpack` library's.

Its own decoder makes objects, views and log calls for every field, 15 us each; clients that put a deadline or a trace
into every head (so that no head is like one before) would pay that for every call. A property test holds both equal.
"""

from __future__ import annotations

from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from modelyard.serving.grpc.http2.frames import DEFAULT_TABLE_BYTES, Code, Violation
from modelyard.serving.grpc.http2.limits import MAX_DECODED_HEADER_BYTES

Field = tuple[bytes, bytes]

_STATIC: Final = HeaderTable.STATIC_TABLE
_STATIC_LENGTH: Final = len(_STATIC)
FIELD_OVERHEAD: Final = 32
"""What a field counts beside its name and value (RFC 7541, section 4.1)."""


class CountingTable(HeaderTable):
    """The dynamic table, counting what was added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.added = 0

    @property
    def state(self) -> tuple[int, int, int]:
        """Equal before and after a block that changed nothing: entries only come (counted) and go."""
        return self.added, self.maxsize, len(self.dynamic_entries)

    def add(self, name: bytes, value: bytes) -> None:
        """Add an entry."""
        self.added += 1
        super().add(name, value)


def decode(block: bytes, table: CountingTable) -> tuple[list[Field], int]:
    """The fields of a whole block, and their size as HTTP/2 counts it; changes the table as the block says.

    Raises Violation, after which the table cannot be used any more.
    """
    try:
        return _decode(block, table)
    except (IndexError, HPACKError) as error:
        raise Violation("a header block cannot be decoded", code=Code.COMPRESSION_ERROR) from error


def _decode(block: bytes, table: CountingTable) -> tuple[list[Field], int]:
    fields: list[Field] = []
    at, size, total = 0, len(block), 0
    while at < size:
        first = block[at]
        if first & 0x80:
            index, at = integer(block, at, 0x7F)
            field = _entry(table, index)
        elif first & 0x60 == 0x20:
            if fields:
                raise HPACKError("a table size update after a field")
            limit, at = integer(block, at, 0x1F)
            if limit > DEFAULT_TABLE_BYTES:
                raise HPACKError("a table larger than allowed")
            table.maxsize = limit
            continue
        else:
            index, at = integer(block, at, 0x3F if first & 0x40 else 0x0F)
            if index:
                name = _entry(table, index)[0]
            else:
                name, at = _string(block, at)
            value, at = _string(block, at)
            field = (name, value)
            if first & 0x40:
                table.add(name, value)
        fields.append(field)
        total += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
        if total > MAX_DECODED_HEADER_BYTES:
            raise Violation("the header list is too large", code=Code.ENHANCE_YOUR_CALM)
    return fields, total


def _entry(table: CountingTable, index: int) -> Field:
    if 0 < index <= _STATIC_LENGTH:
        return _STATIC[index - 1]
    if index == 0:
        raise HPACKError("index 0")
    return table.dynamic_entries[index - _STATIC_LENGTH - 1]


def integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer in the low bits (`mask`) of the byte at `at` and maybe those behind it; and where it ends."""
    number = block[at] & mask
    at += 1
    if number != mask:
        return number, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 28:
            raise HPACKError("an integer beyond any use")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    huffman = block[at] & 0x80
    length, at = integer(block, at, 0x7F)
    stop = at + length
    if stop > len(block):
        raise HPACKError("a string beyond its block")
    text = block[at:stop]
    return bytes(decode_huffman(text)) if huffman else text, stop
