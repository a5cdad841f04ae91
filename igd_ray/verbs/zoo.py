"""`igd zoo`: which models of RobustBench's zoo the ranking and the defense work with, and a check of each."""

import argparse
import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.report.tables import print_table

# What `igd zoo --check --output igd_ray/models/zoo.json` wrote in the repository's root. Read as a file, because
# `igd_ray.models` imports PyTorch, and a list should not wait for it.
TABLE = Path(__file__).parents[1] / "models" / "zoo.json"

Row = Mapping[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default=None,
        metavar="PATTERN",
        help="which models: part of DATASET/THREAT/NAME, or a glob such as 'cifar100/*_RN18' (default: all)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        default=False,
        help="build each model untrained, without a download, and try ranking and defense on it; "
        "exit code 1 if one that is listed as supported fails",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        default=None,
        help="with --check: write the listed table, with the rows found, as JSON; what an interrupted check found "
        "is kept in FILE.partial, and the same command goes on from there",
    )
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the shipped table, or check the models and print what is found."""
    if arguments.output is not None and not arguments.check:
        raise InputError("--output goes with --check")
    listed: list[Row] = json.loads(TABLE.read_text(encoding="utf-8"))["models"]
    if arguments.check:
        try:
            return _check(listed, arguments)
        except KeyboardInterrupt as interrupt:
            if arguments.output is not None:
                raise  # the rows found are kept, as everywhere
            raise type(interrupt)("stopped; with --output FILE a check goes on where it was stopped") from None
    rows = matching(listed, arguments.pattern)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table([{**row, "supported": _yes(row)} for row in rows])
        print(_summary(rows))
    return 0


def matching(rows: Sequence[Row], pattern: str | None) -> list[Row]:
    """Return the rows whose DATASET/THREAT/NAME contains `pattern` or, as a glob, is matched by it; case is ignored.

    Raises:
        InputError: if there is none, with the names that are close.
    """
    if pattern is None:
        return list(rows)
    wanted = pattern.lower()
    is_glob = any(character in pattern for character in "*?[")

    def fits(row: Row) -> bool:
        name, spec = str(row["name"]).lower(), _spec(row).lower()
        if is_glob:
            return fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(spec, wanted)
        return wanted in spec

    found = [row for row in rows if fits(row)]
    if not found:
        known = {str(row["name"]) for row in rows}
        raise InputError(
            f"no model of the zoo matches {pattern!r}; expected part of DATASET/THREAT/NAME or a glob"
            f"{did_you_mean(pattern.rpartition('/')[2], known)}"
        )
    return found


def _check(listed: Sequence[Row], arguments: argparse.Namespace) -> int:
    # These import PyTorch and RobustBench.
    from igd_ray.execution.queue import Progress
    from igd_ray.models.zoo import zoo_entries
    from igd_ray.units.base import UnitReport
    from igd_ray.verification.zoo import IMAGES, check_entries

    entries = {(entry.dataset, entry.threat, entry.name): entry for entry in zoo_entries()}
    chosen = matching([vars(entry) for entry in entries.values()], arguments.pattern)
    wanted = [_key(row) for row in chosen]
    partial = None if arguments.output is None else _Partial(Path(arguments.output))
    found = {key: row for key, row in (partial.read() if partial else {}).items() if key in wanted}
    width = max(len(name) for _, _, name in wanted)
    if not arguments.json:
        print(_line("dataset", "threat", "name", "family", "supported", "width", "parameters", "seconds", pad=width))
    todo = [entries[key] for key in wanted if key not in found]
    with Progress("zoo", done=len(found), total=len(wanted)) as progress:
        for finding, seconds in check_entries(todo):
            row: Row = vars(finding)
            found[_key(row)] = row
            if partial:
                partial.append(row)
            if not arguments.json:
                cells = (*_key(row), row["family"], _yes(row), row["width"], row["parameters"], f"{seconds:.1f}")
                print(_line(*cells, pad=width) + (f"  {row['reason']}" if row["reason"] else ""), flush=True)
            progress.advance(UnitReport("/".join(_key(row)), "zoo", IMAGES, seconds))
    checked = [found[key] for key in wanted]
    if partial:
        table = {**{_key(row): row for row in listed}, **found}
        partial.finish([table[key] for key in entries if key in table])
    claimed = {_key(row) for row in listed if row["supported"]}
    lost = [row for row in checked if not row["supported"] and _key(row) in claimed]
    if arguments.json:
        print(json.dumps(checked, indent=2))
    else:
        print(_summary(checked))
        for row in lost:
            print(f"listed as supported, but is not: {_spec(row)}: {row['reason']}")
    return int(bool(lost))


class _Partial:
    """The table that a check writes, and beside it, until it is whole, the rows found so far, one per line."""

    def __init__(self, output: Path) -> None:
        if not output.parent.is_dir():
            raise InputError(f"cannot write --output {output}: there is no folder {output.parent}")
        self._output = output
        self._path = output.with_name(f"{output.name}.partial")
        # Rows found with other versions are another table's.
        self._header = json.dumps(_versions())

    def read(self) -> dict[tuple[str, ...], Row]:
        """Return the rows of an interrupted check; begin anew where there are none of these versions."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        if lines[:1] != [self._header]:
            self._write(self._path, self._header + "\n")
            return {}
        rows = []
        for line in lines[1:]:
            try:
                rows.append(json.loads(line))
            except ValueError:  # the line that the interruption cut
                break
        self._write(self._path, "".join(line + "\n" for line in [self._header, *map(json.dumps, rows)]))
        return {_key(row): row for row in rows}

    def append(self, row: Row) -> None:
        """Keep one more row."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the whole table under its name."""
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        self._write(self._path, f'{{"versions": {self._header}, "models": [\n{lines}\n]}}\n')
        self._path.replace(self._output)

    def _write(self, path: Path, text: str) -> None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else first_line(error)
            raise InputError(f"cannot write --output {self._output}: {reason}") from error


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("robustbench", "timm", "torch", "torchvision")}


def _key(row: Row) -> tuple[str, str, str]:
    return str(row["dataset"]), str(row["threat"]), str(row["name"])


def _spec(row: Row) -> str:
    return "/".join(_key(row))


def _yes(row: Row) -> str:
    return "yes" if row["supported"] else "no"


def _summary(rows: Iterable[Row]) -> str:
    supported = [bool(row["supported"]) for row in rows]
    return f"{sum(supported)} of {len(supported)} supported"


def _line(*cells: object, pad: int) -> str:
    dataset, threat, name, family, supported, width, parameters, seconds = ("" if c is None else c for c in cells)
    return (
        f"{dataset:8}  {threat:6}  {name:{pad}}  {family:15}  {supported:9}  {width:>5}  {parameters:>10}  {seconds:>7}"
    )
