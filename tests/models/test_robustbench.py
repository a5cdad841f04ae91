"""RobustBench's architectures with weights from a file; nothing is downloaded here."""

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models import find_layer, load_model
from igd_ray.models.zoo import Entry, build_entry, find_entry, robustbench_modules

NAME = "Wong2020Fast"  # a PreActResNet-18 on CIFAR-10, and a ResNet-50 on ImageNet
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LARGE = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("the tests do not download")

    monkeypatch.setattr(robustbench_modules()[0], "download_gdrive_new", refuse)
    monkeypatch.setattr("igd_ray.models.robustbench.transfer", refuse)


def untrained(name: str, *, seed: int = 0) -> nn.Module:
    """The zoo's own class, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_entry(find_entry(name))


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return untrained(NAME)


@pytest.mark.parametrize("spec", [f"robustbench:{NAME}", f"robustbench:cifar10/Linf/{NAME}"])
@pytest.mark.parametrize("how", ["safetensors", "bare", "state_dict", "module.", "without mu and sigma"])
def test_weights_from_a_file(original: nn.Module, tmp_path: Path, spec: str, how: str) -> None:
    state = original.state_dict()
    if how == "without mu and sigma":  # as RobustBench's own file of this model
        state = {name: tensor for name, tensor in state.items() if name not in ("mu", "sigma")}
        assert len(state) == len(original.state_dict()) - 2
    path = tmp_path / ("weights.safetensors" if how == "safetensors" else "weights.pt")
    if how == "safetensors":
        safetensors.torch.save_file(state, path)
    elif how == "module.":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    else:
        torch.save({"state_dict": state} if how == "state_dict" else state, path)
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
    with pytest.raises(InputError, match=r"does not fit the model: .* missing \(.*\.bn1\.bias, .*\); 0 unexpected"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / name)


class Creates:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "extra": Creates(tmp_path / "created")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds more than tensors, so it could run code"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / "weights.pt")
    assert not (tmp_path / "created").exists()


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igd_ray.models.robustbench.DOWNLOADS", tmp_path)
    with pytest.raises(InputError, match=r"not be downloaded \(the tests do not .*pass its checkpoint as --weights"):
        load_model(f"robustbench:{NAME}")


def logits(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(images)
    return result


def test_a_weight_that_is_missing_is_told_though_the_normalisation_may_be(original: nn.Module, tmp_path: Path) -> None:
    state = original.state_dict()
    for name in ("mu", "linear.bias"):
        del state[name]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"1 missing \(linear.bias\); 0 unexpected"):
        load_model(f"robustbench:{NAME}", weights=tmp_path / "weights.pt")


def test_the_last_epoch_is_taken_where_robustbench_takes_it(tmp_path: Path) -> None:
    name = "Andriushchenko2020Understanding"
    last, best = untrained(name, seed=1), untrained(name, seed=2)
    # Its file repeats the first layers under a second name.
    extra = {f"model_preact_hl1.{place}": tensor for place, tensor in last.conv1.state_dict().items()}
    content = {"last": {**last.state_dict(), **extra}, "best": best.state_dict(), "args": argparse.Namespace(eps=8)}
    torch.save(content, tmp_path / "weights.pt")
    model = load_model(f"robustbench:{name}", weights=tmp_path / "weights.pt")
    assert torch.equal(logits(model), logits(last))
    assert not torch.equal(logits(model), logits(best))


def test_a_file_of_the_robustness_library(tmp_path: Path) -> None:
    name = "Salman2020Do_R18"
    source = untrained(name)
    weights = {f"module.{place}": tensor for place, tensor in source.state_dict().items() if "normalize" not in place}
    attacker = {f"module.attacker.{place.removeprefix('module.')}": tensor for place, tensor in weights.items()}
    normalizer = {
        "module.normalizer.new_mean": torch.zeros(3, 1, 1),
        "module.attacker.normalize.new_std": torch.ones(3),
    }
    torch.save({"model": {**weights, **attacker, **normalizer}, "epoch": 90}, tmp_path / "weights.pt")
    model = load_model(f"robustbench:{name}", weights=tmp_path / "weights.pt")
    assert torch.equal(logits(model, LARGE), logits(source, LARGE))


def test_an_entry_that_torchvision_would_download(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        resnet = torchvision.models.resnet50().eval()
    torch.save(resnet.state_dict(), tmp_path / "resnet50.pth")
    model = load_model("robustbench:imagenet/Linf/Standard_R50", weights=tmp_path / "resnet50.pth")
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(logits(model, LARGE), logits(resnet, (LARGE - mean) / std))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("cifar10/Linf/Wong2020Fast", IMAGES),
        ("cifar10/Linf/Andriushchenko2020Understanding", IMAGES),
        ("cifar100/Linf/Rice2020Overfitting", IMAGES),
        ("imagenet/Linf/Salman2020Do_R18", LARGE),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_checkpoint_is_read_as_robustbench_reads_it(name: str, images: Tensor, prefix: str, tmp_path: Path) -> None:
    source = untrained(name, seed=5)
    names = {place: place.removeprefix("model.") for place in source.state_dict() if "normalize" not in place}
    # The files of these entries lack the normalisation.
    state = {
        f"{prefix}{names[p]}": t for p, t in source.state_dict().items() if p in names and p not in ("mu", "sigma")
    }
    dataset, threat, entry = name.split("/")
    path = tmp_path / dataset / threat / f"{entry}.pt"
    path.parent.mkdir(parents=True)
    torch.save({"last": state} if entry.startswith("Andriu") else {"state_dict": state}, path)
    theirs = robustbench_modules()[0].load_model(entry, tmp_path, dataset, threat)
    ours = load_model(f"robustbench:{name}", weights=path)
    assert torch.equal(logits(ours, images), logits(theirs, images))
    assert torch.equal(logits(ours, images), logits(source, images))


XCIT = "Debenedetti2022Light_XCiT-S12"


@pytest.fixture(scope="module")
def xcit() -> nn.Module:
    return untrained(XCIT)


@pytest.mark.parametrize("how", ["whole model", "timm's part of it", "the original's names"])
def test_an_entry_that_timm_would_download(xcit: nn.Module, tmp_path: Path, how: str) -> None:
    state = dict(xcit.state_dict() if how == "whole model" else xcit.model.state_dict())
    if how == "the original's names":
        # There the queries, keys and values of class attention are one matrix.
        for block in range(2):
            for kind in ("weight", "bias"):
                place = f"cls_attn_blocks.{block}.attn"
                parts = [state.pop(f"{place}.{part}.{kind}") for part in "qkv"]
                state[f"{place}.qkv.{kind}"] = torch.cat(parts)
    torch.save({"model": state}, tmp_path / "weights.pth.tar")
    model = load_model(f"robustbench:{XCIT}", weights=tmp_path / "weights.pth.tar")
    torch.testing.assert_close(logits(model), logits(xcit))


def test_swin_under_its_first_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(seed: int) -> nn.Module:
        settings = {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            swin = timm.models.SwinTransformer(num_classes=5, **settings)
        return behind_normalisation(swin)

    source = small(1)
    first_names = {
        place.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc.", "head."): tensor
        for place, tensor in source.model.state_dict().items()
    }
    first_names["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    assert {"layers.0.downsample.norm.weight", "head.weight"} <= set(first_names)
    # timm's own conversion agrees that these are the names that it had.
    filtered = timm.models.swin_transformer.checkpoint_filter_fn(dict(first_names), source.model)
    assert set(filtered) == set(source.model.state_dict())
    torch.save({f"module.{place}": tensor for place, tensor in first_names.items()}, tmp_path / "weights.pt")
    monkeypatch.setattr("igd_ray.models.robustbench.build_entry", lambda entry: small(2).eval())
    model = load_model("robustbench:Mo2022When_Swin-B", weights=tmp_path / "weights.pt")
    assert torch.equal(logits(model), logits(source.eval()))


def behind_normalisation(network: nn.Module) -> nn.Module:
    from robustbench.model_zoo.architectures.utils_architectures import normalize_model

    model: nn.Module = normalize_model(network, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return model


class Committee(nn.Module):
    """Three linear models, as `Chen2020Adversarial` has three ResNets."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.models = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([model(images).softmax(dim=1) for model in self.models]).mean(dim=0)


@pytest.fixture
def committee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Committee:
    source = Committee(1)
    for index, model in enumerate(source.models):
        state = {f"module.{place}": tensor for place, tensor in model.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / f"Chen2020Adversarial.pt_m{index}.pt")
    monkeypatch.setattr("igd_ray.models.robustbench.build_entry", lambda entry: Committee(2))
    return source


@pytest.mark.parametrize(
    "given", ["Chen2020Adversarial.pt", "Chen2020Adversarial.pt_m0.pt", "Chen2020Adversarial.pt_m2.pt"]
)
def test_an_ensemble_from_a_file_for_each_member(committee: Committee, tmp_path: Path, given: str) -> None:
    model = load_model("robustbench:Chen2020Adversarial", weights=tmp_path / given)
    assert torch.equal(logits(model), logits(committee))
    with pytest.raises(InputError, match=r"no penultimate layer: .*ayers that can be masked: models.0, "):
        find_layer(model, "penultimate", IMAGES[:1])


def test_an_ensemble_from_one_file(committee: Committee, tmp_path: Path) -> None:
    safetensors.torch.save_file(committee.state_dict(), tmp_path / "whole.safetensors")
    model = load_model("robustbench:Chen2020Adversarial", weights=tmp_path / "whole.safetensors")
    assert torch.equal(logits(model), logits(committee))


def test_an_ensemble_with_a_member_s_file_missing(committee: Committee, tmp_path: Path) -> None:
    (tmp_path / "Chen2020Adversarial.pt_m1.pt").unlink()
    with pytest.raises(InputError, match=r"no file at .*_m1.pt; .*an ensemble with 3 files, .*_m0.pt to .*_m2.pt"):
        load_model("robustbench:Chen2020Adversarial", weights=tmp_path / "Chen2020Adversarial.pt")


class Mixture(nn.Module):
    """What `Bai2023Improving` has: two models, a network that mixes them, and its batch norm."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.comp_model = Committee(seed)
        del self.comp_model.models[2]
        self.comp_model.policy_net = nn.Linear(3072, 1)
        self.comp_model.bn = nn.BatchNorm1d(1, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        share = self.comp_model.bn(self.comp_model.policy_net(images.flatten(1))).sigmoid()
        first, second = (model(images) for model in self.comp_model.models)
        return share * first + (1 - share) * second


def test_a_mixture_from_a_file_for_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Mixture(1)
    source.comp_model.bn.running_mean.fill_(0.3)
    source.eval()
    for index, model in enumerate(source.comp_model.models):
        torch.save({"state_dict": model.state_dict()}, tmp_path / f"b.pt_m{index}.pt")
    mixing = {"model": source.comp_model.policy_net.state_dict(), "bn": source.comp_model.bn.state_dict()}
    torch.save({"state_dict": mixing}, tmp_path / "b.pt_m2.pt")
    monkeypatch.setattr("igd_ray.models.robustbench.build_entry", lambda entry: Mixture(2))
    model = load_model("robustbench:cifar10/Linf/Bai2023Improving_edm", weights=tmp_path / "b.pt")
    assert torch.equal(logits(model), logits(source))
    torch.save({"state_dict": {"model": mixing["model"]}}, tmp_path / "b.pt_m2.pt")
    with pytest.raises(InputError, match="should hold the mixing network as 'model' and 'bn'"):
        load_model("robustbench:cifar10/Linf/Bai2023Improving_edm", weights=tmp_path / "b.pt")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr("igd_ray.models.robustbench.DOWNLOADS", folder)
    return folder


def served(path: Path, calls: list[object]) -> Callable[..., None]:
    """A downloader, called with where from and where to, that copies `path`."""

    def download(source: object, target: object, **_options: object) -> None:
        calls.append(source)
        shutil.copy(path, str(target))

    return download


def test_a_download_is_kept_with_its_checksum(
    original: nn.Module, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(original.state_dict(), tmp_path / "offered.pt")
    calls: list[object] = []
    monkeypatch.setattr(robustbench_modules()[0], "download_gdrive_new", served(tmp_path / "offered.pt", calls))
    models = [load_model(f"robustbench:{NAME}") for _ in range(2)]
    assert calls == list(find_entry(NAME).drive_ids)  # once
    folder = cache / "cifar10" / "Linf"
    digest = hashlib.sha256((tmp_path / "offered.pt").read_bytes()).hexdigest()
    assert (folder / f"{NAME}.pt.sha256").read_text() == f"{digest}  {NAME}.pt\n"
    assert sorted(path.name for path in folder.iterdir()) == [f"{NAME}.pt", f"{NAME}.pt.sha256"]
    assert all(torch.equal(logits(model), logits(original)) for model in models)

    with (folder / f"{NAME}.pt").open("ab") as file:
        file.write(b"changed")
    with pytest.raises(
        InputError, match=r"Wong2020Fast.pt has changed since .*; delete the file to have it downl"
    ) as told:
        load_model(f"robustbench:{NAME}")
    assert "\n" not in str(told.value)
    (folder / f"{NAME}.pt").unlink()
    assert torch.equal(logits(load_model(f"robustbench:{NAME}")), logits(original))


def test_members_and_models_with_an_address_are_downloaded_alike(
    committee: Committee, xcit: nn.Module, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def member(drive_id: str, target: Path) -> None:
        index = find_entry("Chen2020Adversarial").drive_ids.index(drive_id)
        served(tmp_path / f"Chen2020Adversarial.pt_m{index}.pt", calls)(drive_id, target)

    monkeypatch.setattr(robustbench_modules()[0], "download_gdrive_new", member)
    assert torch.equal(logits(load_model("robustbench:Chen2020Adversarial")), logits(committee))
    assert len(list(cache.glob("cifar10/Linf/Chen2020Adversarial.pt_m?.pt.sha256"))) == 3
    torch.save({"model": xcit.model.state_dict()}, tmp_path / "xcit.pth.tar")
    monkeypatch.setattr("igd_ray.models.robustbench.transfer", served(tmp_path / "xcit.pth.tar", calls))
    monkeypatch.setattr("igd_ray.models.robustbench.build_entry", build_entry)
    torch.testing.assert_close(logits(load_model(f"robustbench:{XCIT}")), logits(xcit))
    assert calls[3:] == [
        "https://github.com/RobustBench/robustbench/releases/download/v1.1/debenedetti2022light-xcit-s-cifar10-linf.pth.tar"
    ]


def test_a_model_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(entry: Entry) -> nn.Module:
        raise RuntimeError("no such operator\nat all")

    monkeypatch.setattr("igd_ray.models.zoo.constructed", fail)
    with pytest.raises(
        InputError, match=r"cifar10/Linf/Wong2020Fast cannot be built here \(RuntimeError: no such op\w+\)"
    ):
        load_model(f"robustbench:{NAME}")


def test_loading_leaves_the_global_generator_alone(original: nn.Module, tmp_path: Path) -> None:
    torch.save(original.state_dict(), tmp_path / "weights.pt")
    before = torch.get_rng_state()
    load_model(f"robustbench:{NAME}", weights=tmp_path / "weights.pt")
    assert torch.equal(torch.get_rng_state(), before)
