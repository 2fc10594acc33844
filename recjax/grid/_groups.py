"""Populations that differ in static settings, one compiled program each."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from recjax.grid._fit import Fitted


class Groups(NamedTuple):
    """The result of training several groups.

    Attributes:
      fitted: ``{group: Fitted}``, in the order given.
    """

    fitted: dict[str, Fitted]

    @property
    def programs(self) -> dict[str, int]:
        """``{group: programs}``, maximum numbers of compiled programs; see :attr:`Fitted.programs`."""
        return {name: one.programs for name, one in self.fitted.items()}


def groups(fits: Mapping[str, Callable[[], Fitted]], *, begin: Callable[[str], None] = lambda name: None) -> Groups:
    """Trains the groups of a grid with static axes: architectures, losses, optimizers.

    Traced hyperparameters are swept within a group, by one program; each value of a static one is a group.

    Args:
      fits: ``{group: fit}``, functions without arguments that call :func:`fit`, each with its own folder.
      begin: called with a group's name before it trains.

    Examples:
      ::

        losses = {"bpr": bpr, "listwise": listwise}
        found = groups({
            name: functools.partial(fit, recipe._replace(loss=loss), starts, members, folder=folder / name, **options)
            for name, loss in losses.items()
        })
        best = max(found.fitted, key=lambda name: found.fitted[name].valid.mean(axis=0).max())
    """
    fitted = {}
    for name, train in fits.items():
        begin(name)
        fitted[name] = train()
    return Groups(fitted)
