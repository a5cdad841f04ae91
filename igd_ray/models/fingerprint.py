"""A model's identity: what it computes, as a hash."""

import hashlib
import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from igd_ray.identity import KEY_LENGTH

# Types of plain attributes that a forward pass may depend on, such as a temperature.
_PLAIN = (bool, int, float, str, type(None))


def model_fingerprint(model: nn.Module) -> str:
    """Return the hash of the model's tensors and plain attributes, its structure and the code of its own classes.

    A class's code is its source and that of the classes it inherits from. PyTorch's own classes count by name: their
    code is pinned by the environment. Where Python has no source of a class (one typed into a shell), its name
    stands for it. The name of a model file holds its content (see `load_model`), and so counts the functions in it.
    """
    digest = hashlib.sha256(repr(model).encode())
    for code in sorted({_code(cls) for module in model.modules() for cls in _own_classes(type(module))}):
        digest.update(code.encode())
    for path, value in sorted(_plain_attributes(model)):
        digest.update(f"{path}={value}".encode())
    for name, tensor in sorted(_tensors(model).items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:KEY_LENGTH]


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
            parts = value if isinstance(value, tuple) else (value,)
            if name != "training" and not name.startswith("_") and all(isinstance(part, _PLAIN) for part in parts):
                yield f"{path}.{name}", repr(value)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers (also those that a state dict leaves out) and plain tensors, by path."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for path, module in model.named_modules():
        tensors |= {f"{path}.{name}": value for name, value in vars(module).items() if isinstance(value, Tensor)}
    return tensors
