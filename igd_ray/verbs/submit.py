"""`igd submit VERB …`: the verb as a job on a Ray cluster, with its log here."""

import argparse
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import yaml

from igd_ray.attacks.own import model_and_weights
from igd_ray.cluster.jobs import run_job
from igd_ray.config import SETTINGS, load_settings
from igd_ray.errors import InputError, did_you_mean
from igd_ray.models import model_sources
from igd_ray.models.sources import factory_file
from igd_ray.values.environment import environment_settings
from igd_ray.values.file_parts import PART, file_and_part
from igd_ray.values.plain_yaml import read_yaml
from igd_ray.verbs.flags import MOVED, Parser, given_settings

# Verbs that read a catalog and take no settings file: their flags that take a value.
READERS = {
    "report": ("catalog", "run_id", "format", "output"),
    "verify": ("catalog", "run_id", "sample", "device", *MOVED),
}
VERBS = (*SETTINGS, *READERS)

# Settings that name a file of this machine, which goes along.
FILES = ("weights", "classes", "prompts", "clip", "clip_weights")

# What Ray takes as a working directory.
MOST_BYTES = 100 * 2**20

DEFAULT_ADDRESS = "http://127.0.0.1:8265"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS),
        help=f"the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, or {DEFAULT_ADDRESS})",
    )
    parser.add_argument("job", nargs=argparse.REMAINDER, metavar="VERB …", help=f"{', '.join(VERBS)}, with its flags")


def run(arguments: argparse.Namespace) -> int:
    """Submit, follow the log, and end with the job's exit code."""
    words: list[str] = arguments.job
    if not words or words[0] not in VERBS:
        came = repr(words[0]) if words else "nothing"
        raise InputError(
            f"igd submit takes one of {', '.join(VERBS)}, not {came}{did_you_mean(words[0], VERBS) if words else ''}"
        )
    verb = words[0]
    with tempfile.TemporaryDirectory(prefix="igd-submit-") as name:
        folder = Path(name)
        entrypoint = [*("python", "-m", "igd_ray.cli", verb), *stage(verb, words[1:], folder)]
        return run_job(arguments.address, folder, entrypoint, name=f"igd-{verb}-{uuid.uuid4().hex[:8]}")


def stage(verb: str, words: list[str], folder: Path) -> list[str]:
    """Put code and input files of a job into `folder`; return the flags that the verb gets there.

    Raises:
        InputError: for flags that cannot be used, a path that the cluster would not have, or too large files.
    """
    command = import_module(f"igd_ray.verbs.{verb}")
    parser = Parser(prog=f"igd {verb}", argument_default=argparse.SUPPRESS, allow_abbrev=False)
    command.add_arguments(parser)
    arguments = parser.parse_args(words)
    flags = [flag for flag, name in (("--json", "json"), ("--dry-run", "dry_run")) if getattr(arguments, name, False)]
    flags += [f"--gate={gate}" for gate in getattr(arguments, "gate", [])]
    if getattr(arguments, "junit", None) is not None:
        _require_absolute("--junit", arguments.junit)
        flags.append(f"--junit={arguments.junit}")
    for flag in ("compare", "show", "top", "figure"):
        if getattr(arguments, flag, None) is not None:
            raise InputError(
                f"--{flag} only prints what is there; run igd {verb} here, with the catalog of the cluster"
            )
    if verb in READERS:
        values: dict[str, object] = {name: getattr(arguments, name, None) for name in READERS[verb]}
        values = {name: value for name, value in values.items() if value is not None}
        _require_absolute("--output", str(values.get("output", "/")))
        _require_reachable_data(str(values.get("data", "")))
        flags += [f"--{name.replace('_', '-')}={value}" for name, value in _take_along(values, folder).items()]
    else:
        if "import_from" in arguments:
            raise InputError("igd rank --import-from computes nothing; run it here, with the catalog of the cluster")
        given = read_yaml(arguments.config) if arguments.config is not None else {}
        values = {**environment_settings(), **given, **given_settings(arguments)}
        load_settings(SETTINGS[verb], file=None, given=values)
        _require_reachable_data(str(values.get("data", "")))
        values = _take_along(values, folder)
        (folder / "settings.yaml").write_text(yaml.safe_dump(values))
        flags.append("--config=settings.yaml")
        flags += [str(values[name]) for name in ("trained", "analysis") if name in values]
    _require_absolute("--catalog", str(values.get("catalog", "results")))
    _copy_code(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise InputError(
            f"code and input files of the job are {size / 2**20:.0f} MiB, Ray takes {MOST_BYTES >> 20}; put the "
            "weights on storage that every node has, and name them by an absolute path there"
        )
    return flags


def _require_absolute(flag: str, place: str) -> None:
    if "://" not in place and not Path(place).is_absolute():
        raise InputError(
            f"{flag} {place}: a job runs in a copy of its folder, which is deleted; give an absolute path on storage "
            "that every node shares, or a URI such as s3://BUCKET/results"
        )


def _require_reachable_data(spec: str) -> None:
    kind, _, place = spec.partition(":")
    if place and kind not in ("digits", "hf"):
        _require_absolute("--data", place)


def _take_along(values: dict[str, object], folder: Path) -> dict[str, object]:
    """Copy the files that `values` name into `folder`; return the values with the copies' names."""
    values = dict(values)
    for name in FILES:
        file = values.get(name)
        path = file_and_part(file)[0] if isinstance(file, str) else None
        if isinstance(file, str) and path is not None and path.is_file():
            values[name] = _take_weights(file, folder)
            beside = Path(file).with_suffix(".safetensors")
            if name == "clip" and "clip_weights" not in values and beside.is_file():
                values["clip_weights"] = _copy([beside], folder)
    if factory_file(str(values.get("model", ""))) is not None:
        values["model"] = _take_code(str(values["model"]), folder)
    if "points" in values:
        values["points"] = ",".join(_with_points(str(entry).strip(), folder) for entry in _listed(values["points"]))
    for name in ("defenses", "attacks", "method"):
        if name in values:
            values[name] = ",".join(_with_code(str(entry).strip(), folder) for entry in _listed(values[name]))
    return values


def _listed(entries: object) -> Sequence[object]:
    return entries if isinstance(entries, list) else str(entries).split(",")


def _with_points(entry: str, folder: Path) -> str:
    """Return FILE or NAME=FILE with a copy of the file."""
    name, equals, place = entry.rpartition("=")
    file, part = file_and_part(place)
    return f"{name}{equals}{_copy([file], folder)}" + (f"{PART}{part}" if part else "")


def _with_code(entry: str, folder: Path) -> str:
    """Return `entry`; where it is NAME=FILE.py:FACTORY or NAME@FILE.py:FACTORY, with a copy of the file's code."""
    name, separator, spec = entry.partition("=" if "=" in entry else "@")
    return f"{name}{separator}{_take_code(spec, folder)}" if separator else entry


def _take_code(spec: str, folder: Path) -> str:
    """Copy what FILE.py:FACTORY or FILE.py:FACTORY#WEIGHTS names, and what the code imports; return the copy's spec."""
    spec, weights = model_and_weights(spec)
    file, _, name = spec.rpartition(":")
    taken = f"{_copy(list(model_sources(Path(file)).values()), folder)}:{name}"
    return taken if weights is None else f"{taken}{PART}{_take_weights(weights, folder)}"


def _take_weights(weights: str, folder: Path) -> str:
    """Copy FILE of FILE or FILE#KEY; return the same of the copy."""
    path, part = file_and_part(weights)
    return _copy([path], folder) + (f"{PART}{part}" if part else "")


def _copy(files: Sequence[Path], folder: Path) -> str:
    """Copy `files` into one folder named by their content; return the first one's name relative to `folder`."""
    digest = hashlib.sha256()
    contents = {}
    for file in files:
        try:
            contents[file.name] = file.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from error
        digest.update(hashlib.sha256(contents[file.name]).digest())
    target = folder / "inputs" / digest.hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (target / name).write_bytes(content)
    return str((target / files[0].name).relative_to(folder))


def _copy_code(folder: Path) -> None:
    """Copy this package, so that every node runs the code of this machine."""
    package = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(package, folder / "igd_ray", ignore=ignored)
    queries = package.parent / "catalog"
    if not (package / "sql").is_dir():  # a checkout rather than an installed package
        shutil.copytree(queries, folder / "catalog", ignore=ignored)
