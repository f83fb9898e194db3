"""What to try next in a search over an arm's knobs: Ray Tune's Optuna search behind numbered calls."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.declare.knobs import Choice, Knob
from raybench.errors import UserError

_METRIC = "log_speedup"


class Proposals:
    """Proposes choices and learns from their speedups. The same results give the same proposals.

    Raises UserError where Optuna is not installed.
    """

    def __init__(self, knobs: Sequence[Knob], seed: int) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "raybench.tune needs Optuna, which is not installed: pip install 'raybench[tune]'"
            ) from None
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = {knob.name: optuna.distributions.CategoricalDistribution(knob.values) for knob in knobs}
        self._names = [knob.name for knob in knobs]
        self._search = OptunaSearch(space, metric=_METRIC, mode="max", seed=seed % 2**32)

    def next(self, number: int) -> Choice:
        """The choice with this number; ask for each number once."""
        proposed = self._search.suggest(str(number))
        return {name: _at(proposed, name) for name in self._names}

    def tell(self, number: int, log_speedup: float | None) -> None:
        """Report a choice's log speedup over the unchanged arm; None where it failed."""
        result = None if log_speedup is None else {_METRIC: log_speedup}
        self._search.on_trial_complete(str(number), result, error=log_speedup is None)


def _at(proposed: object, name: str) -> object:
    """A name's value in Tune's proposal, where dotted names may have become nested dicts."""
    assert isinstance(proposed, dict)
    return proposed[name]
