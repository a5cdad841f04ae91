"""Parquet files written and parsed once for each content, so that many simulated schedules fit into a minute."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog.compaction.joined import Piece
from igd_ray.catalog.sealed import BytesSource, Footer, SealedFile

Rows = Mapping[str, pa.Table]

# So many contents are kept.
MOST = 10_000


class OpenedFile:
    """A file as the catalog opens it, each content verified once; see `igd_ray.catalog.sealed.SealedFile`."""

    def __init__(self, source: BytesSource, name: str) -> None:
        self.content = source.read_at(0, source.size)
        self.footer = footer_of(name, self.content)

    def __enter__(self) -> "OpenedFile":
        return self

    def __exit__(self, *_error: object) -> None:
        return

    def read_at(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def verify(self) -> None:
        return


@lru_cache(maxsize=MOST)
def footer_of(name: str, content: bytes) -> Footer:
    """Return the end of a file, all of which is verified."""
    with SealedFile(BytesSource(content), name) as file:
        file.verify()
        return file.footer


class ParsedFile:
    """A Parquet file as the catalog reads it, each content parsed once."""

    def __init__(self, file: OpenedFile) -> None:
        self.content = file.content
        self.metadata, self.schema_arrow, self._groups = parsed(file.content)
        self.num_row_groups = len(self._groups)

    def __enter__(self) -> "ParsedFile":
        return self

    def __exit__(self, *_error: object) -> None:
        return

    def read(self, columns: list[str] | None = None) -> pa.Table:
        rows = pa.concat_tables(self._groups) if self._groups else self.schema_arrow.empty_table()
        return rows if columns is None else rows.select(columns)

    def read_row_group(self, number: int) -> pa.Table:
        return self._groups[number]

    def dictionaries(self) -> list[dict[str, object]]:
        return dictionaries_of(self.content)


@lru_cache(maxsize=MOST)
def parsed(content: bytes) -> tuple[pq.FileMetaData, pa.Schema, list[pa.Table]]:
    """Return what a Parquet file holds; the schedules write the same few files again and again."""
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.metadata, file.schema_arrow, [file.read_row_group(n) for n in range(file.num_row_groups)]


@lru_cache(maxsize=MOST)
def dictionaries_of(content: bytes) -> list[dict[str, object]]:
    """Return the rows that a Parquet file holds."""
    return [row for group in parsed(content)[2] for row in group.to_pylist()]


class Remembered:
    """A function of the catalog whose answers are kept, by what `key` makes of its arguments."""

    def __init__(self, function: Callable[..., object], key: Callable[..., object]) -> None:
        self._function, self._key, self._answers = function, key, dict[object, tuple[object, object]]()

    def __call__(self, *arguments: object, **named: object) -> object:
        key = self._key(*arguments, **named)
        if key not in self._answers:
            if len(self._answers) == MOST:
                self._answers.clear()
            # The arguments are kept, so that a key may be the address of one.
            self._answers[key] = self._function(*arguments, **named), arguments
        return self._answers[key][0]


def written(
    name: str, tables: Iterable[pa.Table], _schema: pa.Schema, *, rows_of_others: Rows | None = None, **_options: object
) -> object:
    others = {table: rows.to_pylist() for table, rows in (rows_of_others or {}).items()}
    return name, repr([rows.to_pylist() for rows in tables]), repr(others)


def kept(file: ParsedFile) -> object:
    return tuple(file.metadata.metadata.items())


def conformed(table: str, rows: pa.Table | list[dict[str, object]], key: str | None = None) -> object:
    return table, id(rows) if isinstance(rows, pa.Table) else repr(rows), key


def required(table: str, file: ParsedFile, _sealed: object) -> object:
    return table, file.content


def pieced(data: bytes, footer: bytes, _schema: pa.Schema) -> object:
    return data, footer


def joined(name: str, pieces: list[Piece], _schema: pa.Schema) -> object:
    return name, *(id(piece) for piece in pieces)
