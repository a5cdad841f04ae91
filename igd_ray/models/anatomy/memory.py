"""The memory that tensors take while some code runs, the same on every device."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, follows the bytes of tensors that operations allocate; what a kernel borrows inside is not seen.

    Attributes:
        peak: the most bytes held at once since it was opened, of those allocated since then.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._held = 0
        self._allocated: set[int] = set()
        # Storages from before are held, so that their identifiers stay theirs.
        self._older: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            if id(storage) not in self._allocated:
                self._older[id(storage)] = storage
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in self._allocated and id(storage) not in self._older:
                self._allocated.add(id(storage))
                self._held += storage.nbytes()
                weakref.finalize(storage, self._release, id(storage), storage.nbytes())
        self.peak = max(self.peak, self._held)
        return result

    def _release(self, identifier: int, size: int) -> None:
        self._allocated.discard(identifier)
        self._held -= size


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
