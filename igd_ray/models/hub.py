"""Models of the Hugging Face hub: safetensors with timm's configuration, or with a file whose factory builds them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from igd_ray.downloads import HubRepository, check_hub_file
from igd_ray.errors import InputError
from igd_ray.models.sources import HUB

CONFIG = "config.json"

# The weights that are taken where there are several.
PREFERRED = "model.safetensors"

SPEC = re.compile(
    re.escape(HUB)
    + r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?(:(?P<file>[\w./-]+\.py):(?P<factory>\w+))?"
)


class HubModel(NamedTuple):
    """What a repository has of a model.

    Attributes:
        factory: FILE.py:factory in the hub's cache, where code was named.
        config: what stands in `config.json`, where none was.
        weights: the safetensors, if they were asked for.
    """

    factory: str | None
    config: Mapping[str, Any]
    weights: Path | None


def find_on_hub(spec: str, *, needs_weights: bool) -> HubModel:
    """Download what `hf:OWNER/NAME[@REVISION][:FILE.py:factory]` names, note its commit, and return where it is.

    Code runs only where its file is named. The modules beside it come along.

    Raises:
        InputError: if the spec is another, there is no such repository or file, a download fails or is damaged, or the
            repository holds neither timm's configuration nor the code that is named.
    """
    matched = SPEC.fullmatch(spec)
    if matched is None:
        raise InputError(
            f"model spec {spec!r} must be hf:OWNER/NAME, with @REVISION behind it, and :FILE.py:factory to run its code"
        )
    instead = "download its files and give them as FILE.py:factory with --weights"
    repository = HubRepository(matched["repository"], "model", matched["revision"], spec, instead)
    names = repository.files()
    factory: str | None = None
    config: Mapping[str, Any] = {}
    if matched["file"] is not None:
        factory = f"{_with_neighbours(repository, matched['file'], names)}:{matched['factory']}"
    else:
        config = _config(repository, names)
    weights = None
    if needs_weights:
        name = _weights_among(spec, names)
        weights = repository.file(name)
        check_hub_file(weights, f"{HUB}{repository.name}, {name}")
    return HubModel(factory, config, weights)


def _with_neighbours(repository: HubRepository, file: str, names: list[str]) -> Path:
    """Download the code in `file` and the modules beside it, and return where the file is."""
    if file not in names:
        code = [name for name in names if name.endswith(".py")]
        raise InputError(f"{repository.spec}: there is no {file}; its Python files: {', '.join(code) or 'none'}")
    folder = PurePosixPath(file).parent
    for name in names:
        if name.endswith(".py") and PurePosixPath(name).parent == folder:
            repository.file(name)
    return repository.file(file)


def _config(repository: HubRepository, names: list[str]) -> Mapping[str, Any]:
    if CONFIG in names:
        try:
            config = json.loads(repository.file(CONFIG).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{repository.spec}: its {CONFIG} cannot be read: {error}") from None
        if isinstance(config, Mapping) and "architecture" in config:
            return config
    code = [name for name in names if name.endswith(".py")]
    advice = f"; if you trust its code, name its factory: {repository.spec}:{code[0]}:FACTORY" if code else ""
    raise InputError(f"{repository.spec} has no {CONFIG} of timm's, which names the architecture{advice}")


def _weights_among(spec: str, names: list[str]) -> str:
    found = [name for name in names if name.endswith(".safetensors")]
    if PREFERRED in found:
        return PREFERRED
    if len(found) != 1:
        has = ", ".join(found) or "none"
        raise InputError(f"{spec}: expected one safetensors file, found {has}; download yours and pass --weights FILE")
    return found[0]
