"""Weights files: safetensors, or PyTorch files without code; anything else is refused."""

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError

# What training scripts wrap a state dict in, and prefix its names with.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.")

# Opcodes by which a pickle names what it wants imported. One without them is data, whatever it is refused for.
IMPORTING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})

# PyTorch's files before 1.6 begin with pickles of a number, the protocol, the system, the content and its keys.
PICKLES_OF_OLD_FILES = 5


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in `path`: a safetensors file, or a PyTorch file that holds tensors only.

    Raises:
        InputError: if the file is missing, truncated, holds code, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights: no file at {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"weights: {path} is not a whole safetensors file ({error}); copy it again") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the reader fail in too many ways to list
        if isinstance(error, pickle.UnpicklingError) and _imports(path):
            raise InputError(
                f"weights: {path} holds more than tensors, so it could run code when loaded; "
                "save its state dict as safetensors where you trust it, and pass that"
            ) from None
        raise InputError(f"weights: {path} is no whole PyTorch file ({type(error).__name__}); copy it again") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"weights: {path} holds no state dict; expected names mapped to tensors")
    return dict(content)


def _imports(path: Path) -> bool:
    """Tell whether the file that the reader refused is a whole one that names code, rather than a cut-off one.

    A cut through the middle of an allowed name leaves another, which the reader refuses just as it does code.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                return zipfile.is_zipfile(path)  # with the directory that ends it, its pickle is there as well
            file.seek(0)
            for _ in range(PICKLES_OF_OLD_FILES):
                # Reading opcodes to the last runs nothing, and fails where the file ends before.
                opcodes = {opcode.name for opcode, _, _ in pickletools.genops(file)}
                if opcodes & IMPORTING:
                    return True
    except Exception:  # a damaged pickle fails in many ways
        return False
    return False


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load `path` into `model`, every name matched; a common prefix such as "module." is dropped where that helps.

    Raises:
        InputError: listing missing and unexpected names, or the first tensor of a wrong shape.
    """
    state = read_state(path)
    expected = model.state_dict()
    for prefix in PREFIXES:
        if not set(state) & set(expected):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    # Counters of batches seen play no part in evaluation, and older files lack them.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(state) - counters)
    unexpected = sorted(set(state) - set(expected))
    if missing or unexpected:
        raise InputError(
            f"weights: {path} does not fit the model: {_some(missing, 'missing')}; {_some(unexpected, 'unexpected')}; "
            "check the architecture and its arguments"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"weights: {path} does not fit the model: {name} should be {list(expected[name].shape)}, "
                f"is {list(tensor.shape)}; check the architecture and its arguments"
            )
    model.load_state_dict({**{name: expected[name] for name in counters}, **state})


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
