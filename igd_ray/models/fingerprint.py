"""A model's identity: what it computes, as a hash."""

import hashlib
import inspect

import torch
from torch import nn

from igd_ray.identity import KEY_LENGTH


def model_fingerprint(model: nn.Module) -> str:
    """Return the hash of the model's weights, its structure and the source code of its own module classes.

    PyTorch's own modules count by name: their code is pinned by the environment. Where Python has no source of a
    class (one typed into a shell), its name stands for it.
    """
    digest = hashlib.sha256(repr(model).encode())
    for module_class in sorted({type(module) for module in model.modules()}, key=lambda cls: cls.__qualname__):
        digest.update(module_class.__qualname__.encode())
        if not module_class.__module__.startswith("torch."):
            try:
                digest.update(inspect.getsource(module_class).encode())
            except (OSError, TypeError):
                continue
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:KEY_LENGTH]
