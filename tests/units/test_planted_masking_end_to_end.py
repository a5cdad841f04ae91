"""A model whose gradients are masked on purpose raises warnings in a whole evaluation, the honest one raises none."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator
from torch.nn.functional import cross_entropy

from igd_ray.catalog import Catalog, run_query
from igd_ray.checks import INFO
from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.models.demo import WEIGHTS_FILE

pytestmark = pytest.mark.slow

MODELS = """
from torch import nn
from torch.nn import functional

from igd_ray.models.demo import PIXEL_MEAN, PIXEL_STD, DemoResNet


class WinnersTakeAll(nn.Module):
    '''Keeps the k largest activations of an image (Xiao, Zhong & Zheng, ICLR 2020): a small step changes which.'''

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, activations):
        least = activations.topk(self.k, dim=1).values[:, -1:]
        return activations * (activations >= least)


class QuantisedActivations(DemoResNet):
    '''The demo network with activations of four levels a unit after its first layer, which leaves no gradient.'''

    def forward(self, images):
        out = functional.relu(self.bn1(self.conv1((images - PIXEL_MEAN) / PIXEL_STD)))
        out = self.layer3(self.layer2(self.layer1((4 * out).round() / 4)))
        return self.linear(out.mean(dim=(2, 3)))


def layers(first, second):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), first, nn.Linear(512, 512), second, nn.Linear(512, 10)
    )


def winners():
    return layers(WinnersTakeAll(8), WinnersTakeAll(8))


def rectified():
    return layers(nn.ReLU(), nn.ReLU())


def quantised():
    return QuantisedActivations()


def residual():
    return DemoResNet()
"""

# Which points survive rounding to 8 bits depends on the short training here, and that on the processor.
DEPENDS_ON_TRAINING = {"rounding"}

MEASURED = {"zero-gradient", "query-beats-gradient", "more-steps", "large-epsilon", "output-range", "batch-dependence"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The factories and their weights: the demo's own, and those of a short training on digits."""
    folder = tmp_path_factory.mktemp("masking")
    (folder / "nets.py").write_text(MODELS)
    spec = importlib.util.spec_from_file_location("planted_nets", folder / "nets.py")
    assert spec is not None
    assert spec.loader is not None
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    data = load_images("digits", split="train", n=1000)
    for name in ("winners", "rectified"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(nets, name)()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        order = Generator().manual_seed(0)
        for _ in range(200):
            batch = torch.randint(len(data), (128,), generator=order)
            optimizer.zero_grad()
            cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    for name in ("quantised", "residual"):
        (folder / f"{name}.safetensors").write_bytes(WEIGHTS_FILE.read_bytes())
    return folder


def warnings(folder: Path, name: str, attacks: str, n: int) -> set[str]:
    """Evaluate a model without a defense, and return the checks that warn; each has measured something.

    Square's published queries cost enough for the checks with more steps and in a larger ball to be made, too.
    """
    catalog = folder / name
    model = ["--model", f"{folder / 'nets.py'}:{name}", "--weights", str(folder / f"{name}.safetensors")]
    table = ["--n", str(n), "--defenses", "none", "--attacks", attacks]
    assert main(["evaluate", *model, *table, "--executor", "local", "--catalog", str(catalog)]) == 0
    findings = run_query(Catalog(catalog), 'SELECT "check", severity, value FROM checks').to_pylist()
    assert {finding["check"] for finding in findings if finding["value"] is not None} >= MEASURED
    return {finding["check"] for finding in findings if finding["severity"] != INFO} - DEPENDS_ON_TRAINING


def test_winners_that_take_all_are_seen_where_queries_break_what_gradients_do_not(folder: Path) -> None:
    assert warnings(folder, "winners", "apgd-ce,square", n=32) == {"query-beats-gradient"}
    assert warnings(folder, "rectified", "apgd-ce,square", n=32) == set()


def test_quantised_activations_are_seen_by_their_zero_gradients_and_in_a_large_ball(folder: Path) -> None:
    # The cross-entropy alone is a little weaker than Square on the honest network.
    attacks = "apgd-ce,apgd-t-20,square"
    masked = warnings(folder, "quantised", attacks, n=24)
    assert masked == {"zero-gradient", "query-beats-gradient", "large-epsilon"}
    assert warnings(folder, "residual", attacks, n=24) == set()
