"""Bisection for the smallest k whose clean accuracy stays within a tolerance (Kulkarni & Weng, sec. 5).

Clean accuracy rises with k, but not strictly. So bisection also tries two neighbours of the k that it finds. If k − 2
is feasible, it continues from there. If k + 1 is not feasible, the trials show where accuracy is not monotone.
"""

from collections.abc import Sequence


class Bisection:
    """Proposes one k at a time: `next_k()`, then `tell(k, feasible)`, until `next_k()` returns None.

    The first proposal is N, the second N − 1 if N is not feasible; if both fail, the search ends. On a monotone curve
    over N values bisection proposes at most ⌈log2 N⌉ + 3 of them.

    Args:
        width: N, the number of neurons; k is searched in 1…N.

    >>> bisection, proposed = Bisection(64), []
    >>> while (k := bisection.next_k()) is not None:
    ...     proposed.append(k)
    ...     bisection.tell(k, k >= 10)
    >>> proposed, bisection.best
    ([64, 32, 16, 8, 12, 10, 9, 11], 10)
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._answers: dict[int, bool] = {}

    @property
    def best(self) -> int | None:
        """The smallest k that was told to be feasible; None before the first."""
        return min((k for k, feasible in self._answers.items() if feasible), default=None)

    def next_k(self) -> int | None:
        """Return the k to try next, or None when the smallest feasible k is known or no k is feasible."""
        best = self.best
        if best is None:
            return next((k for k in (self._width, self._width - 1) if k >= 1 and k not in self._answers), None)
        below = max((k for k, feasible in self._answers.items() if not feasible and k < best), default=0)
        if best - below > 1:
            return (best + below) // 2
        neighbours = (best - 2, best + 1)
        return next((k for k in neighbours if 1 <= k <= self._width and k not in self._answers), None)

    def tell(self, k: int, feasible: bool) -> None:
        """Record whether `k` keeps clean accuracy within the tolerance; a later record replaces an earlier one."""
        self._answers[k] = feasible


class ClassBisections:
    """One bisection per class, side by side: proposes a vector of k, and is told which classes are feasible.

    A class that has found its k keeps it while other classes continue. Once all classes have a k, these are tried
    together, because the images of a class also pass through the masks of other classes. A class that fails there
    continues with larger k.

    Args:
        width: N, the number of neurons; every k is searched in 1…N.
        classes: C.
    """

    def __init__(self, width: int, classes: int) -> None:
        self._width = width
        self._bisections = [Bisection(width) for _ in range(classes)]
        self._together: tuple[int, ...] | None = None

    def next_k(self) -> tuple[int, ...] | None:
        """Return the k of each class to try next; None when a vector is feasible for all, or some class has no k."""
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
            # While other classes still search, the result of a class that has found its k says nothing new.
            if wanted is not None or together:
                bisection.tell(k, holds)
        self._together = tuple(ks) if all(feasible) else None
