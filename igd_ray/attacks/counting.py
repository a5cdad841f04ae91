"""Counts what an attack asks of its target, whatever code the attack is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from igd_ray.attacks.adaptive.surrogate import Surrogate
from igd_ray.attacks.adaptive.two_pass import TwoPass
from igd_ray.errors import InputError


@dataclass(frozen=True)
class Cost:
    """Passes of the base model that one image costs.

    Attributes:
        forwards, backwards: of a query, with or without a gradient.
        gradient: backward passes of a gradient of the logits, on top.
    """

    forwards: int
    backwards: int
    gradient: int


class CountedTarget(nn.Module):
    """A target's logits, with counts of the images that went forward and came back as gradients.

    Every answer is checked to be logits, whoever asks. Images and gradients are handed over contiguous: some attacks
    call `.view` on them, which fails on channels-last memory.

    Attributes:
        queries: images for which the target was asked for logits.
        forwards, backwards: passes of one image through the base model. A defense that runs its base model several
            times a call says so: `forward_passes` and `inner_backward_passes`, what a query costs with or without a
            gradient (1 and 0 by default), and `backward_passes`, what a gradient of the logits costs on top
            (`forward_passes` by default).
    """

    def __init__(self, target: nn.Module) -> None:
        super().__init__()
        # Not registered as a submodule: the counter is a view on the target, not its owner.
        self.__dict__["target"] = target
        forwards = int(getattr(target, "forward_passes", 1))
        self._cost = Cost(
            forwards=forwards,
            backwards=int(getattr(target, "inner_backward_passes", 0)),
            gradient=int(getattr(target, "backward_passes", forwards)),
        )
        self.queries = self.forwards = self.backwards = 0
        # The classes given at the first look at a whole batch.
        self.first_look: Tensor | None = None
        self._awaited: int | None = None
        self._num_classes: int | None = None

    def num_classes(self, images: Tensor) -> int:
        """Return the number of classes, from the last logits seen or, counted, those of the first of `images`."""
        if self._num_classes is None:
            with torch.no_grad():
                self(images[:1])
        assert self._num_classes is not None
        return self._num_classes

    def await_look(self, images: int) -> None:
        """Remember the classes of the next answer for so many images as `first_look`, int64 [images]."""
        self.first_look, self._awaited = None, images

    def forward(self, images: Tensor) -> Tensor:
        """Return the target's logits [B, C] for `images` [B, channels, H, W]."""
        logits = self.ask(self.__dict__["target"], images, self._cost)
        self._num_classes = logits.shape[1]
        return logits

    def two_pass(self) -> "CountedTwoPass":
        """Return the target's two passes one by one; what they are asked is counted here, too.

        Raises:
            InputError: if the target does not offer them.
        """
        target = self.__dict__["target"]
        if not isinstance(target, TwoPass):
            raise InputError(
                f"this attack aims at the two passes of a defense, which {type(target).__name__} does not offer; "
                "attack a defense with masks (first_logits, pseudo_labels, masked_logits), or leave the attack out"
            )
        return CountedTwoPass(self, target)

    def surrogate(self) -> Callable[[Tensor], Tensor]:
        """Return what gives the target's logits with a stand-in's gradient; what it is asked is counted here, too.

        Raises:
            InputError: if the target does not offer one.
        """
        target = self.__dict__["target"]
        if not isinstance(target, Surrogate):
            raise InputError(
                f"this attack follows the gradient of a stand-in, which {type(target).__name__} does not offer; attack "
                "a defense without useful gradients, or leave the attack out"
            )
        return partial(self.ask, target.surrogate_logits, cost=Cost(*target.surrogate_passes))

    def ask(self, logits_of: Callable[[Tensor], Tensor], images: Tensor, cost: Cost) -> Tensor:
        """Return `logits_of(images)`, counted as one query per image, of the given cost.

        Raises:
            InputError: if they are not float [B, C], B the number of images and C at least 2.
        """
        self.queries += len(images)
        self.forwards += len(images) * cost.forwards
        self.backwards += len(images) * cost.backwards
        if images.requires_grad:
            images = _ContiguousGradient.apply(images)  # type: ignore[no-untyped-call]
        logits = logits_of(images.contiguous())
        self._check_logits(logits, len(images))
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            # A target that stops gradients has the gradient 0, which attacks and checks take for what it is.
            logits = logits + 0 * images.flatten(1).sum(dim=1, keepdim=True)
        if self._awaited == len(images):
            self.first_look, self._awaited = logits.detach().argmax(dim=1), None
        if logits.requires_grad:
            logits.register_hook(partial(self._count_gradient, cost.gradient))  # type: ignore[no-untyped-call]
        return logits

    def _check_logits(self, answer: object, images: int) -> None:
        if not isinstance(answer, Tensor):
            given = f"a {type(answer).__name__}"
        elif not answer.is_floating_point() or answer.ndim != 2 or len(answer) != images or answer.shape[1] < 2:
            given = f"{answer.dtype} {list(answer.shape)}"
        else:
            return
        raise InputError(
            f"a model must return float logits [{images}, classes], at least two classes, for {images} images, but "
            f"{type(self.__dict__['target']).__name__} returned {given}; attack a model that returns its logits only"
        )

    def _count_gradient(self, passes: int, gradient: Tensor) -> None:
        self.backwards += len(gradient) * passes


class CountedTwoPass:
    """The two passes of a target; each counts as a query."""

    def __init__(self, counted: CountedTarget, target: TwoPass) -> None:
        self._counted, self._target = counted, target
        self._first_cost = Cost(forwards=target.draws, backwards=0, gradient=target.draws)
        self._masked_cost = Cost(forwards=1, backwards=0, gradient=1)

    def first_logits(self, images: Tensor) -> Tensor:
        """Return the first pass's logits, [B, C]."""
        return self._counted.ask(self._target.first_logits, images, self._first_cost)

    def pseudo_labels(self, first_logits: Tensor) -> Tensor:
        """Return the class weights of the second pass, [B, C]; costs nothing."""
        return self._target.pseudo_labels(first_logits)

    def masked_logits(self, images: Tensor, class_weights: Tensor) -> Tensor:
        """Return the second pass's logits, [B, C], for the given class weights [B, C]."""
        return self._counted.ask(
            lambda points: self._target.masked_logits(points, class_weights), images, self._masked_cost
        )


class _ContiguousGradient(torch.autograd.Function):
    """The identity, whose gradient is contiguous."""

    @staticmethod
    def forward(_context: Any, images: Tensor) -> Tensor:
        # Unlike a view, this keeps the strides as they are, and with them the rounding of what follows.
        return images.detach()

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def even_shares(
    target: CountedTarget, before: tuple[int, int, int], images: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Share what `target` counted since `before` (queries, forwards, backwards) evenly, int64 [images] each.

    The first images get one more where the count does not divide; the sum is exact.
    """

    def shares(total: int) -> Tensor:
        each, rest = divmod(total, images)
        counts = torch.full((images,), each, dtype=torch.int64, device=device)
        counts[:rest] += 1
        return counts

    queries, forwards, backwards = before
    return (
        shares(target.queries - queries),
        shares(target.forwards - forwards),
        shares(target.backwards - backwards),
    )
