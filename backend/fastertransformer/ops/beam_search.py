# SPDX-License-Identifier: BSD-3-Clause
"""What a beam search needs on the device: the next tokens of beams, and beams that take others' places."""

from torch import Tensor

from .registry import op


@op(out=None)
def normalise_rows(logits: Tensor, num_candidates: Tensor) -> None:
    """Log-softmax of the rows that want candidates, in place.

    Args:
        logits: [S, V] float32. num_candidates: [S] int32; 0 leaves a row as it is.
    """
    rows = num_candidates.nonzero()[:, 0]
    logits[rows] = logits[rows].log_softmax(-1)


@op(out=None)
def beam_candidates(logits: Tensor, num_candidates: Tensor, tokens: Tensor, logprobs: Tensor) -> None:
    """The largest logits of every row and their places, largest first, into `logprobs` and `tokens`.

    Args:
        logits: [S, V] float32. num_candidates: [S] int32, how many of a row; what stands behind them is
            undefined. tokens: [S, K] int32, K <= V. logprobs: [S, K] float32.
    """
    rows = num_candidates.nonzero()[:, 0]
    logprobs[rows], places = logits[rows].topk(tokens.shape[1], dim=-1)
    tokens[rows] = places.int()


@op(out=None)
def copy_rows(token_pool: Tensor, sources: Tensor, targets: Tensor, length: int) -> None:
    """token_pool[targets, :length] = token_pool[sources, :length], in place.

    Args:
        token_pool: [slots, positions] int32. sources, targets: [D] int32; no row is both, no target twice.
    """
    token_pool[targets.long(), :length] = token_pool[sources.long(), :length]


@op(out=None)
def copy_blocks(kv_cache: Tensor, sources: Tensor, targets: Tensor) -> None:
    """kv_cache[:, :, targets] = kv_cache[:, :, sources], in place.

    Args:
        kv_cache: [layers, 2, num_blocks, K, block_size, D].
        sources, targets: [C] int32; no block is both, no target twice.
    """
    kv_cache[:, :, targets.long()] = kv_cache[:, :, sources.long()]
