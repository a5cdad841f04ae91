"""On a GPU: verdicts on stored points are those of the CPU, and an evaluation computed there holds on the CPU."""

from pathlib import Path

import pytest
import torch

from igd_ray.cli import main
from tests.toys.runs import rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

EVALUATION = [
    *("evaluate", "--executor", "local", "--n", "40", "--probe-n", "200", "--search-n", "100"),
    *("--defenses", "none,loir-8,smoothing-only,hedge,anti-adversary"),
    *("--attacks", "apgd-ce-20,apgd-eot-5,square-200,fab-t-10,tr-apgd-ce-20,audit-joint-loss-10"),
]


@pytest.mark.parametrize(("computed", "verified"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_verdicts_on_stored_points_hold_on_the_other_device(tmp_path: Path, computed: str, verified: str) -> None:
    catalog = str(tmp_path / "results")
    assert main([*EVALUATION, "--catalog", catalog, "--device", computed]) == 0
    assert main(["verify", "--catalog", catalog, "--device", verified]) == 0


def test_attacks_leave_about_as_many_images_robust_as_on_the_cpu(tmp_path: Path) -> None:
    robust = {}
    for device in ("cpu", "cuda"):
        assert main([*EVALUATION, "--catalog", str(tmp_path / device), "--device", device]) == 0
        robust[device] = [row["status"] == "robust" for row in rows(tmp_path / device)]
    assert len(robust["cpu"]) == len(robust["cuda"]) > 1000
    differing = sum(one != other for one, other in zip(robust["cpu"], robust["cuda"], strict=True))
    # Rounding moves the iterates, so that a few images near the boundary end on its other side.
    assert differing <= 0.02 * len(robust["cpu"]), f"{differing} of {len(robust['cpu'])} verdicts differ"
