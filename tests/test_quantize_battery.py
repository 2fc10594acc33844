"""Every function of quantize and prune: dtypes under x64, arrays without rows or columns, gradients at zeros, ids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax import compress, prune, quantize

KEY = jax.random.key(0)
LEADING = {"c": prune.Coupling((prune.CoupledAxis(("x",), 0),))}
HALF = np.float32(0.5)


def movement_pruning(x):
    plan = compress.movement_pruning(["net/x"], sparsity=lambda hparams, step: 0.5)
    params = {"net": {"x": x}}
    learned, state = plan.init(KEY, params, None)
    return plan.apply(params, learned, plan.update(params, learned, state, None, jnp.array(0), None), None)


def shares(x):
    return jnp.full((x.shape[0], 3), 1 / 3, jnp.float32)


CASES = {  # of x [rows, columns] float
    "absmax_scale": lambda x: quantize.absmax_scale(x, bits=3, axis=0, group_size=4, granularity=1),
    "activation_aware_scales": lambda x: quantize.activation_aware_scales(x.T, x, bits=3, points=3),
    "chosen_bit_widths": lambda x: quantize.chosen_bit_widths(shares(x), bits=[0, 2, 4]),
    "clip_scale": lambda x: quantize.clip_scale(x, bits=4),
    "clipped_activation": lambda x: quantize.clipped_activation(x, 1.5, bits=3),
    "dequantize": lambda x: quantize.dequantize(quantize.quantize(x, bits=3, axis=0, key=KEY)),
    "dorefa_weights": lambda x: quantize.dorefa_weights(x, bits=2),
    "entropy_scale": lambda x: quantize.entropy_scale(x, bits=4, bins=16, cuts=4),
    "fake_quant": lambda x: quantize.fake_quant(x, bits=3, axis=0, key=KEY, where=x > 0),
    "fake_quant_asymmetric": lambda x: quantize.fake_quant_asymmetric(x, -1.0, 1.0, bits=3),
    "fake_quant_rows": lambda x: quantize.fake_quant_rows(x, bits=3, key=KEY, where=x > 0),
    "fake_quant_with": lambda x: quantize.fake_quant_with(x, HALF, bits=3),
    "frequency_groups": lambda x: quantize.frequency_groups(jnp.ones(x.shape[0], jnp.int32), groups=2),
    "gptq": lambda x: quantize.gptq(x.T, x, HALF, bits=3),
    "initial_step": lambda x: quantize.initial_step(x, bits=3, axis=0),
    "int_matmul": lambda x: quantize.int_matmul(x, quantize.quantize(x.T, bits=3, axis=1)),
    "learned_step": lambda x: quantize.learned_step(x, HALF, bits=3),
    "learned_step_offset": lambda x: quantize.learned_step_offset(x, HALF, HALF, bits=3),
    "least_squares_levels": lambda x: quantize.least_squares_levels(x, bits=2),
    "low_precision_round": lambda x: quantize.low_precision_round(x, HALF, bits=4, key=KEY),
    "low_precision_values": lambda x: quantize.low_precision_values(quantize.LowPrecision(x.astype(jnp.int8), HALF)),
    "minmax": lambda x: quantize.minmax(x, axis=0),
    "mixed_precision": lambda x: quantize.mixed_precision(
        x, shares(x), jnp.ones(3, jnp.float32), jnp.zeros(x.shape[1], jnp.float32), bits=[0, 2, 4]
    ),
    "percentile_scale": lambda x: quantize.percentile_scale(x, bits=4, axis=0),
    "power_of_two": quantize.power_of_two,
    "proximal_map": lambda x: quantize.proximal_map(x, jnp.array([-1.0, 0.0, 1.0]), 0.5),
    "proximal_sharpness": lambda x: quantize.proximal_sharpness(3, begin=0, end=10),
    "quantize": lambda x: quantize.quantize(x, bits=3, axis=0),
    "quantize_rows": lambda x: quantize.quantize_rows(x, bits=3),
    "quantize_with": lambda x: quantize.quantize_with(x, HALF, bits=3),
    "quantized_backward": lambda x: quantize.quantized_backward(x, KEY, bits=3),
    "running_mean": lambda x: quantize.running_mean(quantize.running_mean(None, x), x).mean,
    "greedy_clip_range": lambda x: quantize.greedy_clip_range(x, bits=2, bins=10),
    "sensitivity": lambda x: quantize.sensitivity(lambda p: jnp.sum(p["x"] ** 2), {"x": x}, bits=[2, 4]),
    "signal_to_noise": lambda x: quantize.signal_to_noise(x, x, axis=0),
    "smoothing_scales": lambda x: quantize.smoothing_scales(x.T, x),
    "squared_error_scale": lambda x: quantize.squared_error_scale(x, bits=4, axis=0),
    "tanh_normalized_weights": quantize.tanh_normalized_weights,
    "stochastic_round": lambda x: quantize.stochastic_round(x, KEY),
    "straight_through": lambda x: quantize.straight_through(x, x),
    "unpack": lambda x: quantize.unpack(quantize.quantize(x, bits=3)),
    "usable_step": quantize.usable_step,
    "bit_width_penalty": lambda x: quantize.bit_width_penalty(shares(x), jnp.ones(x.shape[0]), bits=[0, 2, 4]),
    "bit_width_shares": quantize.bit_width_shares,
    "activation_magnitude": lambda x: prune.activation_magnitude(x.T, x),
    "cosine_sparsity": lambda x: prune.cosine_sparsity(3, begin=0, end=10, final=0.5),
    "coupled_scores": lambda x: prune.coupled_scores({"x": x}, LEADING),
    "cubic_sparsity": lambda x: prune.cubic_sparsity(3, begin=0, end=10, final=0.5),
    "drop_and_grow": lambda x: prune.drop_and_grow(x, x > 0, x, fraction=0.3),
    "drop_fraction": lambda x: prune.drop_fraction(3, end=10),
    "erk_sparsity": lambda x: prune.erk_sparsity([x, jnp.ones((3, 4)), jnp.ones(())], 0.5),
    "gradient_flow": lambda x: prune.gradient_flow(lambda w: jnp.sum(w**2), x),
    "group_lasso": lambda x: prune.group_lasso(x, axis=0, strength=0.1),
    "in_dense_phase": lambda x: prune.in_dense_phase(3, begin=1, end=8, every=2),
    "iterative_sparsity": lambda x: prune.iterative_sparsity(3, every=2),
    "l1_penalty": lambda x: prune.l1_penalty(x, strength=0.1),
    "learned_threshold": lambda x: prune.learned_threshold(x, jnp.zeros((1, 1), x.dtype)),
    "magnitude": prune.magnitude,
    "mask_coupled": lambda x: prune.mask_coupled({"x": x}, {"c": jnp.zeros(x.shape[0], bool)}, LEADING),
    "mask_lowest": lambda x: prune.mask_lowest(x, 0.5),
    "mask_n_of_m": lambda x: prune.mask_n_of_m(x, 1, m=1),
    "mask_top_k": lambda x: prune.mask_top_k(jnp.abs(x), 1, axis=0),
    "mask_slices": lambda x: prune.mask_slices(x, 0.5, axis=0),
    "mask_smallest": lambda x: prune.mask_smallest(x, 0.5, axis=0),
    "mask_smallest_globally": lambda x: prune.mask_smallest_globally([x, x], 0.5),
    "masked_with_decay": lambda x: prune.masked_with_decay(x, x > 0),
    "movement_masked": lambda x: prune.movement_masked(x, x, sparsity=0.5),
    "movement_pruning": movement_pruning,
    "normalized_magnitude": prune.normalized_magnitude,
    "one_shot_sparsity": lambda x: prune.one_shot_sparsity(3, at=2, final=0.5),
    "random_scores": lambda x: prune.random_scores(KEY, x),
    "remap": lambda x: prune.remap(x.ravel() > 0),
    "reset_moments": lambda x: prune.reset_moments([x], x > 0),
    "saliency": lambda x: prune.saliency(x, x),
    "score_masked": lambda x: prune.score_masked(x, x, x > 0),
    "group_soft_threshold": lambda x: prune.group_soft_threshold(x, 0.1, axis=0),
    "slice_scores": lambda x: prune.slice_scores(x, axis=0),
    "soft_movement_masked": lambda x: prune.soft_movement_masked(x, x, threshold=0.5),
    "soft_threshold": lambda x: prune.soft_threshold(x, 0.1),
    "starts_round": lambda x: prune.starts_round(3, every=2),
}
ELSEWHERE = {  # records, and functions of structures, bytes or rows: below and in test_prune_shrink, test_prune_sparse
    "Coupling", "LowPrecision", "CoupledAxis", "PACKED_BITS", "QTensor", "Regrown", "RowQuantized", "RunningMean",
    "SparseTensor", "densify", "dim_coupling", "expand", "gather", "head_coupling", "mlp_couplings", "pack_bits",
    "shrink", "sparsify_if_smaller", "sparsify", "unit_coupling", "unpack_bits",
}  # fmt: skip
GRADIENTS = (
    "activation_magnitude", "clipped_activation", "coupled_scores", "dorefa_weights", "fake_quant", "fake_quant_rows",
    "group_lasso", "learned_step", "learned_threshold", "normalized_magnitude", "saliency", "group_soft_threshold",
    "slice_scores", "soft_threshold", "tanh_normalized_weights",
)  # fmt: skip


def test_nothing_is_left_out():
    assert set(CASES) - {"movement_pruning"} | ELSEWHERE == {*quantize.__all__, *prune.__all__}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", list(CASES))
def test_x64_changes_no_dtype(name, dtype):
    x = jax.ShapeDtypeStruct((4, 8), dtype)
    plain = jax.eval_shape(CASES[name], x)
    with jax.enable_x64(True):
        assert jax.eval_shape(CASES[name], x) == plain


@pytest.mark.parametrize("shape", [(0, 8), (4, 0), (1, 8), (4, 1)])
def test_zeros_of_every_shape_give_numbers(shape):
    found = jax.jit(lambda x: {name: case(x) for name, case in CASES.items()})(jnp.zeros(shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_gradients_at_zeros_are_numbers():
    def total(x, name):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(CASES[name](x)))

    found = jax.jit(lambda x: {case: jax.grad(total)(x, case) for case in GRADIENTS})(jnp.zeros((2, 4)))
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name


@functools.cache
def packed():
    """A scale a row, one scale for all, and a scale and a bias a row."""

    @jax.jit
    def forms(x):
        return quantize.quantize(x, bits=3, axis=0), quantize.quantize(x, bits=4), quantize.quantize_rows(x, bits=4)

    return forms(np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32))


@jax.jit
def gathered(parts, ids):
    return [quantize.gather(part, ids) for part in parts]


@pytest.mark.parametrize(
    ("dtype", "x64"), [(np.int8, False), (np.uint8, False), (np.uint32, False), (np.int64, True), (np.uint64, True)]
)
def test_packed_rows_by_ids_of_every_dtype(dtype, x64):
    ids = np.array([[3, 0, 127], [100, 3, 0]], dtype)
    ids[1, 2] = np.iinfo(dtype).max
    held = ids.astype(object) < 300
    with jax.enable_x64(x64):
        found = gathered(packed(), ids)
    for part, rows in zip(packed(), found, strict=True):
        whole = np.asarray(jax.jit(quantize.dequantize)(part))
        expected = np.where(held[..., None].astype(bool), whole[np.where(held, ids, 0).astype(int)], np.float32(np.nan))
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("pack", [quantize.quantize, quantize.quantize_rows])
def test_a_packed_table_of_no_rows_reads_as_nan(pack):
    found = jax.jit(lambda x, ids: quantize.gather(pack(x, bits=3), ids))(jnp.zeros((0, 5)), jnp.array([0, -1]))
    np.testing.assert_array_equal(found, np.full((2, 5), np.nan))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_reads_as_what_is_packed_rounded_to_it(dtype):
    @jax.jit
    def pairs(x):
        step = quantize.usable_step(jnp.float32(0.3))
        trained = quantize.fake_quant(x, bits=3, axis=0), quantize.fake_quant_rows(x, bits=4)
        stored = quantize.quantize(x, bits=3, axis=0), quantize.quantize_rows(x, bits=4)
        trained += (quantize.learned_step(x, step, bits=4),)
        stored += (quantize.quantize_with(x, step, bits=4, full_range=True),)
        return trained, [quantize.dequantize(q) for q in stored]

    for trained, stored in zip(*pairs(jnp.asarray(np.random.default_rng(0).normal(size=(6, 9)), dtype)), strict=True):
        assert (trained.dtype, stored.dtype) == (dtype, jnp.float32)
        np.testing.assert_array_equal(trained, stored.astype(dtype))
