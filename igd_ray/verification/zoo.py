"""Does a model of RobustBench's zoo work with the ranking and the defense: built untrained, offline, and tried.

A model is supported if it builds without a download, one classifier gives its logits, LO-IR's closed form there
agrees with ablation by brute force, and gradients reach the images through the two-pass defense. None of that
depends on what the weights are, as long as they let the images through; checkpoints are another matter.
"""

import ctypes
import gc
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from igd_ray.defenses import InterpretabilityGuidedDefense
from igd_ray.errors import IgdError, InputError, first_line
from igd_ray.models import PENULTIMATE, Layer, find_layer
from igd_ray.models.anatomy.layers import scaled
from igd_ray.models.zoo import CLASSES, IMAGE_SIZES, Entry, build_entry
from igd_ray.ranking.leave_one_out import leave_one_out_sums

IMAGES = 2
ABLATED_NEURONS = 2
SIGMA = 8 / 255

# Float32 rounds a logit to about 1e-7 of its size; ablation subtracts two of them.
LEAST_AGREEMENT = 1e-5

# What people call the architectures, by the module and the class that RobustBench, timm or torchvision have them in.
FAMILIES = {
    "resnet.ResNet": "ResNet",
    "resnet.PreActResNet": "PreActResNet",
    "robust_resnet.PreActResNet": "RobustResNet",
    "resnest.ResNest": "ResNeSt",
    "wide_resnet.WideResNet": "WRN",
    "paf_wide_resnet.PAF_WideResNet": "WRN",
    "robust_wide_resnet.RobustWideResNet": "WRN",
    "dm_wide_resnet.DMWideResNet": "DM-WRN",
    "dm_wide_resnet.DMPreActResNet": "DM-PreActResNet",
    "Meansparse_wrn_70_16.DMWideResNet": "DM-WRN",
    "Meansparse_wrn_94_16.MeanSparse_DMWideResNet": "DM-WRN",
    "robustarch_wide_resnet.NormalizedWideResNet": "RaWRN",
    "robustarch_wide_resnet.NormalizedConfigurableModel": "RaWRN",
    "Meansparse_ra_wrn_70_16.NormalizedWideResNet": "RaWRN",
    "xcit.Xcit": "XCiT",
    "vision_transformer.VisionTransformer": "ViT",
    "convnext.ConvNeXt": "ConvNeXt",
    "swin_transformer.SwinTransformer": "Swin",
    "MIMIR_swin_transformer.SwinTransformer": "Swin",
    "Meansparse_swin_L.SwinTransformer": "Swin",
    # The one plain sequence of the zoo is Kang2021Stable.
    "container.Sequential": "DM-WRN + SODEF",
    "cifar10.Chen2020AdversarialNet": "ensemble",
    "comp_model.CompositeModelWrapper": "mixture",
    "mixing_net.NonLinMixedClassifier": "mixture",
}


@dataclass(frozen=True)
class ZooFinding:
    """What was found of one entry; the shipped table has these columns.

    Attributes:
        dataset, threat, name: the entry.
        family: the architecture's family, such as "WRN"; None where the model cannot be built.
        supported: whether the ranking and the defense work with it.
        width: neurons of the penultimate layer; None where there is none.
        parameters: how many the model has; None where it cannot be built.
        reason: why it is not supported; "" where it is.
    """

    dataset: str
    threat: str
    name: str
    family: str | None
    supported: bool
    width: int | None
    parameters: int | None
    reason: str


class _UnsupportedError(Exception):
    """Carries the reason."""


def check_entry(entry: Entry, *, seed: int = 0) -> ZooFinding:
    """Build `entry` with weights drawn from `seed`, try ranking and defense on random images, and say what was found.

    Nothing is downloaded, and whatever fails becomes the reason.
    """
    family = width = parameters = None
    reason = ""
    try:
        # A mixture's forward pass warns of what torch has moved.
        with warnings.catch_warnings(), _no_network(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            model = build_entry(entry).requires_grad_(False)
            family, parameters = family_of(model), sum(parameter.numel() for parameter in model.parameters())
            generator = torch.Generator().manual_seed(seed)
            size, classes = IMAGE_SIZES[entry.dataset], CLASSES[entry.dataset]
            images = torch.rand(IMAGES, 3, size, size, generator=generator)
            labels = torch.randperm(classes, generator=generator)[:IMAGES]
            _let_images_through(model, images, generator)
            _check_logits(model, images)
            layer = find_layer(model, PENULTIMATE, images[:1])
            width = layer.width
            _check_ranking(model, layer, images, labels, classes)
            for sigma in (0.0, SIGMA):
                _check_gradient(model, layer, images, labels, classes, sigma=sigma, generator=generator)
    except _UnsupportedError as error:
        reason = str(error)
    except InputError as error:
        # What follows the first sentence is advice to somebody who chose the model.
        reason = first_line(error).removeprefix(f"robustbench:{entry} ").split(". ")[0]
    except Exception as error:  # a model is RobustBench's code, and may fail in any way
        reason = f"{type(error).__name__}: {first_line(error)}"
    return ZooFinding(entry.dataset, entry.threat, entry.name, family, not reason, width, parameters, reason)


def check_entries(entries: Sequence[Entry]) -> Iterator[tuple[ZooFinding, float]]:
    """Check `entries` one after another, and give each finding with the seconds it took.

    A model is gone before the next one is built, so that memory holds one at a time.
    """
    for entry in entries:
        started = time.monotonic()
        yield check_entry(entry), time.monotonic() - started
        _release_memory()


def family_of(model: nn.Module) -> str:
    """Return what the architecture of `model` is called: by its class or, for one that is not known, the class's name.

    A model behind an `ImageNormalizer` is looked at without it.
    """
    children = dict(model.named_children())
    network = children["model"] if set(children) == {"normalize", "model"} else model
    for cls in type(network).__mro__:
        known = f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}"
        if known in FAMILIES:
            return FAMILIES[known]
    return type(network).__name__


def _let_images_through(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Give untrained parameters that hide the images values that do not, and batch norms the statistics of `images`.

    Heads and scales start at zero in some architectures, and behind the default statistics the activations of deep
    ones vanish or overflow.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim >= 2 and not parameter.any():
                deviation = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    for norm in norms:
        if norm.weight is not None and not norm.weight.any():
            norm.weight.fill_(1)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


@torch.no_grad()
def _check_logits(model: nn.Module, images: Tensor) -> None:
    if not model(images).isfinite().all():
        raise _UnsupportedError("the logits are not finite")


@torch.no_grad()
def _check_ranking(model: nn.Module, layer: Layer, images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Compare LO-IR with ablation by brute force, for the neurons that matter most by LO-IR.

    The labels differ, so that a row of LO-IR's sums is one image's.
    """
    sums = leave_one_out_sums(model, layer, images, labels, num_classes).totals[labels]
    if not sums.isfinite().all():
        raise _UnsupportedError("LO-IR is not finite")
    rows = torch.arange(len(images))
    logits = model(images)[rows, labels]
    allowed = LEAST_AGREEMENT * max(float(logits.abs().max()), float(sums.max()))
    for neuron in sums.sum(dim=0).topk(ABLATED_NEURONS).indices.tolist():
        kept = torch.ones(len(images), layer.width)
        kept[:, neuron] = 0
        with scaled(model, layer, kept):
            change = (logits - model(images)[rows, labels]).abs().double()
        difference = float((change - sums[:, neuron]).abs().max())
        if not float(change.max()) > 2 * allowed:
            raise _UnsupportedError(f"without neuron {neuron} the logits stay the same, so ablation tells nothing")
        if not difference <= allowed:
            raise _UnsupportedError(f"LO-IR of neuron {neuron} differs from its ablation by {difference:.2g}")


def _check_gradient(
    model: nn.Module,
    layer: Layer,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    sigma: float,
    generator: torch.Generator,
) -> None:
    """Check that the gradient of the defended logits reaches every image, with masks that keep half of the neurons."""
    masks = (torch.rand(num_classes, layer.width, generator=generator) < 0.5).float()
    defense = InterpretabilityGuidedDefense(
        model, masks, layer=layer, sigma=sigma, generator=generator if sigma > 0 else None
    )
    images = images.clone().requires_grad_()
    logits = defense(images)
    if not logits.isfinite().all():
        raise _UnsupportedError(f"the defended logits are not finite at sigma {sigma:.3g}")
    (gradient,) = torch.autograd.grad(logits[torch.arange(len(images)), labels].sum(), images)
    if not gradient.isfinite().all():
        raise _UnsupportedError(f"the gradient through the defense is not finite at sigma {sigma:.3g}")
    if not gradient.flatten(1).abs().amax(dim=1).min() > 0:
        raise _UnsupportedError(f"the gradient through the defense is zero at sigma {sigma:.3g}")


@contextmanager
def _no_network() -> Iterator[None]:
    """While open, refuse every connection of this process."""

    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise IgdError("it wants to download something")

    connect, resolve = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.getaddrinfo = resolve


def _release_memory() -> None:
    gc.collect()
    if sys.platform == "linux":
        # The C library keeps freed memory for itself, and models of different sizes would fragment it.
        ctypes.CDLL(None).malloc_trim(0)
