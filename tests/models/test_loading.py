"""Models by spec: what loads, and what each mistake is answered with."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models import check_model, load_model
from igd_ray.models.demo import DemoResNet, demo_model

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.hidden, self.linear = nn.Linear(4, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.linear(self.drop(torch.relu(self.hidden(x.flatten(1)))))

def net(width=3, classes=2):
    return Net(width, classes)

def net_without_a_return(width=3):
    Net(width, 2)

def broken():
    raise KeyError("first line\\nsecond line")

NUMBER = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    return tmp_path / "net.py"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of `net(width=5)`, in double precision."""
    torch.manual_seed(0)
    layers = {"hidden": nn.Linear(4, 5), "linear": nn.Linear(5, 2)}
    state = nn.ModuleDict(layers).double().state_dict()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_demo() -> None:
    model = load_model("demo")
    images = torch.rand(3, 1, 8, 8)
    assert isinstance(model, DemoResNet)
    assert torch.equal(model(images), demo_model()(images))


def test_a_factory_with_arguments(source: Path, weights: Path) -> None:
    model = load_model(f"{source}:net", weights=weights, width=5)
    state = safetensors.torch.load_file(weights)
    x = torch.rand(3, 1, 2, 2)
    hidden = torch.relu(x.flatten(1).double() @ state["hidden.weight"].T + state["hidden.bias"])
    expected = hidden @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(model(x), expected.float())


@pytest.mark.parametrize("spec", ["demo", "file"])
def test_models_are_ready_to_evaluate(spec: str, source: Path, weights: Path) -> None:
    model = load_model("demo") if spec == "demo" else load_model(f"{source}:net", weights=weights, width=5)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_two_files_of_one_name_are_two_models(tmp_path: Path, weights: Path) -> None:
    models = []
    for folder, factor in (("a", "1.0"), ("b", "2.0")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "net.py"
        path.write_text(SOURCE.replace("return self.linear(", f"return {factor} * self.linear("))
        models.append(load_model(f"{path}:net", weights=weights, width=5))
    x = torch.rand(3, 1, 2, 2)
    torch.testing.assert_close(models[1](x), 2 * models[0](x))


def test_a_changed_file_is_read_again(source: Path, weights: Path) -> None:
    x = torch.rand(3, 1, 2, 2)
    before = load_model(f"{source}:net", weights=weights, width=5)(x)
    source.write_text(SOURCE.replace("return self.linear(", "return 2 * self.linear("))
    torch.testing.assert_close(load_model(f"{source}:net", weights=weights, width=5)(x), 2 * before)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("dmeo", "did you mean 'demo'?"),
        ("demo:", "did you mean 'demo'?"),
        ("robustbnch:Wong2020Fast", "did you mean 'robustbench'?"),
        ("tim:resnet18", "did you mean 'timm'?"),
        ("timm:", "timm:NAME"),
        ("net.py", "path/to/file.py:factory"),
        ("", "known forms: demo, robustbench:NAME"),
    ],
)
def test_unknown_specs_name_the_known_forms(spec: str, hint: str) -> None:
    with pytest.raises(InputError, match="unknown model") as raised:
        load_model(spec)
    assert hint in str(raised.value)


@pytest.mark.parametrize("arguments", [{"weights": "some.pt"}, {"width": 3}])
def test_the_demo_takes_nothing(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match="'demo' has its own weights and no arguments"):
        load_model("demo", **arguments)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file at .*nothing\.py"):
        load_model(f"{tmp_path}/nothing.py:net")


def test_a_factory_that_is_not_there(source: Path) -> None:
    with pytest.raises(InputError, match=r"has no factory 'nett'; did you mean 'net'"):
        load_model(f"{source}:nett")


def test_a_factory_that_is_a_number(source: Path) -> None:
    with pytest.raises(InputError, match="has no factory 'NUMBER'"):
        load_model(f"{source}:NUMBER")


def test_weights_are_needed(source: Path) -> None:
    with pytest.raises(InputError, match="needs its weights: pass --weights FILE"):
        load_model(f"{source}:net")


def test_weights_that_are_not_there(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at"):
        load_model(f"{source}:net", weights=tmp_path / "nothing.pt")


def test_weights_of_another_width(source: Path, weights: Path) -> None:
    with pytest.raises(InputError, match=r"hidden.bias should be \[3\], is \[5\]; check the architecture"):
        load_model(f"{source}:net", weights=weights)


@pytest.mark.parametrize(
    ("factory", "arguments", "reason"),
    [
        ("net", {"widht": 5}, "unexpected keyword argument 'widht'"),
        ("net", {"width": "five"}, "TypeError"),
        ("net", {"width": -1}, "RuntimeError"),
        ("broken", {}, "KeyError"),
        ("net_without_a_return", {}, "return an nn.Module, got NoneType"),
    ],
)
def test_arguments_that_the_factory_cannot_use(source: Path, factory: str, arguments, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        load_model(f"{source}:{factory}", weights="unused.pt", **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source_text", ["def net(:\n", "import not_a_package_at_all\n", "raise OSError('a\\nb')\n"])
def test_a_file_that_cannot_be_imported(tmp_path: Path, source_text: str) -> None:
    (tmp_path / "bad.py").write_text(source_text)
    for _ in range(2):  # a failed import leaves nothing behind that a second try would take for the module
        with pytest.raises(InputError, match=r"bad\.py cannot be imported: \w+Error") as raised:
            load_model(f"{tmp_path}/bad.py:net", weights="unused.pt")
        assert "\n" not in str(raised.value)


class Constant(nn.Module):
    """Gives the same output whatever comes."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output


DIGIT = torch.rand(1, 1, 8, 8)
TEN = tuple("abcdefghij")


def test_a_model_that_fits_its_data() -> None:
    assert check_model(demo_model(), DIGIT, TEN, spec="demo") == 10


def test_a_model_with_another_number_of_classes_than_the_data() -> None:
    with pytest.raises(InputError, match="model 'demo' has 10 classes, the data 9"):
        check_model(demo_model(), DIGIT, TEN[:9], spec="demo")


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 28, 28)])
def test_a_model_for_other_images_than_the_data(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"model 'demo' cannot take images .*{shape[1]}, {shape[2]}"):
        check_model(demo_model(), torch.rand(shape), TEN, spec="demo")
    convolution = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"cannot take images.*channels"):
        check_model(convolution, torch.rand(shape), TEN, spec="x")


@pytest.mark.parametrize(
    "output",
    [torch.zeros(1, 10, 1, 1), torch.zeros(1, 10, dtype=torch.int64), (torch.zeros(1, 10),), torch.zeros(10)],
)
def test_a_model_that_returns_no_logits(output: object) -> None:
    with pytest.raises(InputError, match=r"'x' must return float logits \[B, C\], not"):
        check_model(Constant(output), DIGIT, TEN, spec="x")


class Raising(nn.Module):
    """Fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        IndexError("out\nof"),
        TypeError("x"),
        KeyError("k"),
        AttributeError("a"),
        InputError("i"),
        OSError(),
        Exception(),
    ],
)
def test_whatever_a_model_raises_is_one_line(error: Exception) -> None:
    with pytest.raises(InputError, match=r"model 'x' cannot take images \[1, 8, 8\]: .+") as raised:
        check_model(Raising(error), DIGIT, TEN, spec="x")
    assert "\n" not in str(raised.value)


def test_a_model_that_gives_nan() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 3] = torch.nan
    with pytest.raises(InputError, match="model 'x' gives NaN or infinite logits"):
        check_model(Constant(logits), DIGIT, TEN, spec="x")
