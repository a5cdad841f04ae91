"""Weights files: safetensors, or PyTorch files without code; anything else is refused."""

import argparse
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from igd_ray.downloads import begins_like_a_page
from igd_ray.errors import InputError, did_you_mean
from igd_ray.values.file_parts import PART, file_and_part

State = dict[str, Tensor]

# In place of a file: the weights that a factory loads itself.
OWN = "own"

# What git-lfs leaves in the place of a large file that it did not fetch.
LFS_POINTER = b"version https://git-lfs"

# What training scripts wrap a state dict in, and prefix its names with.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PREFIXES = ("module.", "model.", "_orig_mod.")

# Counters play no part in evaluation: older files lack those of batch norms, and averaged models bring one along.
COUNTERS = ("num_batches_tracked", "n_averaged")

# What checkpoints hold beside tensors, and what holds no code: settings, and numbers that NumPy computed.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    # Its name before NumPy 2.
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")),
]

# Opcodes by which a pickle names what it wants imported. One without them is data, whatever it is refused for.
IMPORTING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})

# PyTorch's files before 1.6 begin with pickles of a number, the protocol, the system, the content and its keys.
PICKLES_OF_OLD_FILES = 5


def read_state(weights: str | Path) -> State:
    """Read a state dict from a safetensors file, or a PyTorch file without code.

    Args:
        weights: the file; or one of several state dicts in it, by the keys that lead there: `FILE#model_ema`.

    Raises:
        InputError: if the file is missing, truncated, holds code, or holds no such state dict, or several.
    """
    path, part = file_and_part(weights)
    return state_in(read_checkpoint(path), path, part)


def read_checkpoint(path: str | Path) -> Any:
    """Read all that a safetensors file, or a PyTorch file without code, holds.

    Raises:
        InputError: if the file cannot be read, is truncated or holds code.
    """
    path = Path(path)
    _require_file(path)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"weights: {path} is not a whole safetensors file ({error}); copy it again") from None
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the reader fail in too many ways to list
        if isinstance(error, pickle.UnpicklingError) and _imports(path):
            raise InputError(
                f"weights: {path} holds more than tensors, so it could run code when loaded; "
                "save its state dict as safetensors where you trust it, and pass that"
            ) from None
        raise InputError(
            f"weights: {path} is not a whole PyTorch file ({type(error).__name__}); copy it again"
        ) from None


def _require_file(path: Path) -> None:
    """Check that there is a file at `path`, not a page or a pointer that a download left in its place."""
    try:
        if not path.is_file():
            raise InputError(f"weights: no file at {path}")
        with path.open("rb") as file:
            beginning = file.read(len(LFS_POINTER))
        is_page = begins_like_a_page(path)
    except OSError as error:
        raise InputError(f"weights: {path} cannot be read ({error.strerror})") from None
    if is_page:
        raise InputError(
            f"weights: {path} is a web page, such as a download's confirmation page, not weights; "
            "open its address in a browser, and save the file"
        )
    if beginning == LFS_POINTER:
        raise InputError(f"weights: {path} is a pointer of git-lfs, not weights; fetch the file with `git lfs pull`")


def state_in(content: object, path: str | Path, part: str | None = None) -> State:
    """Return a state dict in a checkpoint's content, however it is wrapped; `path` is for messages.

    Args:
        part: the keys that lead to it, joined by dots; where None, the only one there is.

    Raises:
        InputError: if there is none, or several, such as trained and averaged weights.
    """
    if part is not None:
        return _state_at(content, path, part)
    states = dict(_states(content))
    if not states:
        raise InputError(f"weights: {path} holds no state dict; expected names mapped to tensors")
    if len(states) > 1:
        raise InputError(
            f"weights: {path} holds several state dicts ({', '.join(states)}); "
            f"say which one: --weights {path}{PART}{next(iter(states))}"
        )
    return dict(next(iter(states.values())))


def _state_at(content: object, path: str | Path, part: str) -> State:
    found = content
    for key in part.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    states = dict(_states(found))
    if len(states) != 1:
        keys = [str(key) for key in content if key] if isinstance(content, Mapping) else []
        raise InputError(
            f"weights: {path} holds no state dict {part!r}; it holds {_first(keys) or 'nothing'}"
            f"{did_you_mean(part, keys)}"
        )
    return dict(next(iter(states.values())))


def _states(content: object, name: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the state dicts in `content` with the names they are wrapped in."""
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield name, content
        return
    for wrapper in (*WRAPPERS, *AVERAGED):
        yield from _states(content.get(wrapper), f"{name}.{wrapper}" if name else wrapper)


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
    """Load `path`, or `path#part`, into `model`, every name matched; prefixes such as "module." are dropped if need be.

    Raises:
        InputError: listing missing and unexpected names, or the first tensor of a wrong shape or type.
    """
    load_state(model, read_state(path), path)


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    may_lack: Callable[[str], bool] = lambda name: False,
    may_bring: Callable[[str], bool] = lambda name: False,
    adapt: Callable[[State], State] = lambda state: state,
) -> None:
    """Load `state` into `model`, every name matched, as the model's types.

    Names are matched as they are, or with prefixes such as "module." dropped or "model." added, whichever leaves the
    fewest of them over.

    Args:
        model: what is loaded into.
        state: from `path`, which messages name.
        path: the file.
        may_lack: tells which of the model's names `state` may lack; they keep their values.
        may_bring: tells which names `state` may bring in vain.
        adapt: rewrites names, without prefixes, of an older version of the architecture; tried beside the names given.

    Raises:
        InputError: listing missing and unexpected names, or the first tensor of a wrong shape or type.
    """
    expected = model.state_dict()
    # A tensor that the model has under several names is needed once.
    by_place: dict[int, set[str]] = {}
    for name, tensor in expected.items():
        by_place.setdefault(tensor.data_ptr(), set()).add(name)

    def is_needed(name: str, renamed: State) -> bool:
        others = by_place[expected[name].data_ptr()]
        return not (_is_counter(name) or may_lack(name) or (expected[name].numel() and others & renamed.keys()))

    def is_in_vain(name: str) -> bool:
        return not (name in expected or _is_counter(name) or may_bring(name))

    best: tuple[list[str], list[str], State] | None = None
    for renamed in _renamings(state, adapt):
        missing = [name for name in expected if name not in renamed and is_needed(name, renamed)]
        unexpected = [name for name in renamed if is_in_vain(name)]
        if best is None or len(missing) + len(unexpected) < len(best[0]) + len(best[1]):
            best = missing, unexpected, renamed
    assert best is not None
    missing, unexpected, renamed = best
    if missing or unexpected:
        raise InputError(
            f"weights: {path} does not fit the model: {_some(missing, 'missing')}; {_some(unexpected, 'unexpected')}; "
            "check the architecture and its arguments"
        )
    fitting = {name: tensor for name, tensor in renamed.items() if name in expected}
    for name, tensor in fitting.items():
        _check_tensor(name, tensor, expected[name], path)
    # Halves become the model's float32.
    model.load_state_dict({**expected, **fitting})


def _renamings(state: Mapping[str, Tensor], adapt: Callable[[State], State]) -> Iterator[State]:
    """Yield `state` under every name it may be meant by, those as given first."""
    bare = dict(state)
    while True:
        for names in (bare, adapt(dict(bare))):
            yield names
            yield {f"model.{name}": tensor for name, tensor in names.items()}
        shorter = {_without_prefix(name): tensor for name, tensor in bare.items()}
        # Two tensors of one name would be a loss.
        if shorter.keys() == bare.keys() or len(shorter) < len(bare):
            return
        bare = shorter


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _check_tensor(name: str, tensor: Tensor, expected: Tensor, path: str | Path) -> None:
    if tensor.shape != expected.shape:
        raise InputError(
            f"weights: {path} does not fit the model: {name} should be {list(expected.shape)}, "
            f"is {list(tensor.shape)}; check the architecture and its arguments"
        )
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_quantized:
        raise InputError(
            f"weights: {path} does not fit the model: {name} should hold {expected.dtype}, holds {tensor.dtype}; "
            "save unquantised weights"
        )


def _some(names: Collection[str], what: str) -> str:
    return f"{len(names)} {what}" + (f" ({_first(sorted(names))})" if names else "")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
