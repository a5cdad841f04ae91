"""RobustBench's zoo: which entries there are, and their architectures, built without a download."""

import re

import pytest
import timm
import torch
from torch import nn

from igd_ray.errors import InputError
from igd_ray.models.zoo import CLASSES, IMAGE_SIZES, build_entry, find_entry, robustbench_modules, zoo_entries


def test_every_linf_and_l2_model_of_robustbench_is_an_entry() -> None:
    _, models = robustbench_modules()
    expected = [
        (dataset.value, threat.value, name)
        for dataset, by_threat in models.items()
        for threat, entries in by_threat.items()
        if not threat.value.startswith("corruptions")
        for name in entries
    ]
    assert [(entry.dataset, entry.threat, entry.name) for entry in zoo_entries()] == expected
    assert len(expected) == 165
    assert {dataset for dataset, _, _ in expected} == set(CLASSES) == set(IMAGE_SIZES)
    assert {threat for _, threat, _ in expected} == {"Linf", "L2"}


def test_every_entry_says_where_its_weights_are() -> None:
    elsewhere = {str(entry) for entry in zoo_entries() if not entry.drive_ids and entry.timm_name is None}
    assert elsewhere == {"imagenet/Linf/Standard_R50"}
    from_timm = [entry for entry in zoo_entries() if entry.timm_name is not None]
    assert len(from_timm) == 9
    assert all(timm.get_pretrained_cfg(entry.timm_name).url.startswith("https://") for entry in from_timm)
    assert {entry.name: len(entry.drive_ids) for entry in zoo_entries() if len(entry.drive_ids) > 1} == {
        "Chen2020Adversarial": 3,
        "Bai2023Improving_edm": 3,
        "Bai2023Improving_trades": 3,
        "Bai2024MixedNUTS": 2,
    }


@pytest.mark.parametrize("entry", zoo_entries(), ids=str)
def test_an_entry_is_found_by_its_whole_name(entry) -> None:
    assert find_entry(str(entry)) == entry


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("Wong2020Fast", "cifar10/Linf/Wong2020Fast"),  # ImageNet has one, too
        ("Salman2020Do_R18", "imagenet/Linf/Salman2020Do_R18"),
        ("Augustin2020Adversarial", "cifar10/L2/Augustin2020Adversarial"),
    ],
)
def test_a_bare_name_is_that_of_the_first_dataset(name: str, whole: str) -> None:
    assert str(find_entry(name)) == whole


def test_a_name_without_an_entry() -> None:
    with pytest.raises(InputError, match=re.escape("no model 'imagenet/L2/Wong2020Fast'")):
        find_entry("imagenet/L2/Wong2020Fast")


def test_what_is_drawn_is_the_caller_s_matter() -> None:
    states = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_entry(find_entry("Ding2020MMA"))
        assert not any(module.training for module in model.modules())
        states.append(model.fc.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class PutsAConstantOnAGpu(nn.Module):
    """As the mixtures of `Bai2023Improving` do."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.5]).cuda()


def test_constants_are_built_on_the_cpu_and_follow_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loud() -> nn.Module:
        print("gamma has been set")
        return PutsAConstantOnAGpu()

    entry = find_entry("Standard")
    monkeypatch.setitem(definition(entry), "model", loud)
    before = torch.Tensor.cuda
    model = build_entry(entry)
    assert torch.Tensor.cuda is before
    assert model.mean.device.type == "cpu"
    assert model.to("meta").mean.device.type == "meta"
    assert "mean" not in model.state_dict()
    assert capsys.readouterr().out == ""


def definition(entry) -> dict[str, object]:
    _, models = robustbench_modules()
    (found,) = [
        entries[entry.name]
        for dataset, by_threat in models.items()
        for threat, entries in by_threat.items()
        if (dataset.value, threat.value) == (entry.dataset, entry.threat)
    ]
    return found
