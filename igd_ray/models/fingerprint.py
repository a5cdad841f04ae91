"""A model's identity: what it computes, as a hash."""

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from igd_ray.identity import KEY_LENGTH

# Types whose repr is what they are, and all of it.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)

# What PyTorch keeps in every module. Parameters and buffers are read by name, hooks are not part of a model, and
# `training` is what `eval()` sets.
_INTERNAL = frozenset(vars(nn.Module()))

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def model_fingerprint(model: nn.Module) -> str:
    """Return the hash of the model's tensors and plain attributes, its structure and the code of its own classes.

    Attributes count whatever their names, with numbers, texts, tensors, arrays and functions (by name) in them, to
    any depth of lists, tuples, sets and dicts. Those of other types are passed over: Python gives no description of
    such an object that is sure to be the same in another process.
    A class's code is its source and that of the classes it inherits from. PyTorch's own classes count by name: their
    code is pinned by the environment. Where Python has no source of a class (one typed into a shell), its name
    stands for it. The name of a model file holds its content and that of the modules beside it that it imports (see
    `import_sources`), and so counts the functions in them.
    """
    digest = hashlib.sha256(_ADDRESS.sub("", repr(model)).encode())
    for code in sorted({_code(cls) for module in model.modules() for cls in _own_classes(type(module))}):
        digest.update(code.encode())
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            # Its class is PyTorch's, whatever it computes.
            digest.update(str(getattr(module, "code", "")).encode())
    for path, value in sorted(_plain_attributes(model)):
        digest.update(f"{path}={value}".encode())
    for name, tensor in sorted(_tensors(model).items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(_content(tensor))
    return digest.hexdigest()[:KEY_LENGTH]


def model_state(model: nn.Module) -> dict[str, Tensor | str]:
    """Return a copy of the model's tensors and a description of its plain attributes, by path."""
    tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}
    return {**tensors, **dict(_plain_attributes(model))}


def changed_since(model: nn.Module, before: Mapping[str, Tensor | str]) -> str | None:
    """Return the first path whose value is another than in `before`, a `model_state`; None if there is none."""
    after: dict[str, Tensor | str] = {**_tensors(model), **dict(_plain_attributes(model))}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            same = old.dtype == new.dtype and old.shape == new.shape
            # As bytes a tensor with NaN in it equals itself.
            same = same and (torch.equal(old, new) or _content(old) == _content(new))
        else:
            same = isinstance(old, str) and old == new
        if not same:
            return name.removeprefix(".")
    return None


def _own_classes(module_class: type[nn.Module]) -> list[type]:
    """Return the class and its bases, down to PyTorch's."""
    return [module_class, *(cls for cls in module_class.__mro__[1:] if not _is_foreign(cls))]


def _is_foreign(cls: type) -> bool:
    return cls is object or cls.__module__.partition(".")[0] == "torch"


def _code(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if _is_foreign(cls):
        return name
    try:
        return f"{name}\n{inspect.getsource(cls)}"
    except (OSError, TypeError):
        return name


def _plain_attributes(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            # Tensors of their own are read with parameters and buffers.
            if name not in _INTERNAL and not isinstance(value, Tensor):
                described = _described(value)
                if described is not None:
                    yield f"{path}.{name}", described


def _described(value: object, inside: frozenset[int] = frozenset()) -> str | None:
    """Return a text that equal values share in every process and others do not, or None for other types.

    Args:
        value: the value.
        inside: the ids of the containers that `value` lies in, as one may hold itself.
    """
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return None
        return f"tensor {value.dtype} {list(value.shape)} {hashlib.sha256(_content(value)).hexdigest()}"
    if isinstance(value, np.ndarray | np.generic):
        # Objects in an array are stored as their addresses.
        if value.dtype.hasobject:
            return None if id(value) in inside else _described(value.tolist(), inside | {id(value)})
        content = np.ascontiguousarray(value).tobytes()
        return f"array {value.dtype} {list(value.shape)} {hashlib.sha256(content).hexdigest()}"
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return f"function {value.__module__}.{value.__qualname__}"
    if not isinstance(value, list | tuple | set | frozenset | Mapping) or id(value) in inside:
        return None
    inside |= {id(value)}
    if isinstance(value, Mapping):
        # A mapping's order is the order of insertion, which may be that of a set.
        parts = sorted(f"{_described(key, inside)}: {_described(part, inside)}" for key, part in value.items())
    else:
        parts = [str(_described(part, inside)) for part in value]
    if isinstance(value, set | frozenset):
        parts.sort()
    return f"{type(value).__name__} [{', '.join(parts)}]"


def _content(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers (also those that a state dict leaves out) and plain tensors, by path."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for path, module in model.named_modules():
        tensors |= {f"{path}.{name}": value for name, value in vars(module).items() if isinstance(value, Tensor)}
    return tensors
