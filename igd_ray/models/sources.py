"""Code of the user's: its file, the modules beside it that it imports, and what it does wrong, as one line."""

import ast
import builtins
import hashlib
import importlib.util
import inspect
import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import NoReturn

from igd_ray.errors import InputError, first_line

PACKAGE = __name__.partition(".")[0]

# What the names of the modules of such code begin with in this process.
MODULE_PREFIX = "igd_model_"


# What the specs of models and data sets on the Hugging Face hub begin with.
HUB = "hf:"


def factory_file(spec: str) -> Path | None:
    """Return the file of `FILE.py:factory`; None for any other spec, such as one of code on the Hugging Face hub.

    >>> factory_file("models/net.py:small").name
    'net.py'
    """
    file, colon, _ = spec.rpartition(":")
    return Path(file) if colon and file.endswith(".py") and not spec.startswith(HUB) else None


def model_sources(path: Path) -> dict[str, Path]:
    """Return the files that the code at `path` is in, by module: itself first, then the modules that it imports.

    Those count that lie beside `path` as ``NAME.py`` and that it, or one of them, imports as ``NAME`` anywhere in its
    text, unless Python's own library has a module of that name. Nothing is executed.

    Raises:
        InputError: if one cannot be read.
    """
    found = {path.stem: path}
    waiting = [path]
    while waiting:
        for name in _imported(content_of(waiting.pop())):
            beside = path.with_name(f"{name}.py")
            if name not in found and name not in sys.stdlib_module_names and beside.is_file():
                found[name] = beside
                waiting.append(beside)
    first, *others = found
    return {name: found[name] for name in (first, *sorted(others))}


def content_of(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}") from error


def _imported(source: bytes) -> Iterator[str]:
    """Yield the absolute names that `source` imports; none of a text that is not Python, which importing will say."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.module


def sources_digest(sources: Mapping[str, Path]) -> str:
    """Return the SHA-256 of the code in `sources`; of a file alone, that of its content.

    Raises:
        InputError: if a file cannot be read.
    """
    contents = {name: content_of(path) for name, path in sources.items()}
    if len(contents) == 1:
        return hashlib.sha256(*contents.values()).hexdigest()
    each = [f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in contents.items()]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def code_digest(defined: type) -> str | None:
    """Return the SHA-256 of the code of the class `defined`.

    Of a class in a file it is that of the file and of the modules beside it that it imports; of one that a program or a
    notebook defines itself, that of what the class and all that it reads compute. None for the package's own classes:
    a change of what they compute raises a version in `igd_ray.identity`.

    Raises:
        InputError: if the source of the class was not found, or a file cannot be read.
    """
    if defined.__module__.partition(".")[0] == PACKAGE:
        return None
    # A notebook's main module has the file of its server.
    return _memory_digest(defined) if defined.__module__ == "__main__" else _file_digest(defined)


def read_code_anew() -> None:
    """Forget the digests of classes that are in memory only: what their code reads may have changed since."""
    _memory_digest.cache_clear()


@cache
def _memory_digest(defined: type) -> str:
    # Here, as it imports PyTorch, and files need it not.
    from igd_ray.models.live_code import code_in_memory

    return code_in_memory(defined)


@cache
def _file_digest(defined: type) -> str:
    try:
        file = inspect.getfile(defined)
    except (TypeError, OSError):
        raise no_source(defined.__qualname__) from None
    return sources_digest(model_sources(Path(file)))


def no_source(name: str) -> InputError:
    """Return the error that the code of a class or function called `name` cannot be told from other code."""
    return InputError(
        f"the source of {name} was not found, so its results could not be told from those of other code; define it in "
        "a cell of a notebook, or in a file: `igd new defense|attack|ranking NAME` writes one"
    )


def is_of_a_file(module: str) -> bool:
    """Tell whether `import_sources` has made the module of that name."""
    return module.startswith(MODULE_PREFIX)


def import_sources(path: Path) -> ModuleType:
    """Return the module at `path`, whose imports find the modules beside it first.

    The names of all of them carry the content of all, so that two files called alike never stand in for each other,
    and so that a model's fingerprint, which has the names of its classes' modules, counts everything in them.
    """
    sources = model_sources(path)
    return _Importer(sources, sources_digest(sources)[:8]).module(path.stem)


class _Importer:
    """Imports the modules of `sources` under names that end with `tag`."""

    def __init__(self, sources: Mapping[str, Path], tag: str) -> None:
        self._sources = sources
        self._tag = tag

    def module(self, name: str) -> ModuleType:
        """Return the module `name` of the sources, imported once."""
        full_name = f"{MODULE_PREFIX}{name}_{self._tag}"
        if full_name in sys.modules:
            return sys.modules[full_name]
        spec = importlib.util.spec_from_file_location(full_name, self._sources[name])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        if len(self._sources) > 1:
            # An import statement calls what its module's builtins hold, now and in functions that run later. The
            # path of all imports would let a model's `utils` stand in for everybody's.
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        sys.modules[full_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[full_name]
            raise
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and name in self._sources:
            return self.module(name)
        return builtins.__import__(name, globals, locals, fromlist or (), level)


@contextmanager
def exits_raised() -> Iterator[None]:
    """While open, `os._exit` in this thread raises SystemExit as `sys.exit` does."""
    process, thread, leave = os.getpid(), threading.get_ident(), os._exit

    def refuse(status: int) -> NoReturn:
        # A child process that the code has forked ends as it wants to.
        if os.getpid() != process or threading.get_ident() != thread:
            leave(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


@contextmanager
def exits_refused(what: str) -> Iterator[None]:
    """While open, `sys.exit` and `os._exit` do not end this process.

    Args:
        what: the code that runs, for the message.

    Raises:
        InputError: if the code calls one of them.
    """
    try:
        with exits_raised():
            yield
    except SystemExit as error:
        raise InputError(
            f"{what} calls sys.exit or os._exit (status {error.code!r}), which would end igd; remove the call, "
            "or put it under `if __name__ == '__main__':`"
        ) from None


def exiting_file(error: SystemExit) -> str | None:
    """Return the name of the user's file whose code raised `error`; None where a signal or other code ends the process.

    Code of the user's may also end by way of a library, such as a parser of arguments.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_globals.get("__name__") != __name__]
    # A cluster's handler of signals interrupts whatever runs, and must end the process.
    if not frames or str(frames[-1].f_globals.get("__name__")).partition(".")[0] == "ray":
        return None
    files = [frame.f_code.co_filename for frame in frames if is_of_a_file(str(frame.f_globals.get("__name__")))]
    return Path(files[-1]).name if files else None


@contextmanager
def contained(what: str = "") -> Iterator[None]:
    """Turn whatever somebody's code does wrong, other than to compute wrong values, into one line about it.

    Args:
        what: the code that runs, for the message; none where the caller names it.

    Raises:
        InputError: if it raises, exits or prints.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), exits_refused(what or "it"):
            yield
    except InputError:
        raise
    except Exception as error:  # somebody's code may fail in any way
        raise InputError(f"{f'{what}: ' if what else ''}{type(error).__name__}: {first_line(error)}") from error
    if text := printed.getvalue().strip():
        raise InputError(
            f"{what or 'it'} prints {text.splitlines()[0][:80]!r} among igd's results; remove it, or print to "
            "sys.stderr"
        )
