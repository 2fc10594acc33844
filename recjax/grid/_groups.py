"""Populations that differ in what is static, a program each."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from recjax.grid._fit import Fitted


class Groups(NamedTuple):
    """What training several groups gave.

    Attributes:
      fitted: ``{group: Fitted}``, in the order given.
    """

    fitted: dict[str, Fitted]

    @property
    def programs(self) -> dict[str, int]:
        """``{group: programs}`` compiled for the steps, at most; see :attr:`Fitted.programs`."""
        return {name: one.programs for name, one in self.fitted.items()}


def groups(fits: Mapping[str, Callable[[], Fitted]], *, begin: Callable[[str], None] = lambda name: None) -> Groups:
    """Trains the groups of a grid whose axes aren't all traced: architectures, losses, optimizers.

    What is traced is swept inside of a group, by one program; each value of what is static makes a group and takes a
    program of its own.

    Args:
      fits: ``{group: fit}``, a :func:`fit` each with all its arguments but for the call; each needs a folder of its
        own.
      begin: called with a group's name before it trains.

    Returns:
      The :class:`Groups`.

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
