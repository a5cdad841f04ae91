"""Bisection for the smallest k whose clean accuracy stays within a tolerance (Kulkarni & Weng, sec. 5).

Accuracy is taken to rise with k, but it wavers: where bisection ends, the neighbours of what it found are tried too.
A k two below that holds after all is gone on from; one above that fails shows how far the wavering reaches.
"""

from collections.abc import Sequence


class Bisection:
    """Asks for one k at a time: `next_k()`, then `tell(k, feasible)`, until `next_k()` is None.

    The largest k is asked first: where even that and its neighbour fail there is nothing to search. On a monotone
    curve over N values at most ⌈log2 N⌉ + 3 are asked.

    Args:
        width: N, the number of neurons; k is searched in 1…N.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._answers: dict[int, bool] = {}

    @property
    def best(self) -> int | None:
        """The smallest feasible k told so far."""
        return min((k for k, feasible in self._answers.items() if feasible), default=None)

    def next_k(self) -> int | None:
        """Return the k to try next, or None when the smallest feasible k is known or none is feasible."""
        best = self.best
        if best is None:
            return next((k for k in (self._width, self._width - 1) if k >= 1 and k not in self._answers), None)
        below = max((k for k, feasible in self._answers.items() if not feasible and k < best), default=0)
        if best - below > 1:
            return (best + below) // 2
        neighbours = (best - 2, best + 1)
        return next((k for k in neighbours if 1 <= k <= self._width and k not in self._answers), None)

    def tell(self, k: int, feasible: bool) -> None:
        """Record whether `k` keeps clean accuracy within the tolerance; what is told last counts."""
        self._answers[k] = feasible


class ClassBisections:
    """A bisection for each class at once: asks for a vector of k, and is told which classes hold.

    A class that has found its k keeps it while others go on. When all have, the k they found are tried together,
    because a class's images pass through the other classes' masks too; a class that fails then goes on upwards.

    Args:
        width: N, the number of neurons; every k is searched in 1…N.
        classes: C.
    """

    def __init__(self, width: int, classes: int) -> None:
        self._width = width
        self._bisections = [Bisection(width) for _ in range(classes)]
        self._together: tuple[int, ...] | None = None

    def next_k(self) -> tuple[int, ...] | None:
        """Return the vector of k to try next, or None when one holds for every class or some class has none."""
        asked = [bisection.next_k() for bisection in self._bisections]
        if any(k is None and bisection.best is None for k, bisection in zip(asked, self._bisections, strict=True)):
            return None
        chosen = tuple(
            bisection.best or self._width if k is None else k
            for k, bisection in zip(asked, self._bisections, strict=True)
        )
        return None if chosen == self._together else chosen

    def tell(self, ks: Sequence[int], feasible: Sequence[bool]) -> None:
        """Record which classes keep their accuracy within the tolerance with the vector `ks`."""
        asked = [bisection.next_k() for bisection in self._bisections]
        together = all(k is None for k in asked)
        for k, wanted, bisection, holds in zip(ks, asked, self._bisections, feasible, strict=True):
            # What a class that has found its k does beside others' trials says nothing of it.
            if wanted is not None or together:
                bisection.tell(k, holds)
        self._together = tuple(ks) if all(feasible) else None
