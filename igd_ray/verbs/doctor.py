"""`igd doctor`: is this machine ready, and if not, what to do."""

import argparse
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pyarrow as pa
from packaging.requirements import Requirement

from igd_ray.catalog import Catalog
from igd_ray.catalog.places import Folder, Place
from igd_ray.downloads import unreachable
from igd_ray.errors import IgdError, first_line
from igd_ray.report.tables import print_table
from igd_ray.verbs.flags import add_catalog_flag

OK, WARNING, PROBLEM = "ok", "warning", "problem"

# Ray's tokens work as described in docs/cluster.md from this version on.
LEAST_RAY = (2, 54)
LEAST_FREE_GIB = 5
DASHBOARD_PORT = 8265
LOOPBACKS = ("127.0.0.1", "localhost", "::1")
INSTALL = "run make, or pip install -r requirements.lock"
PACKAGES = ("torch", "torchvision", "ray", "robustbench", "pyautoattack", "open_clip_torch", "pyarrow", "duckdb")

# The doors to other people's models and data: by host, what comes from there, and what to give where it cannot.
DOORS = {
    "https://drive.google.com": ("most of robustbench:", "--weights FILE"),
    "https://github.com": ("robustbench: XCiT", "--weights FILE"),
    "https://www.cs.toronto.edu": ("cifar10, cifar100", "cifar10:DIR, or parquet:FILE"),
}
HUB, FROM_HUB = (
    "https://huggingface.co",
    ("timm:, hf:, CLIP by name", "--weights FILE, parquet:DIR, --clip-weights FILE"),
)

# Without a network, doctor says so after this long.
SECONDS_FOR_DOORS = 3.0


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, how it stands, and what to do about it."""

    what: str
    state: str
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_catalog_flag(parser)
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print every diagnosis; the exit code is 1 if there is a problem."""
    looks: list[Callable[[], list[Diagnosis]]] = [
        _python,
        _packages,
        _versions,
        _gpu,
        lambda: _catalog(arguments.catalog),
        _ray,
        _dashboard,
        _downloads,
    ]
    diagnoses = [diagnosis for look in looks for diagnosis in look()]
    if arguments.json:
        import json

        print(json.dumps([vars(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        print_table([vars(diagnosis) for diagnosis in diagnoses])
    return int(any(diagnosis.state == PROBLEM for diagnosis in diagnoses))


def _python() -> list[Diagnosis]:
    return [Diagnosis("python", OK, ".".join(map(str, sys.version_info[:3])))]


def _packages() -> list[Diagnosis]:
    found = []
    for package in PACKAGES:
        try:
            found.append(Diagnosis(package, OK, version(package)))
        except PackageNotFoundError:
            found.append(Diagnosis(package, PROBLEM, "not installed", INSTALL))
    return found


def _versions() -> list[Diagnosis]:
    """Compare what is installed with what this package asks for."""
    wrong = []
    for line in requires("igd-ray") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = "none"
        if installed == "none" or not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed}, not {requirement.specifier}")
    if wrong:
        return [Diagnosis("versions", PROBLEM, "; ".join(wrong), INSTALL)]
    return [Diagnosis("versions", OK, "as igd-ray asks for")]


def _gpu() -> list[Diagnosis]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch wants is missing
        return [Diagnosis("gpu", PROBLEM, f"unknown: torch cannot be imported ({first_line(error)})", INSTALL)]
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return [Diagnosis("gpu", OK, names)]
    return [Diagnosis("gpu", OK, "none; attacks run on the CPU")]


def _catalog(name: str) -> list[Diagnosis]:
    """Look whether results can be written to the catalog `name` by writing something, and whether there is room."""
    try:
        catalog = Catalog(name)
        catalog.check_usable()
        if isinstance(catalog.place, Folder):
            return _folder(catalog.place.root)
        _write_and_delete(catalog.place)
    except (IgdError, OSError, pa.ArrowException) as error:
        advice = "choose another place with --catalog; in a bucket, allow these credentials to read, write and delete"
        return [Diagnosis("catalog", PROBLEM, f"{name}: {first_line(error)}", advice)]
    return [Diagnosis("catalog", OK, f"{name} can be written")]


def _write_and_delete(place: Place) -> None:
    name = f".igd-doctor-{uuid.uuid4().hex}"
    place.write(name, b"")
    place.delete(name)
    if place.exists(name):
        raise IgdError(f"{name} was written, but cannot be deleted")


def _folder(folder: Path) -> list[Diagnosis]:
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 2**30
    state = OK if free >= LEAST_FREE_GIB else WARNING
    advice = "" if state == OK else f"free some space: points of 5000 ImageNet images take about {LEAST_FREE_GIB} GiB"
    diagnoses = [Diagnosis("disk", state, f"{free:.0f} GiB free at {existing}", advice)]
    try:
        with tempfile.TemporaryFile(dir=existing):
            diagnoses.append(Diagnosis("catalog", OK, f"{folder} can be written"))
    except OSError as error:
        advice = "choose another folder with --catalog, or change its permissions"
        diagnoses.append(Diagnosis("catalog", PROBLEM, f"{folder}: {error.strerror}", advice))
    return diagnoses


def _ray() -> list[Diagnosis]:
    diagnoses = []
    try:
        installed = tuple(int(part) for part in version("ray").split(".")[:2])
    except PackageNotFoundError:  # `_packages` tells; addresses and tokens are worth a look all the same
        installed = LEAST_RAY
    if installed < LEAST_RAY:
        advice = "install ray 2.54 or newer: older versions have no tokens"
        diagnoses.append(Diagnosis("ray version", PROBLEM, version("ray"), advice))
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http"):
        advice = "unset it; for `ray job submit` set RAY_API_SERVER_ADDRESS instead"
        diagnoses.append(Diagnosis("ray address", PROBLEM, f"RAY_ADDRESS={address}", advice))
    else:
        found = f"RAY_ADDRESS={address}" if address else "a local Ray on the loopback, ended with the command"
        diagnoses.append(Diagnosis("ray address", OK, found))
    diagnoses.append(_token())
    return diagnoses


def _token() -> Diagnosis:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    in_words = bool(os.environ.get("RAY_AUTH_TOKEN"))
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if mode != "token":
        named = [os.environ.get("RAY_ADDRESS", ""), os.environ.get("RAY_API_SERVER_ADDRESS", "")]
        clusters = [address for address in named if address not in ("", "local")]
        if not clusters:
            return Diagnosis("ray token", OK, "not needed for a local Ray")
        advice = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node, and restart its Ray"
        state = WARNING if all(map(_is_on_loopback, clusters)) else PROBLEM
        return Diagnosis("ray token", state, f"no token authentication for {' and '.join(clusters)}", advice)
    if in_words:
        return Diagnosis("ray token", OK, "set")
    if not file.is_file():
        advice = "set RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
        return Diagnosis("ray token", PROBLEM, f"RAY_AUTH_MODE=token, but no token at {file}", advice)
    if file.stat().st_mode & 0o077:
        return Diagnosis("ray token", PROBLEM, f"{file} can be read by others", f"chmod 600 {file}")
    return Diagnosis("ray token", OK, "set")


def _dashboard() -> list[Diagnosis]:
    """Look where jobs would be submitted to, and whether a dashboard here listens beyond the loopback."""
    advice = "start the head with --dashboard-host 127.0.0.1 and reach it through `ray dashboard` or ssh -L"
    api = os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if api and not _is_on_loopback(api):
        found = f"RAY_API_SERVER_ADDRESS={api}: tokens would cross the network unencrypted"
        return [Diagnosis("ray dashboard", PROBLEM, found, advice)]
    port = (_split(api).port if api else None) or DASHBOARD_PORT
    if _listens_beyond_loopback(port):
        return [Diagnosis("ray dashboard", PROBLEM, f"port {port} is open to the network", advice)]
    return [Diagnosis("ray dashboard", OK, "not open to the network")]


def _downloads() -> list[Diagnosis]:
    """Look through which doors models and data can be downloaded; all that is needed may be here already."""
    hub = os.environ.get("HF_ENDPOINT") or HUB
    doors = {hub: FROM_HUB, **DOORS}
    closed = unreachable(list(doors), seconds=SECONDS_FOR_DOORS)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        closed[hub] = "closed by HF_HUB_OFFLINE"
    return [
        Diagnosis(f"download {what}", WARNING, f"{address}: {closed[address]}", f"bring the files: {instead}")
        if address in closed
        else Diagnosis(f"download {what}", OK, f"{address} answers")
        for address, (what, instead) in doors.items()
    ]


def _is_on_loopback(address: str) -> bool:
    """Tell whether `address` is a URL or HOST:PORT of the loopback; "auto" and what cannot be read are not."""
    try:
        parts = _split(address)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return False
    return parts.hostname in LOOPBACKS


def _split(address: str) -> SplitResult:
    return urlsplit(address if "//" in address else f"//{address}")


def _listens_beyond_loopback(port: int) -> bool:
    """Tell whether something on this machine listens at `port` of another address than the loopback's (Linux)."""
    for table, loopbacks in (("tcp", ("0100007F",)), ("tcp6", ("0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"))):
        try:
            lines = Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            place, state = line.split()[1], line.split()[3]
            address, _, hexadecimal = place.partition(":")
            if state == "0A" and int(hexadecimal, 16) == port and address not in loopbacks:
                return True
    return False
