"""Autocast and TF32 are off inside, and as before afterwards."""

import pytest
import torch

from igd_ray.models.anatomy.precision import full_precision

A = torch.full((2, 2), 1 + 2**-12)


def settings() -> list[object]:
    return [
        torch.is_autocast_enabled("cpu"),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
    ]


def test_products_are_not_rounded_to_half_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert (A @ A).dtype == torch.bfloat16
        with full_precision(torch.device("cpu")):
            assert (A @ A).dtype == torch.float32
            assert settings() == [False, "ieee", "ieee"]
        assert (A @ A).dtype == torch.bfloat16


def test_autocast_of_another_device_is_off_too() -> None:
    with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("meta")):
        assert (A @ A).dtype == torch.float32


@pytest.mark.parametrize("allowed", [False, True])
def test_settings_come_back_also_after_an_exception(allowed: bool) -> None:
    original = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        before = settings()
        with pytest.raises(ZeroDivisionError), full_precision(torch.device("cpu")):
            _ = 1 / 0
        assert settings() == before
        assert torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32 = original
