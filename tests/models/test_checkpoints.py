"""Weights files: what is taken, and what is refused without running or changing anything."""

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models.checkpoints import load_weights, read_state


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained() -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = small()
    model(torch.randn(8, 3))  # moves the running statistics
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_loaded(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"net": {f"module.{name}": tensor for name, tensor in state.items()}, "acc": 93.1},
        lambda state: {"model_ema": {"state_dict": state}},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"n_averaged": torch.tensor(7), **{f"module.{n}": tensor for n, tensor in state.items()}},
        lambda state: {f"model.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {name.replace("0.", "module.0."): tensor for name, tensor in state.items()},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"model.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.model.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=[
        "bare",
        "state_dict",
        "model_state_dict",
        "model",
        "twice",
        "twice the other way",
        "net",
        "only averaged",
        "compiled",
        "averaged by torch",
        "model.module.",
        "a prefix on some",
        "module.",
        "model.",
        "module.model.",
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_pytorch_files(tmp_path: Path, wrap, legacy: bool) -> None:
    state = trained()
    torch.save(wrap(state), tmp_path / "weights.pt", _use_new_zipfile_serialization=not legacy)
    model = small()
    load_weights(model, tmp_path / "weights.pt")
    assert_loaded(model, state)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors(tmp_path: Path, prefix: str) -> None:
    state = trained()
    safetensors.torch.save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    model = small()
    load_weights(model, str(tmp_path / "w.safetensors"))
    assert_loaded(model, state)


def test_a_prefix_that_the_model_has_is_matched_or_added(tmp_path: Path) -> None:
    state = trained()
    for prefix in ("", "model.", "module.", "module.model."):
        torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "weights.pt")
        model = nn.Sequential(OrderedDict(model=small()))
        load_weights(model, tmp_path / "weights.pt")
        assert_loaded(model, {f"model.{name}": tensor for name, tensor in state.items()})


def test_two_tensors_that_a_prefix_tells_apart_stay_apart(tmp_path: Path) -> None:
    state = {**trained(), "module.0.weight": torch.zeros(4, 3)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"0 missing; 1 unexpected \(module.0.weight\)"):
        load_weights(small(), tmp_path / "weights.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_other_precisions_become_the_model_s(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    state = {place: tensor.to(dtype) if tensor.is_floating_point() else tensor for place, tensor in trained().items()}
    if name.endswith(".pt"):
        torch.save(state, tmp_path / name)
    else:
        safetensors.torch.save_file(state, tmp_path / name)
    model = small()
    load_weights(model, tmp_path / name)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    # Every number of a shorter type is one of float32; those of the longer one came from there.
    assert_loaded(model, {place: tensor.to(model.state_dict()[place].dtype) for place, tensor in state.items()})


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {**trained(), "2.weight": torch.ones(2, 4).to(dtype)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=rf"2.weight should hold torch.float32, holds {dtype}; save unquantised"):
        load_weights(small(), tmp_path / "weights.pt")


def test_trained_and_averaged_weights_in_one_file_are_not_chosen_between(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    averaged = {name: tensor + 1 for name, tensor in trained().items()}
    torch.save({"state_dict": trained(), "state_dict_ema": averaged, "epoch": 3}, path)
    with pytest.raises(
        InputError, match=r"several state dicts \(state_dict, state_dict_ema\); say which one: .*#state_"
    ):
        load_weights(small(), path)
    for part, state in (("state_dict", trained()), ("state_dict_ema", averaged)):
        model = small()
        load_weights(model, f"{path}#{part}")
        assert_loaded(model, state)


def test_a_state_dict_inside_others_is_named_by_the_keys_that_lead_there(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"ema": {"model": trained()}, "generator": {"0.weight": torch.zeros(1)}, "epoch": 3}, path)
    for part in ("ema", "ema.model"):
        assert read_state(f"{path}#{part}").keys() == trained().keys()
    assert read_state(f"{path}#generator").keys() == {"0.weight"}
    for part in ("epoch", "emma", "ema.epoch", ""):
        with pytest.raises(InputError, match=rf"no state dict '{part}'; it holds ema, generator, epoch"):
            read_state(f"{path}#{part}")
    with pytest.raises(InputError, match=r"did you mean 'ema'"):
        read_state(f"{path}#emma")


def test_a_file_with_the_mark_in_its_name_is_a_file(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "run#3.pt")
    assert read_state(tmp_path / "run#3.pt").keys() == trained().keys()
    with pytest.raises(InputError, match=r"no file at .*other"):
        read_state(tmp_path / "other#3.pt")


def test_settings_and_numpy_s_numbers_beside_the_weights_are_no_code(tmp_path: Path) -> None:
    state = trained()
    beside = {"args": argparse.Namespace(lr=0.1, name="x"), "accuracy": np.float64(0.9), "epochs": np.int64(3)}
    torch.save({"state_dict": state, **beside}, tmp_path / "weights.pt")
    model = small()
    load_weights(model, tmp_path / "weights.pt")
    assert_loaded(model, state)


def test_a_tensor_under_two_names_is_needed_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    state = {"0.weight": torch.ones(3, 3), "0.bias": torch.ones(3), "1.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert_loaded(model, {**state, "1.weight": torch.ones(3, 3)})
    del state["0.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"2 missing \(0.weight, 1.weight\)"):
        load_weights(model, tmp_path / "weights.pt")


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = trained()
    counter = state.pop("1.num_batches_tracked")
    assert counter == 1
    torch.save(state, tmp_path / "weights.pt")
    model = small()
    load_weights(model, tmp_path / "weights.pt")
    assert_loaded(model, {**state, "1.num_batches_tracked": torch.tensor(0)})


def test_other_buffers_may_not(tmp_path: Path) -> None:
    state = trained()
    del state["1.running_mean"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"1 missing \(1.running_mean\); 0 unexpected"):
        load_weights(small(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"no file at .*{name}"):
        read_state(tmp_path / name)
    with pytest.raises(InputError, match="no file at"):
        read_state(tmp_path)  # a folder is no file


def written(path: Path, kind: str) -> bytes:
    if kind == "safetensors":
        safetensors.torch.save_file(trained(), path)
    else:
        torch.save(trained(), path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "before 1.6", "safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    whole = written(path, kind)
    for length in {0, 1, 2, 7, 8, 9, *range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"^weights: ") as raised:
            read_state(path)
        assert "\n" not in str(raised.value)
        assert "could run code" not in str(raised.value), length


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_cut_through_the_middle_of_a_name_is_no_code(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    whole = written(path, "before 1.6")
    name = whole.index(b"torch._utils\n")
    for length in range(name - 2, name + 40):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a whole PyTorch file"):
            read_state(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "before 1.6", "safetensors"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    whole = written(path, kind)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        damaged = bytearray(whole)
        for position in torch.randint(len(whole), (3,), generator=generator).tolist():
            damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            state = read_state(path)
        except InputError:
            continue
        assert all(isinstance(tensor, Tensor) for tensor in state.values())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!doctype html><title>404</title>", "is a web page, such as a download's confirmation page"),
        (b"\xef\xbb\xbf\n <html>Google Drive can't scan this file for viruses", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of git-lfs"),
        (b"", "copy it again"),
        (b"MZ\x90\x00", "copy it again"),
    ],
    ids=["page", "page with a byte order mark", "XML", "git-lfs", "empty", "something else"],
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_a_download_left_under_the_file_s_name_is_named(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_state(tmp_path / name)


class Creates:
    """Unpickling it creates a folder, as an attacker's object would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "before 1.6", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, created = tmp_path / "weights.pt", tmp_path / "created"
    content = {"state_dict": trained(), "extra": Creates(created)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(InputError, match=r"holds more than tensors.*save its state dict as safetensors"):
        read_state(path)
    assert not created.exists()
    # The same file does create one where it is trusted: the test above could fail.
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert created.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds more than tensors"):
        read_state(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {}, {"epoch": 3}, {"state_dict": {}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(tmp_path / "weights.pt")


def test_wrong_names_are_listed(tmp_path: Path) -> None:
    state = trained()
    state["head.weight"] = state.pop("2.weight")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"1 missing \(2.weight\); 1 unexpected \(head.weight\); check the arch"):
        load_weights(small(), tmp_path / "weights.pt")


def test_many_wrong_names_are_shortened(tmp_path: Path) -> None:
    torch.save({f"other.{number}": torch.zeros(1) for number in range(9)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"8 missing \(.*, …\); 9 unexpected \(.*, …\)") as raised:
        load_weights(small(), tmp_path / "weights.pt")
    assert "\n" not in str(raised.value)


def test_wrong_shapes_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = trained()
    state["2.weight"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "weights.pt")
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=r"2.weight should be \[2, 4\], is \[5, 4\]"):
        load_weights(model, tmp_path / "weights.pt")
    assert_loaded(model, before)
