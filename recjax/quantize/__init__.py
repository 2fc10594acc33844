"""Fewer bits for an array: fake quantization for training, and the packed integers that it stands for.

Both roads share one function for the integers and the scale, so what is trained is what is packed: the values of
:func:`fake_quant` and of ``dequantize(quantize(x))`` are the same floats, compiled or not.
"""

from recjax.quantize._fake import fake_quant, straight_through
from recjax.quantize._packed import PACKED_BITS, QTensor, dequantize, pack_bits, quantize, unpack, unpack_bits

__all__ = [
    "PACKED_BITS",
    "QTensor",
    "dequantize",
    "fake_quant",
    "pack_bits",
    "quantize",
    "straight_through",
    "unpack",
    "unpack_bits",
]
