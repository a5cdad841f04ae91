"""A fingerprint changes with whatever changes the logits, and with nothing else."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from igd_ray.models import load_model, model_fingerprint
from igd_ray.models.demo import demo_model
from igd_ray.models.normalization import Normalize
from tests.toys.commands import run_python

FACTORY = """
import torch
from torch import nn

def activation(x):
    return torch.relu(x)

class Base(nn.Module):
    def forward(self, x):
        return self.last(activation(self.first(x.flatten(1)))) * 1.0

class Net(Base):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

def net(scale=1.0):
    return Net(scale)
"""


@pytest.fixture
def load(tmp_path: Path):
    """Return the fingerprint of the model of `source`, always with the same weights."""
    torch.manual_seed(0)
    state = {
        name: torch.randn(shape)
        for name, shape in {
            "first.weight": (3, 4),
            "first.bias": (3,),
            "last.weight": (2, 3),
            "last.bias": (2,),
        }.items()
    }
    torch.save(state, tmp_path / "weights.pt")

    def fingerprint(source: str, **arguments: object) -> str:
        (tmp_path / "net.py").write_text(source)
        return model_fingerprint(load_model(f"{tmp_path}/net.py:net", weights=tmp_path / "weights.pt", **arguments))

    return fingerprint


def test_equal_models_have_equal_fingerprints() -> None:
    first = model_fingerprint(demo_model())
    torch.nn.Linear(3, 3)  # whatever is made in between
    assert model_fingerprint(demo_model()) == first
    assert model_fingerprint(copy.deepcopy(demo_model())) == first
    assert len(first) == 32


def test_another_process_gives_the_same() -> None:
    program = "from igd_ray.models import load_model, model_fingerprint; print(model_fingerprint(load_model('demo')))"
    done = run_python(program, environment={"PYTHONHASHSEED": "1"})
    assert done.stdout.strip() == model_fingerprint(demo_model()), done.stderr


def test_running_the_model_changes_nothing() -> None:
    model = demo_model()
    before = model_fingerprint(model)
    model(torch.rand(2, 1, 8, 8))
    assert model_fingerprint(model) == before


@pytest.mark.parametrize("name", ["linear.weight", "linear.bias", "bn1.running_var", "layer2.shortcut.0.weight"])
def test_it_changes_with_every_tensor(name: str) -> None:
    model = demo_model()
    before = model_fingerprint(model)
    model.state_dict()[name].view(-1)[0] += 1e-6
    assert model_fingerprint(model) != before


def test_it_changes_with_the_precision() -> None:
    assert model_fingerprint(demo_model().double()) != model_fingerprint(demo_model())


def test_it_changes_with_a_normalisation_that_the_state_dict_leaves_out() -> None:
    first, second = (Normalize(demo_model(), [mean], [1.0]) for mean in (0.0, 0.1))
    assert (
        first.state_dict().keys() == second.state_dict().keys() == Normalize(demo_model(), [0], [1]).state_dict().keys()
    )
    assert "mean" not in first.state_dict()
    assert model_fingerprint(first) != model_fingerprint(second)


class PlainTensor(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = torch.tensor(offset)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + self.offset


def test_it_changes_with_a_tensor_that_is_no_buffer() -> None:
    assert model_fingerprint(PlainTensor(0.0)) == model_fingerprint(PlainTensor(0.0))
    assert model_fingerprint(PlainTensor(0.0)) != model_fingerprint(PlainTensor(0.5))


def test_it_changes_with_the_structure() -> None:
    parts = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
    assert model_fingerprint(nn.Sequential(*parts)) != model_fingerprint(nn.Sequential(*parts[:2], nn.Tanh(), parts[2]))
    assert model_fingerprint(nn.Dropout(0.1)) != model_fingerprint(nn.Dropout(0.2))


def test_it_changes_with_the_code_of_a_forward(load) -> None:
    assert load(FACTORY) == load(FACTORY)
    assert load(FACTORY.replace("* 1.0", "* 2.0")) != load(FACTORY)


def test_it_changes_with_the_code_of_a_function_in_the_same_file(load) -> None:
    assert load(FACTORY.replace("torch.relu", "torch.tanh")) != load(FACTORY)


def test_it_changes_with_an_argument_that_no_weight_shows(load) -> None:
    assert load(FACTORY, scale=2.0) != load(FACTORY, scale=1.0)


def test_it_does_not_change_with_the_order_of_loading(load) -> None:
    other = FACTORY.replace("* 1.0", "* 3.0")
    first = load(FACTORY), load(other)
    second = load(other), load(FACTORY)
    assert first == second[::-1]


class Negated(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = torch.tensor(offset)

    def forward(self, x: Tensor) -> Tensor:
        return -x.flatten(1) + self.offset


def test_it_changes_with_the_code_of_a_base_class() -> None:
    first, second = (type("Derived", (base,), {"__module__": __name__}) for base in (PlainTensor, Negated))
    assert model_fingerprint(first(0.0)) != model_fingerprint(second(0.0))


def test_two_classes_of_one_name_are_told_apart() -> None:
    def make(sign: int) -> nn.Module:
        if sign > 0:

            class Same(nn.Module):
                def forward(self, x: Tensor) -> Tensor:
                    return +x
        else:

            class Same(nn.Module):
                def forward(self, x: Tensor) -> Tensor:
                    return -x

        return Same()

    # Order of construction decides where the classes lie in memory, and so the order of a set of them.
    first, second = nn.Sequential(make(1), make(-1)), nn.Sequential(make(1), make(-1))
    assert model_fingerprint(first) == model_fingerprint(second)


def test_a_class_without_source_counts_by_name() -> None:
    namespace: dict[str, type[nn.Module]] = {"nn": nn}
    exec("class Typed(nn.Module):\n    pass\nclass Other(nn.Module):\n    pass", namespace)  # as typed into a shell
    assert model_fingerprint(namespace["Typed"]()) == model_fingerprint(namespace["Typed"]())
    assert model_fingerprint(namespace["Typed"]()) != model_fingerprint(namespace["Other"]())


def holding(**attributes: object) -> nn.Module:
    """A module with plain attributes."""
    module = nn.Identity()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("_temp", 1.0, 2.0),
        ("_scale", torch.ones(1), torch.zeros(1)),
        ("scales", [9.0], [8.0]),
        ("scales", [1], [True]),
        ("scales", [1, [2, (3,)]], [1, [2, (4,)]]),
        ("scales", ((1, 2), (3, 4)), ((1, 2), (3, 5))),
        ("scales", ("a, b",), ("a", "b")),
        ("settings", {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ("settings", {"a": {1, 2}}, {"a": {1, 3}}),
        ("mean", np.array([0.5, 0.25]), np.array([0.5, 0.2])),
        ("mean", np.zeros(2), np.zeros((2, 1))),
        ("mean", np.float32(1), np.float32(2)),
        ("mean", np.array([1, "a"], dtype=object), np.array([2, "a"], dtype=object)),
        ("mean", [torch.ones(2)], [torch.zeros(2)]),
        ("_activation", torch.relu, torch.tanh),
        ("_dtype", torch.float32, torch.float16),
        ("mixed", [object(), 1.0], [object(), 2.0]),
    ],
)
def test_it_changes_with_every_plain_attribute(name: str, first: object, second: object) -> None:
    fingerprint = model_fingerprint(holding(**{name: first}))
    assert model_fingerprint(holding(**{name: copy.deepcopy(first)})) == fingerprint
    assert model_fingerprint(holding(**{name: second})) != fingerprint


@pytest.mark.parametrize(
    "make",
    [object, lambda: [object()], lambda: {"key": object()}, lambda: np.array([object()]), lambda: Exotic()],
    ids=["object", "in a list", "in a dict", "in an array", "no hash"],
)
def test_objects_that_only_have_an_address_are_passed_over(make: Callable[[], object]) -> None:
    assert model_fingerprint(holding(thing=make())) == model_fingerprint(holding(thing=make()))


class Exotic:
    __hash__ = None  # type: ignore[assignment]


def test_the_order_of_a_dict_and_a_list_that_holds_itself_do_no_harm() -> None:
    first, second = holding(settings={"a": 1, "b": 2}), holding(settings={"b": 2, "a": 1})
    assert model_fingerprint(first) == model_fingerprint(second)
    loop: list[object] = [1]
    loop.append(loop)
    assert len(model_fingerprint(holding(loop=loop))) == 32


def test_hooks_and_the_mode_are_no_attributes() -> None:
    model = demo_model()
    before = model_fingerprint(model)
    model.register_forward_hook(lambda *_: None)
    assert model_fingerprint(model.train()) == before


def test_another_process_describes_attributes_alike() -> None:
    program = (
        "import numpy as np, torch; from igd_ray.models import model_fingerprint; m = torch.nn.Identity();"
        "m._names = {'a', 'b', 'c', 'd'}; m.by = {n: {n} for n in m._names}; m.act = torch.relu;"
        "m.things = [object(), torch.ones(2), np.ones(2), lambda x: x]; print(model_fingerprint(m))"
    )
    found = set()
    for seed in ("1", "2"):
        done = run_python(program, environment={"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
