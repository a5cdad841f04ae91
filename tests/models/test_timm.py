"""timm's architectures with weights from a file, behind their own normalisation; nothing is downloaded here."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from igd_ray.errors import InputError
from igd_ray.models import check_model, find_layer, load_model

NAME = "test_byobnet"  # timm's own tiny model for tests
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(NAME, pretrained=False, num_classes=7).eval()
    return model


@pytest.fixture(scope="module")
def weights(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    safetensors.torch.save_file(original.state_dict(), path)
    return path


def test_images_in_the_unit_range_are_normalised_inside(original: nn.Module, weights: Path) -> None:
    model = load_model(f"timm:{NAME}", weights=weights, num_classes=7)
    config = original.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), original((IMAGES - mean) / std))
        assert not torch.allclose(model(IMAGES), original(IMAGES), atol=1e-3)
    layer = find_layer(model, "penultimate", IMAGES[:1])
    assert layer.module.startswith("model.")
    assert layer.width == original.num_features


def test_a_pytorch_file(original: nn.Module, weights: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": original.state_dict()}, tmp_path / "weights.pt")
    first = load_model(f"timm:{NAME}", weights=tmp_path / "weights.pt", num_classes=7)
    assert torch.equal(first(IMAGES), load_model(f"timm:{NAME}", weights=weights, num_classes=7)(IMAGES))


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(InputError, match=r"timm has no model 'test_byobnt'; did you mean .*'test_byobnet'"):
        load_model("timm:test_byobnt")


def test_weights_of_another_number_of_classes(weights: Path) -> None:
    with pytest.raises(InputError, match=r"should be \[1000.*\], is \[7"):
        load_model(f"timm:{NAME}", weights=weights)


def test_arguments_that_the_architecture_cannot_use(weights: Path) -> None:
    with pytest.raises(InputError, match=r"does not take these arguments.*widht") as raised:
        load_model(f"timm:{NAME}", weights=weights, widht=3)
    assert "\n" not in str(raised.value)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError, match=r"could not be downloaded \(no network\); pass --weights FILE"):
        load_model(f"timm:{NAME}")


def test_one_channel_gets_the_mean_of_the_normalisation(tmp_path: Path) -> None:
    grey = timm.create_model(NAME, pretrained=False, num_classes=7, in_chans=1).eval()
    torch.save(grey.state_dict(), tmp_path / "weights.pt")
    config = grey.pretrained_cfg
    mean, std = (sum(config[name]) / 3 for name in ("mean", "std"))
    model = load_model(f"timm:{NAME}", weights=tmp_path / "weights.pt", num_classes=7, in_chans=1)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES[:, :1]), grey((IMAGES[:, :1] - mean) / std))
    with pytest.raises(InputError, match="expected images with 1 channels, got 3"):
        check_model(model, IMAGES[:1], tuple("abcdefg"), spec="timm")


@pytest.mark.parametrize(
    ("mean", "std", "channels"),
    [(0.5, 0.25, 1), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0], 3), (0, 1, 3), ([0.1, 0.2], 0.5, 2)],
)
def test_a_normalisation_that_is_given(tmp_path: Path, mean, std, channels: int) -> None:
    network = timm.create_model(NAME, pretrained=False, num_classes=7, in_chans=channels).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    arguments = {"num_classes": 7, "in_chans": channels, "mean": mean, "std": std}
    model = load_model(f"timm:{NAME}", weights=tmp_path / "weights.pt", **arguments)
    images = IMAGES[:, :channels]
    shift, scale = (torch.tensor(value, dtype=torch.float32).expand(channels).view(-1, 1, 1) for value in (mean, std))
    with torch.no_grad():
        torch.testing.assert_close(model(images), network((images - shift) / scale))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"mean should be one number or 3, one a channel, not \[0.5, 0.5\]"),
        ({"std": "wide"}, "std should be one number or 3, one a channel, not 'wide'"),
        ({"std": 0}, "std should be positive, not 0"),
    ],
)
def test_a_normalisation_that_does_not_fit(weights: Path, arguments, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"timm:{NAME}", weights=weights, num_classes=7, **arguments)


def test_channels_without_a_known_normalisation(tmp_path: Path) -> None:
    network = timm.create_model(NAME, pretrained=False, in_chans=2)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"with 2 channels its normalisation is unknown; pass --model-arg mean="):
        load_model(f"timm:{NAME}", weights=tmp_path / "weights.pt", in_chans=2)


def test_timm_s_own_weights_are_not_given_an_untrained_head(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    # As where timm downloads, but untrained.
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **given: create(name, pretrained=False, **given))
    assert load_model(f"timm:{NAME}")(IMAGES).shape == (2, 1000)
    with pytest.raises(InputError, match="weights are for 1000 classes, and another number gives it an untrained head"):
        load_model(f"timm:{NAME}", num_classes=7)
