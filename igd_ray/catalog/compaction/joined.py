"""Parquet files joined into one by copying their pages: the values in them are neither decoded nor encoded.

The footer of a Parquet file is a struct in Thrift's compact protocol (https://github.com/apache/thrift, file
doc/specs/thrift-compact-protocol.md), with the fields of parquet.thrift (https://github.com/apache/parquet-format).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from igd_ray.arrow import pa, pq
from igd_ray.catalog.sealed import SEAL, block_digests, seal_entry, with_seal

# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_I64 = 6

# A struct: its fields by their numbers, each with its type. A list: the type of its items, and these.
Struct = dict[int, tuple[int, Any]]

# Of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_SCHEMA, _ROWS, _GROUPS, _ENTRIES = 2, 3, 4, 5
_COLUMNS, _GROUP_ROWS, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_CHUNK_OFFSET, _META = 2, 3
_PAGE_OFFSETS = (9, 10, 11)
# What lies behind the data, and is not copied: offsets and lengths of indexes, and of Bloom filters.
_CHUNK_INDEXES, _META_INDEXES = (4, 5, 6, 7), (14, 15)

_MAGIC = b"PAR1"


class NotJoinedError(Exception):
    """A file has another form than those that igd-ray writes today: its rows are to be read and written anew."""


class Piece(NamedTuple):
    """A Parquet file with one row group, or none.

    Attributes:
        data: all bytes before its footer.
        footer: what this says.
    """

    data: bytes
    footer: Struct

    @property
    def rows(self) -> int:
        """How many rows it has."""
        rows: int = self.footer[_ROWS][1]
        return rows


def piece_of(data: bytes, footer: bytes, schema: pa.Schema) -> Piece:
    """Return the Parquet file of `schema` that is `data` and then `footer`, both verified, as one to be joined.

    Raises:
        NotJoinedError: if it cannot be joined by copying.
    """
    try:
        found = _struct_of(footer)
    except IndexError:
        raise NotJoinedError from None
    if found[_SCHEMA] != _columns_of(schema) or len(found[_GROUPS][1][1]) > 1:
        raise NotJoinedError
    if any(_META not in column for group in found[_GROUPS][1][1] for column in group[_COLUMNS][1][1]):
        raise NotJoinedError
    return Piece(data, found)


def joined_parquet(name: str, pieces: Sequence[Piece], schema: pa.Schema) -> bytes:
    """Return the sealed Parquet file `name` that has the row groups of `pieces`, in order.

    Args:
        name: where it will be in the catalog.
        pieces: each of `schema`.
        schema: the table's.
    """
    file = _struct_of(_footer_of_no_rows(schema))
    data = bytearray(_MAGIC)
    groups: list[Struct] = []
    for piece in pieces:
        for group in piece.footer[_GROUPS][1][1]:
            groups.append(_shifted_group(group, len(data) - len(_MAGIC)))
        data += memoryview(piece.data)[len(_MAGIC) :]
    file[_ROWS] = _I64, sum(piece.rows for piece in pieces)
    file[_GROUPS] = _LIST, (_STRUCT, groups)
    seal = seal_entry(len(data), block_digests(memoryview(data)))
    _, (_, entries) = file[_ENTRIES]
    entries.append({1: (_BINARY, SEAL.encode()), 2: (_BINARY, seal.encode())})
    footer = bytearray()
    _put_struct(footer, file)
    content = b"".join((data, footer, len(footer).to_bytes(4, "little"), _MAGIC))
    return with_seal(name, content, len(data))


@lru_cache
def _footer_of_no_rows(schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema):
        pass
    return buffer.getvalue()


@lru_cache
def _columns_of(schema: pa.Schema) -> tuple[int, Any]:
    """Return how a footer describes the columns of a schema."""
    return _struct_of(_footer_of_no_rows(schema))[_SCHEMA]


def _shifted_group(group: Struct, shift: int) -> Struct:
    """Return a row group whose pages lie `shift` bytes further on, without what lies behind the pages."""
    kind, (item, columns) = group[_COLUMNS]
    columns = [
        _shifted(column, (_CHUNK_OFFSET,), shift, without=_CHUNK_INDEXES)
        | {_META: (_STRUCT, _shifted(column[_META][1], _PAGE_OFFSETS, shift, without=_META_INDEXES))}
        for column in columns
    ]
    return _shifted(group, (_GROUP_OFFSET,), shift, without=(_ORDINAL,)) | {_COLUMNS: (kind, (item, columns))}


def _shifted(struct: Struct, numbers: Sequence[int], shift: int, *, without: Sequence[int]) -> Struct:
    # Some offsets are zero where there is nothing; no page lies before the mark at the beginning.
    return {
        number: (kind, value + shift if number in numbers and value > 0 else value)
        for number, (kind, value) in struct.items()
        if number not in without
    }


def _struct_of(tail: bytes) -> Struct:
    """Return the footer that ends `tail`, as a struct."""
    length = int.from_bytes(tail[-8:-4], "little")
    return _Reader(tail, len(tail) - 8 - length).struct()


class _Reader:
    def __init__(self, content: bytes, position: int) -> None:
        self._content, self._position = content, position

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while header := self._byte():
            kind, step = header & 15, header >> 4
            number = number + step if step else self._integer()
            fields[number] = kind, kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            header = self._byte()
            count = header >> 4 if header >> 4 < 15 else self._varint()
            item = header & 15
            return item, [self._byte() if item in (_TRUE, _FALSE) else self._value(item) for _ in range(count)]
        if kind == _BYTE:
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise NotJoinedError

    def _byte(self) -> int:
        self._position += 1
        return self._content[self._position - 1]

    def _bytes(self, length: int) -> bytes:
        self._position += length
        return self._content[self._position - length : self._position]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def _put_struct(out: bytearray, struct: Mapping[int, tuple[int, Any]]) -> None:
    last = 0
    for number in sorted(struct):
        kind, value = struct[number]
        if kind in (_TRUE, _FALSE):
            kind = _TRUE if value else _FALSE
        if number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _put_varint(out, _zigzag(number))
        last = number
        if kind not in (_TRUE, _FALSE):
            _put_value(out, kind, value)
    out.append(0)


def _put_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in _INTEGERS:
        _put_varint(out, _zigzag(value))
    elif kind == _BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == _STRUCT:
        _put_struct(out, value)
    elif kind in (_LIST, _SET):
        item, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | item)
        else:
            out.append(15 << 4 | item)
            _put_varint(out, len(values))
        for each in values:
            if item in (_TRUE, _FALSE):
                out.append(each)
            else:
                _put_value(out, item, each)
    elif kind == _BYTE:
        out.append(value)
    else:
        out += value


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _zigzag(value: int) -> int:
    return value << 1 ^ value >> 63
