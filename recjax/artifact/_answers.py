"""What a recommender answers: recommended items and explanations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
      item: raw id.
      title: ``""`` where the catalogue has none.
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
      unknown_items: how many items of the given history are not in the catalogue.
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
