"""Full float32 arithmetic where small differences of large numbers count."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.amp.autocast_mode import is_autocast_available


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """While open, compute without autocast and without TF32, whatever was set outside.

    Half precision and TF32 keep 8 or 11 bits: the change that one neuron makes to a logit is lost in the rounding.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    with ExitStack() as autocast:
        for kind in {"cpu", device.type}:
            if is_autocast_available(kind):
                autocast.enter_context(torch.autocast(kind, enabled=False))
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
