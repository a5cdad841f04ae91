"""`igd sql`: one SELECT over the catalog."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from igd_ray.arrow import Answer, printable
from igd_ray.catalog import Catalog, named_queries, named_query, run_query
from igd_ray.catalog.query import query_rows
from igd_ray.errors import InputError, first_line
from igd_ray.verbs.flags import add_catalog_flag
from igd_ray.verbs.output import show

if TYPE_CHECKING:
    import pyarrow as pa


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("statement", nargs="?", default=None, help="one SELECT, EXPLAIN or DESCRIBE statement")
    parser.add_argument(
        "--file", default=None, help=f"a file with the statement, or one that ships: {', '.join(named_queries())}"
    )
    add_catalog_flag(parser)
    parser.add_argument(
        "--format",
        choices=["table", "csv", "json", "parquet", "md", "tex"],
        default="table",
        help="of the rows (default: table)",
    )
    parser.add_argument("--output", metavar="FILE", default=None, help="where to write; required for parquet")


def run(arguments: argparse.Namespace) -> int:
    """Run the statement and print or write its rows."""
    if (arguments.statement is None) == (arguments.file is None):
        raise InputError('give one statement, as in igd sql "SELECT * FROM worst_case", or --file FILE')
    if arguments.format == "parquet" and arguments.output is None:
        raise InputError("--format parquet needs --output FILE")
    if arguments.format in ("table", "json") and arguments.output is not None:
        raise InputError("--output goes with --format csv, parquet, md or tex")
    catalog = Catalog(arguments.catalog)
    catalog.check()
    statement = arguments.statement if arguments.file is None else _read(arguments.file)
    if arguments.format in ("csv", "parquet"):
        table = run_query(catalog, statement)
        if arguments.format == "csv":
            _write_csv(table, arguments.output)
        else:
            import pyarrow as pa
            import pyarrow.parquet

            intervals = [field.name for field in table.schema if pa.types.is_interval(field.type)]
            if intervals:
                raise InputError(f"column {intervals[0]!r} holds intervals, which Parquet cannot; cast it to VARCHAR")
            _write(lambda: pyarrow.parquet.write_table(table, arguments.output), arguments.output)
        return 0
    answer = query_rows(catalog, statement)
    if arguments.format in ("md", "tex"):
        _write_text(answer, arguments.format, arguments.output)
    else:
        show(answer, as_json=arguments.format == "json")
    return 0


def _read(name: str) -> str:
    if name in named_queries():
        return named_query(name)
    path = Path(name)
    try:
        if not path.is_file():
            raise InputError(f"no statement at {path}; those that ship are {', '.join(named_queries())}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the statement at {path}: {error.strerror or first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the statement at {path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _write_csv(table: "pa.Table", output: str | None) -> None:
    import pyarrow as pa
    import pyarrow.csv

    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if nested:
        raise InputError(f"column {nested[0]!r} holds lists, which CSV cannot; use --format json or parquet")
    table = printable(table)
    if output is not None:
        _write(lambda: pyarrow.csv.write_csv(table, output), output)
    else:
        sys.stdout.flush()
        pyarrow.csv.write_csv(table, sys.stdout.buffer)


def _write_text(answer: Answer, form: str, output: str | None) -> None:
    from igd_ray.report.tables import shown
    from igd_ray.report.texts import grid_of_rows, latex_table, markdown_table

    cells = grid_of_rows(answer.dictionaries(), answer.names, shown)
    text = markdown_table(cells) if form == "md" else latex_table(cells)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(lambda: Path(output).write_text(text, encoding="utf-8"), output)


def _write(write: Callable[[], object], output: str) -> None:
    """Call `write`, which makes the file `output`.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        write()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else first_line(error)
        raise InputError(f"cannot write --output {output}: {reason}; name a file in a folder that exists") from error
