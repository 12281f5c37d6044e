"""A lossless codec: bits-back coding with a trained diffusion model.

`compress` and `decompress` turn pictures into bytes and back, bit for bit. `bound` is what the rate approaches.
"""

from kakusan.codec.chain import Bound, Chain
from kakusan.codec.coding import Decoded, Summary, bound, compress, decode, decompress, summary
from kakusan.codec.container import CorruptFile

__all__ = [
    "Bound",
    "Chain",
    "CorruptFile",
    "Decoded",
    "Summary",
    "bound",
    "compress",
    "decode",
    "decompress",
    "summary",
]
