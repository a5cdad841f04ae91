"""What a model answers, whatever its type and shape, becomes float32 logits."""

import os

import pytest
import torch
from torch import distributed, nn

from igd_ray.models import load_model
from igd_ray.models.adapter import Adapter, OutputError, chosen_output
from igd_ray.models.sources import exits_refused
from igd_ray.models.wrappers import unwrapped
from tests.models import kinds

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FILE = kinds.__file__


@pytest.mark.parametrize(
    ("factory", "dtype"),
    [("in_float64", torch.float64), ("in_float16", torch.float16), ("in_bfloat16", torch.bfloat16)],
)
def test_a_model_computes_in_its_own_precision(factory: str, dtype: torch.dtype) -> None:
    model = load_model(f"{FILE}:{factory}", weights="own")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    images = IMAGES.clone().requires_grad_()
    logits = model(images)
    assert torch.equal(logits, kinds.plain().eval().to(dtype)(IMAGES.to(dtype)).float())
    logits.sum().backward()
    assert images.grad.dtype == torch.float32
    assert images.grad.abs().sum() > 0


def test_constants_in_float64_make_no_float64_model() -> None:
    model = load_model(f"{FILE}:float64_constants", weights="own")
    torch.testing.assert_close(model(IMAGES), kinds.plain().eval()(IMAGES - 0.3))


@pytest.mark.parametrize(
    ("factory", "output"),
    [("as_tuple", "0"), ("as_list", "1"), ("as_named_tuple", "0"), ("as_dict", "logits"), ("as_object", "logits")],
)
def test_one_of_several_outputs_holds_the_logits(factory: str, output: str) -> None:
    model = load_model(f"{FILE}:{factory}", weights="own", output=output)
    assert isinstance(model, Adapter)
    assert torch.equal(model(IMAGES), kinds.plain().eval()(IMAGES))


def test_an_attribute_that_is_no_tensor_is_no_output() -> None:
    for answer in (torch.zeros(2), {"logits": None}, (None,), "logits"):
        with pytest.raises(OutputError):
            chosen_output(answer, "0" if isinstance(answer, tuple) else "logits")


@pytest.mark.parametrize(
    "factory",
    ["compiled", "compiled_inside", "compiled_in_place", "compiled_forward", "parallel", "parallel_and_compiled"],
)
def test_wrappers_come_off_and_hooks_see_every_pass(factory: str) -> None:
    model = load_model(f"{FILE}:{factory}", weights="own")
    seen: list[int] = []
    (linear,) = (module for module in model.modules() if isinstance(module, nn.Linear))
    linear.register_forward_hook(lambda *_: seen.append(1))
    assert torch.equal(model(IMAGES), kinds.plain().eval()(IMAGES))
    assert seen == [1]
    # So that its results are those of the model without the wrapper.
    assert vars(model).keys() == vars(kinds.plain()).keys()


def test_distributed_data_parallel_comes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Identity(), nn.parallel.DistributedDataParallel(kinds.plain()))
        expected = model.eval()(IMAGES)
        bare = unwrapped(model)
    finally:
        distributed.destroy_process_group()
    assert not any(isinstance(module, nn.parallel.DistributedDataParallel) for module in bare.modules())
    assert torch.equal(bare(IMAGES), expected)


def test_a_model_without_wrappers_stays_itself() -> None:
    model = kinds.plain()
    assert unwrapped(model) is model


def test_an_exit_ends_the_code_and_nothing_else() -> None:
    leave = os._exit
    for code in (kinds.leaves, kinds.leaves_at_once):
        with (
            pytest.raises(ValueError, match=r"the code calls sys.exit or os._exit \(status 0\)"),
            exits_refused("the code"),
        ):
            code()
        assert os._exit is leave


def test_a_forked_child_ends_with_its_own_status() -> None:
    with exits_refused("the code"):
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
