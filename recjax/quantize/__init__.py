"""Quantization: fake quantization for training, packed integers for storage.

Both use the same integers and scales, so the floats are equal bit for bit, compiled or not:

* :func:`fake_quant` and ``dequantize(quantize(x))``,
* :func:`fake_quant_with` and ``dequantize(quantize_with(x, scale))``,
* :func:`fake_quant_rows` and ``dequantize(quantize_rows(x))``.

For bfloat16 and float16 inputs, fake quantization rounds these floats to the dtype of the input.

Everywhere: a wrong shape raises ValueError, a wrong dtype TypeError. Hyperparameters are traced, so that
:func:`jax.vmap` can sweep them in one compiled program, unless the docstring calls them static. Values are not checked.
"""

from recjax.quantize._asymmetric import RowQuantized, fake_quant_asymmetric, fake_quant_rows, minmax, quantize_rows
from recjax.quantize._bits import pack_bits, unpack_bits
from recjax.quantize._calibrate import (
    RunningMean,
    clip_scale,
    entropy_scale,
    greedy_clip_range,
    percentile_scale,
    running_mean,
    signal_to_noise,
    squared_error_scale,
)
from recjax.quantize._dorefa import dorefa_weights, quantized_backward, tanh_normalized_weights
from recjax.quantize._fake import fake_quant, fake_quant_with, stochastic_round, straight_through
from recjax.quantize._learned import clipped_activation, initial_step, learned_step, learned_step_offset, usable_step
from recjax.quantize._matmul import int_matmul
from recjax.quantize._mixed import (
    bit_width_penalty,
    bit_width_shares,
    chosen_bit_widths,
    frequency_groups,
    mixed_precision,
    sensitivity,
)
from recjax.quantize._packed import PACKED_BITS, QTensor, quantize, quantize_with
from recjax.quantize._post_training import activation_aware_scales, gptq, smoothing_scales
from recjax.quantize._read import dequantize, gather, unpack
from recjax.quantize._scale import absmax_scale, power_of_two
from recjax.quantize._training import (
    LowPrecision,
    least_squares_levels,
    low_precision_round,
    low_precision_values,
    proximal_map,
    proximal_sharpness,
)

__all__ = [
    "PACKED_BITS",
    "LowPrecision",
    "QTensor",
    "RowQuantized",
    "RunningMean",
    "absmax_scale",
    "activation_aware_scales",
    "bit_width_penalty",
    "bit_width_shares",
    "chosen_bit_widths",
    "clip_scale",
    "clipped_activation",
    "dequantize",
    "dorefa_weights",
    "entropy_scale",
    "fake_quant",
    "fake_quant_asymmetric",
    "fake_quant_rows",
    "fake_quant_with",
    "frequency_groups",
    "gather",
    "gptq",
    "greedy_clip_range",
    "initial_step",
    "int_matmul",
    "learned_step",
    "learned_step_offset",
    "least_squares_levels",
    "low_precision_round",
    "low_precision_values",
    "minmax",
    "mixed_precision",
    "pack_bits",
    "percentile_scale",
    "power_of_two",
    "proximal_map",
    "proximal_sharpness",
    "quantize",
    "quantize_rows",
    "quantize_with",
    "quantized_backward",
    "running_mean",
    "sensitivity",
    "signal_to_noise",
    "smoothing_scales",
    "squared_error_scale",
    "stochastic_round",
    "straight_through",
    "tanh_normalized_weights",
    "unpack",
    "unpack_bits",
    "usable_step",
]
