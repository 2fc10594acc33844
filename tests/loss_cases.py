"""Every loss with arguments to try it on, what it is compared with, and how: for the files test_losses*.py."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import references

from recjax import losses

# Twins are float64. In float64 only the order of some dozen additions differs; in float32 each operation adds 6e-8
# relative to terms of size ten at most, and a divergence near zero is a difference of such terms: hence the atol.
TOLERANCE = {"float64": {"rtol": 1e-11, "atol": 1e-12}, "float32": {"rtol": 1e-5, "atol": 1e-5}}

SIZES = {"i": 6, "k": 4, "l": 5, "n": 5, "s": 3, "t": 4, "m": 3, "d": 4, "h": 3, "e": 7}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Array(NamedTuple):
    """An argument by its axes: ``b`` is any leading shape, the other letters have the lengths of ``SIZES``."""

    axes: str
    draw: Callable
    score: bool = False  # may be +-1e4

    def shape(self, lead):
        return sum(((tuple(lead) if axis == "b" else (SIZES[axis],)) for axis in self.axes), ())


def scores(axes):
    return Array(axes, lambda rng, shape: 2 * rng.normal(size=shape), score=True)


def weights(axes):
    return Array(axes, lambda rng, shape: rng.uniform(0.1, 1.5, size=shape))


def matrix(axes):
    return Array(axes, lambda rng, shape: rng.normal(size=shape))


def shares(axes):
    return Array(axes, lambda rng, shape: softmax(2 * rng.normal(size=shape)))


def chances(axes):
    return Array(axes, lambda rng, shape: rng.uniform(size=shape))


def ids(axes, below):
    return Array(axes, lambda rng, shape: rng.integers(0, SIZES.get(below, below), shape).astype(np.int32))


def flags(axes):
    def draw(rng, shape):
        out = rng.random(shape) < 0.5
        out[..., 0] = True
        return out

    return Array(axes, draw)


class Case(NamedTuple):
    """A loss, its arguments, three values of each hyperparameter, and which arguments each mask covers."""

    name: str
    arguments: tuple[Array, ...]
    swept: dict[str, list] = {}  # noqa: RUF012
    static: dict[str, int] = {}  # noqa: RUF012
    masks: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    empty: float | None = 0.0  # the loss of a list that is masked out whole; None where something is left of it
    frozen: bool = False  # part of the gradient is stopped, as published: finite differences don't see that
    free: str = ""  # axes that one argument has alone: another length of them is no error
    defaults: bool = True  # callable without its hyperparameters


TAU = {"temperature": [0.5, 1.0, 4.0]}
ALPHA = {"alpha": [0.0, 0.3, 1.0]}
LIST = {"where": (0, 1)}
PAIR = (scores("bi"), scores("bi"))
MEMBERS = (scores("ns"), scores("nt"))
CASES = {
    "bce": Case("binary_cross_entropy", (scores("bi"), chances("bi"))),
    "ce": Case("softmax_cross_entropy", (scores("bi"), shares("bi")), masks=LIST),
    "ce-ids": Case("softmax_cross_entropy", (scores("bi"), ids("b", "i")), masks={"where": (0,)}),
    "sampled-softmax": Case(
        "sampled_softmax",
        (scores("b"), scores("bl")),
        {"positive_log_q": [0.0, -2.0, -7.5], "negatives_log_q": [0.0, -6.0, -1.5]},
        masks={"where": (1,)},
        free="l",
    ),
    "cosine-contrastive": Case(
        "cosine_contrastive",
        (scores("b"), scores("bl")),
        {"margin": [0.0, 0.4, 0.9], "weight": [1.0, 0.0, 150.0]},
        masks={"where": (1,)},
        empty=None,
        free="l",
        defaults=False,
    ),
    "bpr": Case("bpr", PAIR),
    "mse": Case("mean_squared_error", PAIR),
    "l1": Case("l1", (scores("bi"),), {"weight": [0.0, 1.0, 0.3]}),
    "kl": Case("soft_target_kl", PAIR, TAU, masks=LIST),
    "soft-ce": Case("soft_target_ce", PAIR, TAU, masks=LIST),
    "soft-bce": Case("soft_target_bce", PAIR, TAU),
    "distillation": Case(
        "distillation", (*PAIR, shares("bi")), ALPHA | TAU, masks={"where": (0, 1, 2)}, defaults=False
    ),
    "distillation-ids": Case("distillation", (*PAIR, ids("b", "i")), ALPHA | TAU, masks=LIST, defaults=False),
    "decoupled": Case("decoupled_kl", (*PAIR, ids("b", "i")), ALPHA | {"beta": [8.0, 0.5, 0.0]} | TAU, masks=LIST),
    "logit-mse": Case("logit_mse", PAIR),
    "margin-mse": Case("margin_mse", PAIR, masks=LIST),
    "top-k": Case("top_k_kl", PAIR, {"k": [1, 3, 9]} | TAU, masks=LIST, defaults=False),
    "standardized": Case("standardized_kl", PAIR, TAU | {"epsilon": [1e-7, 0.1, 1.0]}, masks=LIST),
    "dist": Case(
        "dist",
        (scores("ni"), scores("ni")),
        {"beta": [0.0, 1.0, 2.0], "gamma": [1.0, 0.0, 2.0]} | TAU,
        masks=LIST,
    ),
    "listwise": Case("listwise_bce", PAIR, masks=LIST),
    "hint": Case("hint", PAIR),
    "cosine-hint": Case("cosine_hint", PAIR),
    "attention": Case("attention_transfer", (scores("bns"), scores("bnt")), masks=LIST, free="st"),
    "gradients": Case("gradient_match", PAIR),
    "experts": Case("distillation_experts", (scores("bmd"), scores("bd"), shares("bm"))),
    "orthogonal": Case("orthogonal_hint", (scores("bs"), scores("bt"), matrix("st"))),
    "graph": Case(
        "graph_filtered_hint",
        (scores("nd"), scores("nd"), ids("e", "n"), ids("e", "n"), weights("e")),
        {"alpha": [0.0, 0.2, 1.0]},
        defaults=False,
    ),
    "graph-filter": Case(
        "graph_filter",
        (scores("nd"), ids("e", "n"), ids("e", "n"), weights("e")),
        {"alpha": [0.0, 0.2, 1.0]},
        defaults=False,
    ),
    "distances": Case("relational_distance", MEMBERS, masks=LIST, free="st"),
    "angles": Case("relational_angle", MEMBERS, masks=LIST, free="st"),
    "similarity": Case("similarity_preserving", MEMBERS, masks=LIST, free="st"),
    "gram": Case("gram", MEMBERS, masks=LIST, free="st"),
    "info-nce": Case("info_nce", (scores("nd"), scores("nd")), {"temperature": [0.1, 0.05, 1.0]}, masks=LIST),
    "topology": Case("topology", MEMBERS, masks=LIST, free="st"),
    "hierarchy": Case(
        "hierarchical_topology",
        (*MEMBERS, ids("n", 3)),
        static={"groups": 3},
        masks=LIST,
        frozen=True,
        free="st",
    ),
    "rd": Case("ranking_distillation", (scores("bk"), weights("bk")), masks=LIST),
    "cd": Case("collaborative_distillation", PAIR, {"scale": [0.5, 2.0, 5.0], "shift": [0.0, 1.0, -3.0]}),
    "rrd": Case(
        "relaxed_ranking",
        (scores("bk"), scores("bl")),
        masks={"where": (0,), "uninteresting_where": (1,)},
        free="kl",
    ),
    "dcd": Case(
        "dual_correction",
        (scores("bk"), scores("bl")),
        masks={"where": (0,), "overestimated_where": (1,)},
        free="kl",
    ),
    "unkd": Case("unbiased_pairs", PAIR),
    "cl-drd": Case("inverse_rank_pairs", (scores("bi"), chances("bi")), masks=LIST),
    "rce": Case(
        "rejuvenated_ce",
        (*PAIR, flags("bi"), flags("bi"), flags("bi")),
        {"beta": [0.0, 3.0, 10.0]} | TAU,
        defaults=False,
    ),
    "bd": Case("bidirectional", PAIR, {"scale": [1.0, 5.0, 0.5]}, frozen=True),
    "gate": Case("gated_teachers", (scores("bm"), scores("bm")), TAU),
    "mutual": Case("mutual_learning", (scores("mn"), chances("n")), frozen=True, free="m"),
    "privileged": Case(
        "privileged_features", (*PAIR, chances("bi")), {"weight": [0.0, 1.0, 0.3]}, frozen=True, defaults=False
    ),
    "heads": Case("layer_heads", (scores("b"), scores("b"), scores("bh")), {"beta": [0.0, 1.0, 0.3]}, free="h"),
}
MASKABLE = [key for key, case in CASES.items() if case.masks]
SWEPT = [key for key, case in CASES.items() if case.swept]


def arguments_of(key, lead=(4,), dtype="float32", seed=0):
    """Arrays for a loss; floats in ``dtype``."""
    rng = np.random.default_rng(seed)
    drawn = [array.draw(rng, array.shape(lead)) for array in CASES[key].arguments]
    return [a.astype(dtype) if a.dtype == np.float64 else a for a in drawn]


def settings_of(key, index):
    """The index-th value of every hyperparameter."""
    return {name: values[index] for name, values in CASES[key].swept.items()}


def floats(key):
    """Positions of the arguments that a gradient may flow to."""
    sample = arguments_of(key, lead=())
    return tuple(i for i, array in enumerate(sample) if np.issubdtype(array.dtype, np.floating))


def mask_shape(key, name, lead=(4,)):
    """A mask covers the axes that its arguments share from the left, the last ones of width left out."""
    covered = [CASES[key].arguments[i].axes for i in CASES[key].masks[name]]
    axes = covered[0]
    if axes[0] == "n" or axes == "bns":  # members of a batch, or positions: not their widths
        axes = axes[:-1]
    return Array(axes, lambda *_: None).shape(lead)


def masks_of(key, lead=(4,), seed=1):
    """A mask for each masked argument, by its name: along the first axis none, one, all, and some of a list."""
    rng = np.random.default_rng(seed)
    out = {}
    for name in CASES[key].masks:
        where = rng.random(mask_shape(key, name, lead)) < 0.6
        if where.ndim == 1:
            where[:3] = True, False, True
        elif len(where) >= 3:
            where[0], where[1], where[2] = False, np.arange(where.shape[-1]) == 2, True
        out[name] = where
    return out


def covering(key, name, position, where):
    """The mask of an argument's very shape."""
    array = CASES[key].arguments[position]
    extra = len(array.shape((4,))) - where.ndim
    return np.broadcast_to(where.reshape(where.shape + (1,) * extra), array.shape((4,)))


def loss_of(key):
    return functools.partial(getattr(losses, CASES[key].name), **CASES[key].static)


def twin_of(key):
    return functools.partial(getattr(references, CASES[key].name), **CASES[key].static)


def leaves(value):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(value)]


def assert_close(ours, twin, **tolerance):
    ours, twin = leaves(ours), [np.asarray(leaf) for leaf in (twin if isinstance(twin, tuple) else (twin,))]
    assert len(ours) == len(twin)
    for mine, other in zip(ours, twin, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, **tolerance)


def total(value):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(value))


def cast(key, dtype, **options):
    return [jnp.asarray(a, dtype) if a.dtype == np.float32 else jnp.asarray(a) for a in arguments_of(key, **options)]


@functools.cache
def compiled(key):
    """The loss and the gradients of its sum to every float argument: a compile costs more than all else here."""

    def both(*arguments, **options):
        loss = loss_of(key)
        slopes = jax.grad(lambda *a: total(loss(*a, **options)), floats(key))(*arguments)
        return loss(*arguments, **options), slopes

    return jax.jit(both)


@functools.cache
def value_of(key):
    return jax.jit(loss_of(key))


def maskings(key):
    """Without a mask, and with all of them."""
    masks = masks_of(key)
    return [{}, masks] if masks else [{}]
