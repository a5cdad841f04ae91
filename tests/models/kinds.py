"""Classifiers of 8×8 grey images with the habits that other people's code has; each factory makes its own weights."""

import collections
import os
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

CLASSES = 3


def plain(classes: int = CLASSES, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


class Then(nn.Module):
    """A model whose answer is `last` of the logits."""

    def __init__(self, inner: nn.Module, last) -> None:
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x: Tensor) -> object:
        return self.last(self.inner(x))


class First(nn.Module):
    """A model that does something with its images first."""

    def __init__(self, first, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = first, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.first(x))


Answer = collections.namedtuple("Answer", ["logits", "loss"])


class Attributes:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def as_tuple() -> nn.Module:
    return Then(plain(), lambda logits: (logits, logits.mean()))


def as_list() -> nn.Module:
    return Then(plain(), lambda logits: [logits.mean(), logits])


def as_named_tuple() -> nn.Module:
    return Then(plain(), lambda logits: Answer(logits, logits.mean()))


def as_dict() -> nn.Module:
    return Then(plain(), lambda logits: {"logits": logits, "loss": logits.mean()})


def as_object() -> nn.Module:
    return Then(plain(), Attributes)


def nothing() -> nn.Module:
    return Then(plain(), lambda logits: None)


def labels() -> nn.Module:
    return Then(plain(), lambda logits: logits.argmax(dim=1))


def one_axis() -> nn.Module:
    return Then(plain(), lambda logits: logits.flatten())


def in_float64() -> nn.Module:
    return First(Tensor.double, plain().double())


def in_float16() -> nn.Module:
    return First(Tensor.half, plain().half())


def in_bfloat16() -> nn.Module:
    return First(Tensor.bfloat16, plain().bfloat16())


def halves_that_cast_nothing() -> nn.Module:
    return plain().half()


def casts_to_its_own_type() -> nn.Module:
    inner = plain().double()
    return First(lambda x: x.to(next(inner.parameters()).dtype), inner)


def casts_to_another_type() -> nn.Module:
    return First(Tensor.float, plain().half())


def float64_constants() -> nn.Module:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(0.3, dtype=torch.float64).view(1, 1, 1, 1))
            self.inner = plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x - self.mean)

    return Normalized()


def autocast() -> nn.Module:
    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x).float()

    return Autocast()


def complex_numbers() -> nn.Module:
    return First(lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, plain())


def probabilities() -> nn.Module:
    return Then(plain(), lambda logits: logits.softmax(dim=1))


def log_probabilities() -> nn.Module:
    return Then(plain(), lambda logits: logits.log_softmax(dim=1))


def temperature() -> nn.Module:
    return Then(plain(), lambda logits: logits / 1.5)


def minus_infinity() -> nn.Module:
    return Then(plain(), lambda logits: logits.masked_fill(logits < logits.mean(), float("-inf")))


def not_a_number() -> nn.Module:
    return Then(plain(), lambda logits: logits / 0 * 0)


def compiled() -> nn.Module:
    return torch.compile(plain())


def compiled_inside() -> nn.Module:
    return nn.Sequential(nn.Identity(), torch.compile(plain()))


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile()
    return model


def compiled_forward() -> nn.Module:
    model = Then(plain(), nn.Identity())
    model.forward = torch.compile(model.forward)
    return model


def parallel() -> nn.Module:
    return nn.DataParallel(plain())


def parallel_and_compiled() -> nn.Module:
    return torch.compile(nn.DataParallel(plain()))


def scripted() -> nn.Module:
    return torch.jit.script(plain())


def turns_to_training() -> nn.Module:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain()

        def forward(self, x: Tensor) -> Tensor:
            self.inner.train()
            return self.inner(x)

    return Training()


def own_statistics() -> nn.Module:
    class Statistics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
            return self.inner(x - self.mean)

    return Statistics()


def counts_its_calls() -> nn.Module:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = plain(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x)

    return Counting()


def dropout() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5), plain())


def dropout_in_forward() -> nn.Module:
    return First(lambda x: functional.dropout(x, 0.1), plain())


def shared_weights() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    second.weight = first.weight
    return nn.Sequential(nn.Conv2d(1, 4, 3), first, nn.ReLU(), second, nn.Flatten(), nn.Linear(144, CLASSES))


def layer_used_twice() -> nn.Module:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.block = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(144, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.block(self.stem(x)).relu()).relu().flatten(1))

    return Twice()


def in_place_behind_the_head() -> nn.Module:
    return Then(plain(), lambda logits: logits.mul_(0.5))


def weight_norm() -> nn.Module:
    model = plain()
    parametrizations.weight_norm(model[5])
    return model


def no_parameters() -> nn.Module:
    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :CLASSES]

    return Means()


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    return nn.Sequential(
        nn.Unflatten(3, (1, 8)), nn.Flatten(1, 3), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def convolutional_head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, CLASSES, 1), nn.Flatten())


def three_channels() -> nn.Module:
    return plain(channels=3)


def larger_images() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, CLASSES))


def random_weights() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def leaves() -> nn.Module:
    sys.exit(0)


def leaves_at_once() -> nn.Module:
    os._exit(0)


def leaves_in_forward() -> nn.Module:
    return Then(plain(), lambda logits: sys.exit("enough"))


def fails() -> nn.Module:
    raise RuntimeError("no such\nthing")


def a_class() -> nn.Module:
    return nn.Linear


def a_dict() -> nn.Module:
    return plain().state_dict()
