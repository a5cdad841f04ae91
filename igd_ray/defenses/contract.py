"""What an evaluation expects of every defense, checked on a few images: properties, each with what it means."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from igd_ray.defenses.registry import ONE_PASS, DefensePasses
from igd_ray.errors import InputError
from igd_ray.models.anatomy.stand_in import stand_in_logits
from igd_ray.models.fingerprint import model_fingerprint
from igd_ray.properties import BrokenContractError, Check, Found, Property, found_logits, properties_of

# Logits of one image may differ so much between batches: sums in another order.
BATCH_DIFFERENCE = 1e-3

# Logits of equal calls, or of two passes taken one by one, may differ so much: the same sums, cut in another way.
SAME_DIFFERENCE = 1e-4

# What a defense offers whose two passes adaptive attacks can aim at, see `igd_ray.attacks.adaptive.two_pass`; and the
# passes of the first one, which are counted where it does not say them.
TWO_PASSES = ("first_logits", "pseudo_labels", "masked_logits")
DRAWS = "draws"

Build = Callable[[nn.Module, Generator], nn.Module]


@dataclass
class Contract:
    """What the look at a defense found.

    Attributes:
        properties: in the order in which they were looked at; the last one is an error where there is one.
        passes: of one image through the base model.
        first_passes: of its first pass, where it offers the two-pass protocol.
        has_gradient: whether the gradient of its loss is finite and not all zero, on most images.
        surrogate: passes of the stand-in for its gradient, where it has none or `backward_surrogate`.
    """

    properties: list[Property] = field(default_factory=list)
    passes: DefensePasses = ONE_PASS
    first_passes: int | None = None
    has_gradient: bool = True
    surrogate: DefensePasses | None = None

    @property
    def error(self) -> Property | None:
        """The property that does not hold and that no evaluation can do without."""
        return next((each for each in self.properties if each.result == "error"), None)


def look_at(
    build: Build,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    may_be_random: bool,
    others: Tensor | None = None,
) -> Contract:
    """Look at the defense that `build` makes, and stop at the first error.

    Args:
        build: makes the defense around a base model, with its generator.
        model: the base model, in eval mode.
        images: float32 [n, C, H, W] in [0, 1], n at least 2.
        labels: int64 [n].
        num_classes: of the model.
        may_be_random: whether it has a generator: only then may two calls differ.
        others: more images, for what the defense may remember of them; `images` in reverse order by default.
    """
    look = _Look(build, model, images, labels, num_classes, may_be_random, images.flip(0) if others is None else others)
    checks: tuple[Check, ...] = (
        ("module", "what igd attacks is the nn.Module that the factory returns", look.module),
        ("base model", "the base model stays as it is: every other defense of the run shares it", look.base_model),
        ("logits", "attacks follow losses of float logits [images, classes], one per class of the data", look.logits),
        ("seed", "a seed decides all randomness, so that any worker gives the same rows", look.seed),
        ("randomness", "a random defense is attacked with averaged gradients (EoT), any other is not", look.randomness),
        ("memory", "no answer depends on the calls before, so that units may run in any order", look.memory),
        ("batch", "an image's answer does not depend on the images beside it", look.batch),
        (
            "passes",
            "base-model passes per image, forward and backward: the cost of attacks is counted in them",
            look.passes,
        ),
        (
            "gradient",
            "gradient attacks see the defense; where they are blind, attack it with audit-bpda",
            look.gradient,
        ),
        ("two passes", "adaptive attacks aim at either pass of a defense that offers both", look.two_passes),
    )
    look.contract.properties += properties_of(checks)
    return look.contract


class _Look:
    """The checks, each of which rests on those before."""

    def __init__(
        self,
        build: Build,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        may_be_random: bool,
        others: Tensor,
    ) -> None:
        self.contract = Contract()
        self._build, self._model, self._may_be_random = build, model, may_be_random
        self._images, self._labels, self._others, self._classes = images, labels, others, num_classes
        self._generator = Generator()
        self._before = condition(model)
        self._target: nn.Module = nn.Identity()

    def ask(self, images: Tensor, seed: int = 0, global_seed: int = 0) -> Tensor:
        """Return the answer for `images`, with the generator, and the global one, at a seed."""
        self._generator.manual_seed(seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(global_seed)
            return self._target(images)  # type: ignore[no-any-return]

    def module(self) -> Found:
        self._generator.manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            target = self._build(self._model, self._generator)
        if not isinstance(target, nn.Module):
            raise BrokenContractError(f"it returns {type(target).__name__}, not an nn.Module")
        # Before `eval()`, which sets the base model's mode as well.
        self._require_unchanged("building it")
        self._target = target.eval()
        return "ok", type(target).__name__

    def base_model(self) -> Found:
        self.ask(self._images)
        self._require_unchanged("asking it")
        return "ok", "weights, mode and hooks stay as they are"

    def _require_unchanged(self, when: str) -> None:
        if condition(self._model) != self._before:
            raise BrokenContractError(
                f"{when} changes the base model's weights, mode or hooks; change a copy.deepcopy(model)"
            )

    def logits(self) -> Found:
        answer = self.ask(self._images)
        expected = f"float logits [{len(self._images)}, {self._classes}]"
        if not isinstance(answer, Tensor):
            raise BrokenContractError(f"it returns {type(answer).__name__}, not {expected}")
        if not answer.is_floating_point() or list(answer.shape) != [len(self._images), self._classes]:
            raise BrokenContractError(f"it returns {answer.dtype} {list(answer.shape)}, not {expected}")
        if answer.device != self._images.device:
            raise BrokenContractError(
                f"its logits are on {answer.device}, its images on {self._images.device}; leave them there"
            )
        if self._target.training:
            raise BrokenContractError("it puts itself into training mode; leave it in eval mode")
        return found_logits(answer)

    def seed(self) -> Found:
        difference = _difference(self.ask(self._images), self.ask(self._images, global_seed=1))
        if difference > SAME_DIFFERENCE:
            raise BrokenContractError(
                f"two answers with one seed differ by {difference:.2g}: it draws from the global generator, or "
                "remembers calls; ask for `generator` and draw from that"
            )
        return "ok", f"two answers with one seed differ by {difference:.2g}"

    def randomness(self) -> Found:
        points = torch.cat([self._images, (self._images + self._images.roll(1, dims=0)) / 2])
        difference = _difference(self.ask(points), self.ask(points, seed=1))
        if difference > SAME_DIFFERENCE:
            return "ok", f"random: two seeds differ by {difference:.2g} in a logit"
        if self._may_be_random:
            return "warning", "none seen, though it has a generator: gradients are averaged for nothing"
        return "ok", "none"

    def memory(self) -> Found:
        before = model_fingerprint(self._target)
        first = self.ask(self._images)
        self.ask(self._others)
        difference = _difference(first, self.ask(self._images))
        if difference > SAME_DIFFERENCE:
            raise BrokenContractError(
                f"its logits change by {difference:.2g} after other images: it keeps state between calls"
            )
        if model_fingerprint(self._target) != before:
            raise BrokenContractError("an attribute of it changes with a call: it keeps state between calls")
        return "ok", "none"

    def batch(self) -> Found:
        if self._may_be_random:
            return "ok", "not measurable: its noise is drawn for a batch at once"
        together = self.ask(self._images)
        alone = torch.cat([self.ask(image[None]) for image in self._images])
        difference = _difference(together, alone)
        if difference > BATCH_DIFFERENCE:
            return "warning", f"logits of an image alone differ by {difference:.2g}: an attack's batch decides with"
        return "ok", f"logits of an image alone differ by {difference:.2g}"

    def passes(self) -> Found:
        declared = declared_passes(self._target)
        counted = self._count(lambda points: self._target(points))
        self.contract.passes = counted or ONE_PASS
        if counted is None:
            return "warning", "it never calls the base model: one pass is counted for a query"
        if declared is not None and declared != counted:
            raise BrokenContractError(f"it says {_passes_in_words(declared)}, {_passes_in_words(counted)} were counted")
        return "ok", _passes_in_words(counted)

    def _count(self, ask: Callable[[Tensor], Tensor]) -> DefensePasses | None:
        """Return the passes of the base model that the logits of `ask` cost; None where it is not called at all."""
        self._generator.manual_seed(0)
        points = self._images.clone().requires_grad_()
        with counting(self._model) as counts:
            logits = ask(points)
            forwards, inner = counts
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), [points], allow_unused=True)
            outer = counts[1] - inner
        images = len(self._images)
        if not forwards:
            return None
        return DefensePasses(-(-forwards // images), -(-inner // images), -(-outer // images))

    def gradient(self) -> Found:
        self._generator.manual_seed(0)
        points = self._images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(self._target(points), self._labels, reduction="sum")
        if not loss.requires_grad:
            self.contract.has_gradient = False
            return self._stand_in("none: something in it stops gradients")
        (gradient,) = torch.autograd.grad(loss, [points], allow_unused=True, materialize_grads=True)
        useful = torch.isfinite(gradient).flatten(1).all(dim=1) & (gradient != 0).flatten(1).any(dim=1)
        blind = int((~useful).sum())
        self.contract.has_gradient = blind <= len(points) / 2
        found = f"all zero or not finite on {blind} of {len(points)} images"
        if not self.contract.has_gradient or hasattr(self._target, "backward_surrogate"):
            return self._stand_in(found)
        return ("warning", found) if blind else ("ok", f"finite and not zero on {len(points)} images")

    def _stand_in(self, found: str) -> Found:
        """Return what was `found` of the gradient, and whether another one can stand in for it."""
        try:
            surrogate = self._count(lambda points: stand_in_logits(self._target, self._model, points))
        except InputError as error:
            return "warning", f"{found}; {error}"
        self.contract.surrogate = surrogate or ONE_PASS
        own = hasattr(self._target, "backward_surrogate")
        return "warning", f"{found}; {'backward_surrogate' if own else 'the identity'} stands in for it in audit-bpda"

    def two_passes(self) -> Found:
        target: Any = self._target
        offered = [name for name in TWO_PASSES if hasattr(target, name)]
        if not offered:
            return "ok", "not offered"
        if len(offered) < len(TWO_PASSES):
            raise BrokenContractError(
                f"it offers {', '.join(offered)} only; offer first_logits, pseudo_labels and masked_logits"
            )
        if not hasattr(target, DRAWS):
            counted = self._count(lambda points: target.first_logits(points))
            setattr(target, DRAWS, counted.query_forwards if counted else 1)
        whole = self.ask(self._images)
        self._generator.manual_seed(0)
        with torch.no_grad():
            weights = target.pseudo_labels(target.first_logits(self._images))
            difference = _difference(whole, target.masked_logits(self._images, weights))
        if difference > SAME_DIFFERENCE:
            raise BrokenContractError(
                f"masked_logits(x, pseudo_labels(first_logits(x))) differs by {difference:.2g} from its logits"
            )
        self.contract.first_passes = int(target.draws)
        return "ok", f"offered; taken one by one they differ by {difference:.2g} from its logits"


def condition(model: nn.Module) -> tuple[str, tuple[bool, ...], int]:
    """Return what of a base model its defenses must leave alone: weights and structure, modes, and hooks."""
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    modes = (*(module.training for module in model.modules()), *(each.requires_grad for each in model.parameters()))
    return model_fingerprint(model), modes, hooks


def declared_passes(target: nn.Module) -> DefensePasses | None:
    """Return the passes that a defense declares; None where it declares none."""
    if not hasattr(target, "forward_passes"):
        return None
    said: Any = target
    forwards = int(said.forward_passes)
    inner = int(getattr(said, "inner_backward_passes", 0))
    return DefensePasses(forwards, inner, int(getattr(said, "backward_passes", forwards)))


@contextmanager
def counting(model: nn.Module) -> Iterator[list[int]]:
    """Count the images that pass `model` while open: forwards, backwards."""
    counts = [0, 0]

    def count_backward(gradient: Tensor) -> None:
        counts[1] += len(gradient)

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        counts[0] += len(inputs[0])
        if not (inputs[0].requires_grad and torch.is_grad_enabled()):
            return inputs
        # At the input, as a defense may take its logits from inside the model.
        images = inputs[0].view_as(inputs[0])
        images.register_hook(count_backward)  # type: ignore[no-untyped-call]
        return (images, *inputs[1:])

    handle = model.register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _passes_in_words(passes: DefensePasses) -> str:
    return (
        f"{passes.query_forwards} forward and {passes.query_backwards} backward passes per query, "
        f"{passes.gradient_backwards} backward per gradient"
    )
