"""The form of the catalog's files: Parquet whose footer holds digests of every byte, verified wherever one is read.

The footer has the entry ``igd_seal``: the seal, then the length of the data before the footer, then a digest of each
block of that data. The seal is the SHA-256 of the file's name in the catalog and of all bytes from the end of the data
to the end of the file, with zeros in its own place. So a changed, cut, renamed, exchanged or copied file is found, and
few rows of a large file are read, verified, without the rest of it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from igd_ray.arrow import pa, pq
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.errors import first_line

BLOCK_BYTES = 2**18

# Read at once from the end of a file: the whole of a small one, and the footer of nearly every other.
TAIL_BYTES = 2**16

# Most pixels of an adversarial point lie at the image's ± epsilon, or at an end of [0, 1].
FEW_VALUES = ["pixels.list.element"]

SEAL, ROWS_OF_OTHERS = "igd_seal", "igd_rows_of_"

_SEAL_HEX, _LENGTH_HEX, _DIGEST_BYTES = 64, 16, 16
_ENTRY = re.compile(rb"igd_seal\x18[\x80-\xff]{0,4}[\x00-\x7f]([0-9a-f]{64})([0-9a-f]{16})((?:[0-9a-f]{32})*)")
_END = b"PAR1"


class DamagedError(Exception):
    """A file does not hold what igd-ray wrote under its name."""


class Source(Protocol):
    """A file's bytes, wherever they are."""

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the file.

        Raises:
            OSError: if they cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class UnavailableError(Exception):
    """A file's bytes could not be read just then, which proves nothing about them."""


class BytesSource:
    """Bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on."""
        return self._content[offset : offset + length]

    def close(self) -> None:
        """Keep the bytes: nothing is open."""


class Footer(NamedTuple):
    """What the end of a file says.

    Attributes:
        data: how many bytes come before it.
        digests: one for each block of these; None for a file that was written before files had seals.
        tail: all bytes after these.
    """

    data: int
    digests: bytes | None
    tail: bytes


def sealed_parquet(
    name: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    rows_of_others: Mapping[str, pa.Table] | None = None,
    dictionary: bool = False,
) -> bytes:
    """Return a Parquet file with a row group for each of `tables` that has rows.

    Args:
        name: where it will be in the catalog, as ``outcomes/KEY.parquet``.
        tables: rows of `schema`.
        schema: the table's.
        rows_of_others: rows of other tables, by table, that the file keeps beside its own.
        dictionary: whether repeated values are stored once in every column, which pays for many rows; where not, in
            `FEW_VALUES` alone.
    """
    # In memory first: whatever fails on the way to the disk is then an ordinary OSError.
    buffer = io.BytesIO()
    entries = {f"{ROWS_OF_OTHERS}{table}": _text(rows) for table, rows in (rows_of_others or {}).items()}
    with pq.ParquetWriter(
        buffer, schema, compression="zstd", use_dictionary=dictionary or FEW_VALUES, write_page_checksum=True
    ) as writer:
        for rows in tables:
            if len(rows):
                writer.write_table(rows, row_group_size=len(rows))
        data = buffer.tell()
        digests = block_digests(buffer.getbuffer()[:data])
        writer.add_key_value_metadata({**entries, SEAL: seal_entry(data, digests)})
    return with_seal(name, buffer.getvalue(), data)


def seal_entry(data: int, digests: bytes) -> str:
    """Return the text of the footer's entry, its seal still zeros."""
    return "0" * _SEAL_HEX + f"{data:0{_LENGTH_HEX}x}" + digests.hex()


def block_digests(data: memoryview[int]) -> bytes:
    """Return the digest of each block of `data`, one after another."""
    blocks = (data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES))
    return b"".join(_digest(block) for block in blocks)


def with_seal(name: str, content: bytes, data: int) -> bytes:
    """Return the file `content`, whose footer begins after `data` bytes, with its seal filled in."""
    tail = content[data:]
    entry = _ENTRY.search(tail, len(tail) - _footer_bytes(tail))
    assert entry is not None
    start = entry.start(1)
    return b"".join((content[:data], tail[:start], _seal(name, tail, start).encode(), tail[start + _SEAL_HEX :]))


def read_footer(source: Source, name: str) -> Footer:
    """Return the verified end of the file `name`.

    Raises:
        DamagedError: if it is not what igd-ray wrote under this name.
        UnavailableError: if it cannot be read.
    """
    size = source.size
    tail = _read(source, max(0, size - TAIL_BYTES), TAIL_BYTES)
    if len(tail) < 12 or tail[-4:] != _END:
        raise DamagedError("it is cut short, or not a Parquet file")
    begin = size - _footer_bytes(tail)
    if begin < 4:
        raise DamagedError("its footer is longer than the file")
    if begin < size - len(tail):
        tail = _read(source, begin, size - begin)
    entry = _ENTRY.search(tail, len(tail) - (size - begin))
    if entry is None:
        return Footer(begin, None, tail[len(tail) - (size - begin) :])
    data, digests = int(entry[2], 16), bytes.fromhex(entry[3].decode())
    if not 4 <= data <= begin or len(digests) != -(-data // BLOCK_BYTES) * _DIGEST_BYTES:
        raise DamagedError("its seal does not fit its length")
    if data < size - len(tail):
        tail = _read(source, data, size - data)
        entry = _ENTRY.search(tail, len(tail) - (size - begin))
        if entry is None:
            raise DamagedError("it changed while it was read")
    start = entry.start(1) - (len(tail) - (size - data))
    tail = tail[len(tail) - (size - data) :]
    if len(tail) != size - data or _seal(name, tail, start) != entry[1].decode():
        raise DamagedError("it is damaged, or holds what was written under another name")
    return Footer(data, digests, tail)


class SealedFile(io.RawIOBase):
    """A file for reading at any place, each byte verified before it is returned.

    Args:
        source: its bytes.
        name: its name in the catalog.
        footer: its verified end, where that was read from the same bytes before.

    Raises:
        DamagedError: if its footer is not what igd-ray wrote under this name; and so does reading, of the data.
        UnavailableError: if it cannot be read.
    """

    def __init__(self, source: Source, name: str, footer: Footer | None = None) -> None:
        self._source = source
        try:
            self.footer = read_footer(source, name) if footer is None else footer
        except BaseException:
            source.close()
            raise
        self.size = source.size
        self._position = 0
        self._verified: set[int] = set()

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` verified bytes from `offset` on, fewer at the end of the file."""
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        data = self.footer.data
        parts = []
        if offset < data:
            parts.append(self._data(offset, min(stop, data)))
        if stop > data:
            parts.append(self.footer.tail[max(offset - data, 0) : stop - data])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _data(self, offset: int, stop: int) -> bytes:
        blocks = range(offset // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        if self.footer.digests is None or self._verified.issuperset(blocks):
            return self._exactly(offset, stop)
        begin, end = blocks.start * BLOCK_BYTES, min(blocks.stop * BLOCK_BYTES, self.footer.data)
        found = self._exactly(begin, end)
        for block in blocks:
            if block not in self._verified:
                part = memoryview(found)[block * BLOCK_BYTES - begin : (block + 1) * BLOCK_BYTES - begin]
                expected = self.footer.digests[block * _DIGEST_BYTES : (block + 1) * _DIGEST_BYTES]
                if _digest(part) != expected:
                    raise DamagedError("some of its bytes have changed")
                self._verified.add(block)
        return found[offset - begin : stop - begin]

    def _exactly(self, offset: int, stop: int) -> bytes:
        found = _read(self._source, offset, stop - offset)
        if len(found) != stop - offset:
            raise DamagedError("it is shorter than when it was opened")
        return found

    def verify(self) -> None:
        """Read and verify all of it.

        Raises:
            DamagedError, UnavailableError: as reading does.
        """
        step = 16 * BLOCK_BYTES
        for start in range(0, self.footer.data, step):
            self.read_at(start, min(step, self.footer.data - start))

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, length: int | None = -1) -> bytes:
        """Return the next `length` bytes, or all that follow."""
        wanted = self.size - self._position if length is None or length < 0 else length
        found = self.read_at(self._position, wanted)
        self._position += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes and return how many came."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            self._source.close()
        super().close()


def _read(source: Source, offset: int, length: int) -> bytes:
    try:
        return source.read_at(offset, length)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise UnavailableError(first_line(error)) from error


def kept_rows(file: pq.ParquetFile) -> dict[str, pa.Table]:
    """Return the rows of other tables that a file keeps, by table.

    Raises:
        DamagedError: if they are not rows of such tables.
    """
    prefix = ROWS_OF_OTHERS.encode()
    kept = {}
    for name, text in file.metadata.metadata.items():
        if name.startswith(prefix):
            table = name.removeprefix(prefix).decode()
            try:
                kept[table] = pa.ipc.open_stream(base64.b64decode(text)).read_all()
                kept[table].validate(full=True)
            except (pa.ArrowException, ValueError) as error:
                raise DamagedError(f"the rows of {table} in it are damaged") from error
            if table not in SCHEMAS or kept[table].schema != SCHEMAS[table]:
                raise DamagedError("the rows of another table in it have another schema")
    return kept


def _text(rows: pa.Table) -> str:
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(buffer, rows.schema, options=options) as writer:
        writer.write_table(rows.combine_chunks())
    return base64.b64encode(buffer.getvalue()).decode()


def _seal(name: str, tail: bytes, start: int) -> str:
    """Return the seal of the file `name` that ends with `tail`, with zeros in the seal's place, from `start` on."""
    digest = hashlib.sha256(f"{name}\0".encode())
    digest.update(tail[:start])
    digest.update(b"0" * _SEAL_HEX)
    digest.update(tail[start + _SEAL_HEX :])
    return digest.hexdigest()


def _footer_bytes(tail: bytes) -> int:
    """Return the length of the Parquet footer at the end of `tail`, its own length and the last mark included."""
    return int.from_bytes(tail[-8:-4], "little") + 8


def _digest(block: memoryview[int]) -> bytes:
    return hashlib.sha256(block).digest()[:_DIGEST_BYTES]
