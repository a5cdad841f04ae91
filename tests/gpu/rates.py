"""Prints how fast attacks could run and do run on this GPU: `python -m tests.gpu.rates`.

For CIFAR-sized networks: images a second that a gradient of the loss takes (forward and backward pass) at several
batch sizes, the share of the measured rate of a float32 matrix product, and how many image-steps a second
pyautoattack's APGD makes at its own batch of 250 beside that, and this package's engine on as many images and on four
times as many.
"""

import sys
import time
from collections.abc import Callable

import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from igd_ray.attacks import APGD
from igd_ray.attacks.base import POOLED
from igd_ray.threat import Norm, ThreatModel

CLASSES, SIDE, EPSILON = 10, 32, 8 / 255
BATCHES = (25, 250, 1000, 4000)
APGD_BATCH, APGD_STEPS = 250, 20
MATRIX = 8192
SECONDS = 0.5


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(out)) + self.shortcut(x))


def network(stem: int, widths: tuple[int, ...], blocks: int) -> nn.Module:
    """Return an untrained residual network for images of 32×32."""
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()]
    inputs = stem
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Block(inputs, width, 2 if stage and not block else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18, width 16": lambda: network(16, (16, 32, 64, 128), 2),
    "ResNet-18, width 64": lambda: network(64, (64, 128, 256, 512), 2),
    "WRN-34-10": lambda: network(16, (160, 320, 640), 5),
}


def rate(step: Callable[[], object]) -> float:
    """Return how often a second `step` runs."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        step()
        torch.cuda.synchronize()
        count += 1
    return count / (time.perf_counter() - started)


def matrix_rate() -> float:
    """Return the floating-point operations a second of a float32 matrix product."""
    left, right = (torch.randn(MATRIX, MATRIX, device="cuda") for _ in range(2))
    return 2 * MATRIX**3 * rate(lambda: left @ right)


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    points = images.clone().requires_grad_()
    functional.cross_entropy(model(points), labels).backward()  # type: ignore[no-untyped-call]
    assert points.grad is not None
    return points.grad


def engine_rate(model: nn.Module, count: int) -> float:
    """Return how many gradients a second the engine's APGD-CE takes on `count` images, each run to its end."""
    images = torch.rand(count, 3, SIDE, SIDE, device="cuda")
    labels = torch.cat([model(part).argmax(dim=1) for part in images.split(APGD_BATCH)])
    attack = APGD("ce", steps=APGD_STEPS).on_engine(POOLED)
    gradients = 0

    def run() -> None:
        nonlocal gradients
        generator = torch.Generator().manual_seed(0)
        result = attack(model, images, labels, threat=ThreatModel(Norm.LINF, EPSILON), generator=generator)
        gradients = int(result.backwards.sum())

    runs = rate(run)
    return gradients * runs


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    most = matrix_rate()
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; float32 matrix product {most / 1e12:.1f} TFLOP/s"
    )
    print("network              tf32  batch  gradients/s  TFLOP/s  of matrix  memory GiB")
    for name, build in NETWORKS.items():
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            torch.manual_seed(0)
            model = build().cuda().eval().requires_grad_(False)
            for batch in BATCHES:
                images = torch.rand(batch, 3, SIDE, SIDE, device="cuda")
                labels = torch.randint(CLASSES, (batch,), device="cuda")
                torch.cuda.reset_peak_memory_stats()
                with FlopCounterMode(display=False) as counter:
                    gradient(model, images, labels)
                runs = rate(lambda images=images, labels=labels, model=model: gradient(model, images, labels))
                flops = counter.get_total_flops() * runs
                memory = torch.cuda.max_memory_allocated() / 2**30
                print(
                    f"{name:20} {'yes' if tf32 else 'no':>4} {batch:6} {batch * runs:12.0f} {flops / 1e12:8.2f} "
                    f"{flops / most:9.0%} {memory:11.2f}",
                    flush=True,
                )
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        images = torch.rand(APGD_BATCH, 3, SIDE, SIDE, device="cuda")
        labels = model(images).argmax(dim=1)
        attack = APGDAttack(model, n_iter=APGD_STEPS, eps=EPSILON, norm="Linf", loss="ce", device="cuda", verbose=False)
        attack.init_hyperparam(images)
        runs = rate(lambda attack=attack, images=images, labels=labels: attack.attack_single_run(images, labels))
        print(f"{name:20} pyautoattack's APGD-CE at {APGD_BATCH}: {APGD_BATCH * APGD_STEPS * runs:.0f} image-steps/s")
        for count in (APGD_BATCH, 4 * APGD_BATCH):
            print(
                f"{name:20} the engine's APGD-CE on {count}: {engine_rate(model, count):.0f} image-steps/s", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
