"""RobustBench's architectures with weights from a file; nothing is downloaded here."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from igd_ray.errors import InputError
from igd_ray.models import find_layer, load_model
from igd_ray.models.robustbench import _zoo

NAME = "Wong2020Fast"  # a PreActResNet-18 on CIFAR-10, and a ResNet-50 on ImageNet
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("the tests do not download")

    monkeypatch.setattr(_zoo()[0], "download_gdrive_new", refuse)


@pytest.fixture(scope="module")
def original() -> nn.Module:
    """The zoo's own class, with random weights."""
    _, models = _zoo()
    by_name = {
        (dataset.value, threat.value): entries for dataset in models for threat, entries in models[dataset].items()
    }
    torch.manual_seed(0)
    model: nn.Module = by_name["cifar10", "Linf"][NAME]["model"]().eval()
    return model


@pytest.mark.parametrize("spec", [f"robustbench:{NAME}", f"robustbench:cifar10/Linf/{NAME}"])
@pytest.mark.parametrize("how", ["safetensors", "bare", "state_dict", "module."])
def test_weights_from_a_file(original: nn.Module, tmp_path: Path, spec: str, how: str) -> None:
    state = original.state_dict()
    path = tmp_path / ("weights.safetensors" if how == "safetensors" else "weights.pt")
    if how == "safetensors":
        safetensors.torch.save_file(state, path)
    elif how == "module.":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    else:
        torch.save(state if how == "bare" else {how: state}, path)
    model = load_model(spec, weights=path)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), original(IMAGES))
    assert not any(module.training for module in model.modules())
    assert find_layer(model, "penultimate", IMAGES[:1]).shape == (512,)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("Wong2020Fst", NAME),
        ("cifar10/Linf/wong2020fast", NAME),
        ("Addepalli2022Eficient_RN18", "Addepalli2022Efficient_RN18"),
    ],
)
def test_an_unknown_name_is_answered_with_close_ones(name: str, close: str) -> None:
    with pytest.raises(InputError, match=f"RobustBench has no model '{name}'; did you mean .*'{close}'"):
        load_model(f"robustbench:{name}")


def test_a_model_of_another_dataset_is_not_taken() -> None:
    with pytest.raises(InputError, match="has no model 'cifar100/Linf/Wong2020Fast'"):
        load_model("robustbench:cifar100/Linf/Wong2020Fast")


@pytest.mark.parametrize("name", ["cifar10/Wong2020Fast", "a/b/c/d"])
def test_a_name_has_one_part_or_three(name: str) -> None:
    with pytest.raises(InputError, match="NAME or DATASET/THREAT/NAME, not"):
        load_model(f"robustbench:{name}")


def test_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="take no arguments"):
        load_model(f"robustbench:{NAME}", width=3)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no file at .*{name}"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_truncated_weights(original: nn.Module, tmp_path: Path, name: str) -> None:
    torch.save({"first": torch.zeros(100)}, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    with pytest.raises(InputError) as raised:
        load_model(f"robustbench:{NAME}", weights=tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_of_another_model(tmp_path: Path, name: str) -> None:
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    if name.endswith(".pt"):
        torch.save(state, tmp_path / name)
    else:
        safetensors.torch.save_file(state, tmp_path / name)
    with pytest.raises(InputError, match=r"missing|Missing|could not be loaded"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / name)


class Creates:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "extra": Creates(tmp_path / "created")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="hold more than tensors and are not loaded"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / "weights.pt")
    assert not (tmp_path / "created").exists()


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igd_ray.models.robustbench.DOWNLOADS", tmp_path)
    with pytest.raises(InputError, match=r"could not be loaded \(ConnectionError: .*pass its checkpoint as --weights"):
        load_model(f"robustbench:{NAME}")
