"""One thread for everything that a result depends on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Kernels may sum in another order with more threads, and the numbers would then depend on the machine. Parallelism
# comes from more workers.
THREADS = 1


@contextmanager
def reproducible() -> Iterator[None]:
    """While open, PyTorch computes with one thread a worker and full float32 precision, on a GPU too."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.set_num_threads(THREADS)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = cudnn
