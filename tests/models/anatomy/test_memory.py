"""Peak memory, against numbers worked out by hand and against the profiler's."""

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from igd_ray.models.anatomy.memory import PeakMemory


def test_by_hand() -> None:
    before = torch.zeros(1000)
    with PeakMemory() as memory:
        a = before + 1  # 4000 bytes
        b = a.double()  # 8000 more
        a.mul_(2)  # in place
        view = b.view(10, 100)[2:]  # shares its storage
        del a, b
        c = view + 1  # 6400 more, while the view keeps all of b
    assert memory.peak == 8000 + 6400
    assert c.shape == (8, 100)


def test_what_was_there_before_does_not_count_even_after_an_operation_in_place() -> None:
    before = torch.zeros(1000)
    with PeakMemory() as memory:
        before.add_(1)
    assert memory.peak == 0


def test_the_profiler_sees_as_much() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 512), nn.Tanh(), nn.Linear(512, 8)
    )
    images = torch.rand(32, 1, 8, 8)
    with torch.no_grad(), PeakMemory() as memory:
        model(images)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(images)
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = torch.tensor([event.nbytes() for event in events if event.name() == "[memory]"]).cumsum(0)
    assert memory.peak == int(held.max())
