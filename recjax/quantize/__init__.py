"""Fewer bits for an array: fake quantization for training, and the packed integers that it stands for.

Both roads share one function for the integers and the scale, so what is trained is what is packed: the values of
:func:`fake_quant` and of ``dequantize(quantize(x))`` are the same floats, compiled or not.
"""

from recjax.quantize._fake import fake_quant, fake_quant_with, stochastic_round, straight_through
from recjax.quantize._packed import PACKED_BITS, QTensor, dequantize, pack_bits, quantize, unpack, unpack_bits
from recjax.quantize._scale import absmax_scale, power_of_two

__all__ = [
    "PACKED_BITS",
    "QTensor",
    "absmax_scale",
    "dequantize",
    "fake_quant",
    "fake_quant_with",
    "pack_bits",
    "power_of_two",
    "quantize",
    "stochastic_round",
    "straight_through",
    "unpack",
    "unpack_bits",
]
