"""What a recommender answers: recommended items and explanations."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Query(NamedTuple):
    """What a list is for; see :meth:`recjax.artifact.Artifact.recommend`, whose arguments these are.

    Attributes:
      user: raw id; None for a history.
      history: raw ids of items, oldest first; None for a user.
      k: how many items.
      include_seen: whether items of the history may come too.
      exclude: raw ids of items that may not come.
      within: raw ids of the items that may come, or their mask; None for all.
      diversity: 0 to 1.
      recent: raw ids of items that the user took after the artifact was made, oldest first.
    """

    user: object = None
    history: Iterable[object] | None = None
    k: int = 10
    include_seen: bool = False
    exclude: Iterable[object] = ()
    within: Any = None
    diversity: float = 0.0
    recent: Sequence[object] = ()


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
      item: raw id.
      title: ``""`` where the catalog has none.
      score: the model's; for an unknown user, how many users have the item.
    """

    item: str
    title: str
    score: float


@dataclasses.dataclass(frozen=True)
class Recommendations(Sequence[Recommendation]):
    """The recommended items, the best first.

    Attributes:
      items: at most as many as were requested.
      known: whether they come from the model; False where the user is unknown and these are the most popular items.
      unknown_items: how many items of the given history are not in the catalog.
    """

    items: tuple[Recommendation, ...]
    known: bool = True
    unknown_items: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]


class Explanation(NamedTuple):
    """Why an item has its score, which is the sum of the contributions and the bias.

    Attributes:
      contributions: the items of the history with what each adds to the score, the largest first.
      bias: what the item has without any history.
    """

    contributions: tuple[Recommendation, ...]
    bias: float
