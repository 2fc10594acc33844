"""The kinds of artifacts, and how much of them is computed at once."""

# The tables that each kind needs, and those that it may have; `sequence` needs those of its net too.
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "vectors": ({"user", "item"}, {"item_bias"}),
    "factors": ({"item"}, {"query", "scale", "item_bias"}),
    "item_item": ({"item_item"}, {"scale", "item_bias"}),
    "popularity": ({"item_bias"}, set()),
    "sequence": ({"item"}, set()),
}
SUM_KINDS = ("factors", "item_item")  # those that sum over a history
HISTORY_KINDS = (*SUM_KINDS, "sequence")
USERS = 256  # users of one batch of `recommend_many`
MMR = 100  # items that are reranked for diversity
SCORES = 2**23  # scores that are held at once: 32 MB
SLAB = 2**16  # items that are scored before their best are selected
