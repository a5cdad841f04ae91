"""Bisection for the smallest k whose clean accuracy stays within a tolerance (Kulkarni & Weng, sec. 5).

Accuracy is taken to rise with k. Where it wavers, the k found is one that holds while the one below, or one that
was tried below it, does not.
"""


class Bisection:
    """Asks for one k at a time: `next_k()`, then `tell(k, feasible)`, until `next_k()` is None.

    The largest k is asked first: where even that fails there is nothing to search.

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
        if self._width not in self._answers:
            return self._width
        best = self.best
        if best is None:
            return None
        below = max((k for k, feasible in self._answers.items() if not feasible and k < best), default=0)
        return None if best - below <= 1 else (best + below) // 2

    def tell(self, k: int, feasible: bool) -> None:
        """Record whether `k` keeps clean accuracy within the tolerance."""
        self._answers[k] = feasible
