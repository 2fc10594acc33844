"""What students ask a teacher: computed once, cached, imported from a file, and drawn from."""

from recjax.teacher._cache import cached
from recjax.teacher._complement import excluded, uniform_complement
from recjax.teacher._files import (
    read_embeddings,
    read_labels,
    read_lists,
    read_scores,
    write_embeddings,
    write_scores,
)
from recjax.teacher._import import Imported, read_teacher
from recjax.teacher._knowledge import Knowledge, activations, input_gradients, knowledge, ranks, vectors
from recjax.teacher._samplers import (
    annealed_temperature,
    better_of_two,
    by_disagreement,
    by_rank,
    gumbel_selection,
    popularity_groups,
    ranked_pairs,
    rejuvenated_candidates,
)

__all__ = [
    "Imported",
    "Knowledge",
    "activations",
    "annealed_temperature",
    "better_of_two",
    "by_disagreement",
    "by_rank",
    "cached",
    "excluded",
    "gumbel_selection",
    "input_gradients",
    "knowledge",
    "popularity_groups",
    "ranked_pairs",
    "ranks",
    "read_embeddings",
    "read_labels",
    "read_lists",
    "read_scores",
    "read_teacher",
    "rejuvenated_candidates",
    "uniform_complement",
    "vectors",
    "write_embeddings",
    "write_scores",
]
