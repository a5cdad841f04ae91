"""As much of Ray as workers take: actors that answer, or fail, as a test says, without processes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ray.exceptions

# What `Answer` returns for a call that is not answered yet.
WAITING = object()


@dataclass(eq=False)
class FakeActor:
    """An actor: whose class, with which options, and its number among those of its class."""

    kind: str
    options: Mapping[str, Any]
    number: int

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: FakeCall(self, method, arguments))


@dataclass(eq=False)
class FakeCall:
    """A call of an actor's method, which stands for its answer, too."""

    actor: FakeActor
    method: str
    arguments: tuple[Any, ...]


Answer = Callable[[FakeCall], Any]


@dataclass
class FakeRay:
    """The module, as far as workers use it.

    Attributes:
        resources: of the cluster.
        answer: what a call is answered with: a value, an exception to raise, or `WAITING`.
        actors: that were started and not killed.
        started: how many of each class were.
    """

    resources: dict[str, float]
    answer: Answer
    actors: list[FakeActor] = field(default_factory=list)
    started: Counter[str] = field(default_factory=Counter)
    exceptions: Any = ray.exceptions

    @property
    def util(self) -> Any:
        return SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
        )

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        def start(options: Mapping[str, Any]) -> FakeActor:
            self.actors.append(FakeActor(kind.__name__, options, self.started[kind.__name__]))
            self.started[kind.__name__] += 1
            return self.actors[-1]

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *_: start(options)))

    def wait(
        self, calls: Sequence[FakeCall], *, num_returns: int, timeout: float
    ) -> tuple[list[FakeCall], list[FakeCall]]:
        answered = [call for call in calls if self.answer(call) is not WAITING][:num_returns]
        return answered, [call for call in calls if call not in answered]

    def get(self, call: FakeCall, timeout: float | None = None) -> Any:
        answer = self.answer(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: FakeActor) -> None:
        self.actors.remove(actor)
