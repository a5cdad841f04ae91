"""The identity of code that exists only in memory, and of whatever of its values it can read.

A file's text identifies what is in it. In memory the text of each class and function stands for it, found by
following the names that the code reads: classes of modules and their bases, functions, globals, closures, attributes.
The compiled code is hashed beside the text, as a file may have changed since it was imported.
"""

import ast
import dis
import functools
import hashlib
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models.sources import PACKAGE, model_sources, no_source, sources_digest

# What PyTorch keeps in every module.
_INTERNAL = frozenset(vars(nn.Module()))

# What of it a forward pass computes with.
_COMPUTED_WITH = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

# Values whose repr is all that they are.
_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, type(None), type(Ellipsis), range, slice, Path),
    *(torch.dtype, torch.device, torch.Size, np.generic, np.dtype),
)

# Where installed packages are: the environment pins their code, so their names stand for it.
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})

# Imported under names that hold the digest of their text, see `import_sources`.
_FROM_FILES = "igd_model_"


def has_own_code(model: nn.Module) -> bool:
    """Return whether a module of `model` has hooks, or a class of no installed package, this package or model file."""
    return any(
        any(getattr(module, hooks) for hooks in _HOOKS) or not all(map(_is_installed, type(module).__mro__))
        for module in model.modules()
    )


def code_in_memory(module: nn.Module | type, known: Iterable[nn.Module] = ()) -> str:
    """Return the hash of the code of `module` and of the values that it can read, weights among them.

    Args:
        module: with the modules in it; or a class.
        known: modules that have an identity of their own, such as the base model's.

    Raises:
        InputError: if the source of a class or function was not found, or a value cannot be told from others of its
            type.
    """
    reading = _Reading(known)
    reading.value(module, module.__name__ if isinstance(module, type) else type(module).__name__)
    return hashlib.sha256("\n".join(sorted(reading.texts)).encode()).hexdigest()


class _Reading:
    """Collects the texts of everything that code can read; each object is read once."""

    def __init__(self, known: Iterable[nn.Module]) -> None:
        self.texts: set[str] = set()
        # With the objects themselves, as the address of one that is gone could be another's.
        self._seen: dict[int, tuple[int, object]] = {id(module): (place, module) for place, module in enumerate(known)}
        self._classes: set[type] = set()

    def value(self, value: object, where: str) -> str:
        """Return a text that equal values share and others do not; what it stands for goes to `texts`.

        Args:
            value: what an attribute, a global or a closure holds.
            where: how errors call it.
        """
        if isinstance(value, Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return f"tensor {value.dtype} {list(value.shape)} {hashlib.sha256(content.data).hexdigest()}"
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            content = np.ascontiguousarray(value)
            return f"array {value.dtype} {list(value.shape)} {hashlib.sha256(content.tobytes()).hexdigest()}"
        # Replaced by a generator of igd's before anything is computed.
        if isinstance(value, torch.Generator):
            return "generator"
        if id(value) in self._seen:
            return f"again {self._seen[id(value)][0]}"
        self._seen[id(value)] = len(self._seen), value
        if isinstance(value, Mapping):
            return f"mapping {sorted((self.value(key, where), self.value(each, where)) for key, each in value.items())}"
        if isinstance(value, set | frozenset):
            return f"set {sorted(self.value(each, where) for each in value)}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__} {[self.value(each, where) for each in value]}"
        return self._named(value, where)

    def _named(self, value: Any, where: str) -> str:
        """Return the name of code, or the class and the attributes of any other object."""
        if isinstance(value, ModuleType):
            self._python_module(value)
            return f"module {value.__name__}"
        if isinstance(value, type):
            self._class(value)
            return f"class {value.__qualname__}"
        if isinstance(value, MethodType):
            return f"method {self.value(value.__func__, where)} of {self.value(value.__self__, where)}"
        if isinstance(value, functools.partial):
            return f"partial {self.value([value.func, value.args, value.keywords], where)}"
        if hasattr(value, "__wrapped__"):
            self.value(value.__wrapped__, where)
        if isinstance(value, FunctionType):
            self._function(value)
            return f"function {value.__module__}.{value.__qualname__}"
        if isinstance(value, BuiltinFunctionType) or type(value).__module__ == "builtins":
            return f"built-in {getattr(value, '__qualname__', type(value).__qualname__)}"
        if not hasattr(value, "__dict__"):
            raise InputError(
                f"{where} is a {type(value).__name__}, of which one cannot be told from another; keep numbers, texts, "
                "tensors, modules and objects of your own classes, or write it into a file: "
                "`igd new defense|attack|ranking NAME`"
            )
        self._class(type(value))
        attributes = dict(vars(value))
        if isinstance(value, nn.Module):
            held = {name: list(vars(value)[name].values()) for name in _HOOKS}
            held |= {name: vars(value)[name] for name in _COMPUTED_WITH}
            attributes = {name: each for name, each in attributes.items() if name not in _INTERNAL} | held
        texts = [(name, self.value(each, f"{where}.{name}")) for name, each in attributes.items()]
        return f"object {type(value).__module__}.{type(value).__qualname__} {sorted(texts)}"

    def _class(self, cls: type) -> None:
        for each in cls.__mro__:
            if _is_installed(each) or each in self._classes:
                continue
            self._classes.add(each)
            self.texts.add(f"{each.__qualname__}\n{_class_source(each)}")
            for name, member in vars(each).items():
                where = f"{each.__qualname__}.{name}"
                for function in _functions_of(member):
                    self.value(function, where)
                if (
                    not callable(member)
                    and not name.startswith(("__", "_abc_"))
                    and not inspect.isdatadescriptor(member)
                ):
                    self.texts.add(f"{where} {self.value(getattr(each, name), where)}")

    def _function(self, function: FunctionType) -> None:
        if _is_installed(function):
            return
        name = function.__qualname__
        self.texts.add(f"{name}\n{_function_source(function)}\n{_compiled(function.__code__)}")
        read = {each: function.__globals__[each] for each in _global_names(function.__code__, function.__globals__)}
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        read |= {each: _content(cell) for each, cell in cells}
        read |= {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
        for each, value in sorted(read.items()):
            self.texts.add(f"{name} reads {each} {self.value(value, f'{each}, which {name} reads,')}")

    def _python_module(self, module: ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if file is None or _is_installed(module):
            return
        if Path(file).name == "__init__.py":
            files = {str(each): each for each in sorted(Path(file).parent.rglob("*.py"))}
        else:
            files = model_sources(Path(file))
        self.texts.add(f"{module.__name__} {sources_digest(files)}")


def _is_installed(thing: Any) -> bool:
    """Return whether the environment, this package or a name with a digest pins the code of a module or of `thing`."""
    name = str(thing.__name__ if isinstance(thing, ModuleType) else thing.__module__)
    top = name.partition(".")[0]
    if _is_in_main(top):
        return False
    if top in sys.stdlib_module_names:
        return True
    if top in (PACKAGE, "torch") or top.startswith(_FROM_FILES):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.startswith(_INSTALLED)


def _is_in_main(module: str) -> bool:
    """Tell whether a module of that name is the program itself: a notebook's has the file of its server."""
    return module.partition(".")[0] == "__main__"


def _functions_of(member: object) -> Iterator[object]:
    """Yield the functions behind what a class holds under a name."""
    if isinstance(member, staticmethod | classmethod):
        yield member.__func__
    elif isinstance(member, property):
        yield from (each for each in (member.fget, member.fset, member.fdel) if each is not None)
    elif isinstance(member, functools.cached_property):
        yield member.func
    elif isinstance(member, FunctionType):
        yield member


def _class_source(cls: type) -> str:
    # By the lines of its methods: cells of a notebook are not a file of a module, and two of them may define one name.
    for function in (each for member in vars(cls).values() for each in _functions_of(member)):
        code = getattr(inspect.unwrap(function), "__code__", None)  # type: ignore[arg-type]
        if code is None:
            continue
        lines = linecache.getlines(code.co_filename)
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__ and node.end_lineno is not None:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                if first <= code.co_firstlineno <= node.end_lineno:
                    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    try:
        return textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        raise no_source(cls.__qualname__) from None


def _function_source(function: FunctionType) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        # What `dataclass` and the like write has no source of its own, and follows from that of the class.
        if inspect.unwrap(function).__code__.co_filename == "<string>" and function.__name__.startswith("__"):
            return ""
        raise no_source(function.__qualname__) from None


def _compiled(code: CodeType) -> str:
    """Return what `code` does, wherever it stands."""
    constants = [_compiled(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames} {code.co_freevars}"


def _constant(value: object) -> str:
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(repr, value))}"
    return repr(value)


def _global_names(code: CodeType, known: Mapping[str, object]) -> set[str]:
    """Return the names of globals that `code`, or a function in it, reads and that are in `known`."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant, known)
    return names & known.keys()


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is not assigned yet
        return None
