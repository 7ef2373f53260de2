# SPDX-License-Identifier: BSD-3-Clause
"""From logits to tokens. Rows are independent: a row's token depends on its own logits, history and seed.

The order within a step is FasterTransformer's: bad words, temperature, penalties, minimum length, draw.
"""

import torch
from torch import Tensor

from .registry import op

_MASK = 0xFFFFFFFF
_PHILOX_ROUNDS = 10
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)


@op(out=lambda seeds, positions: torch.empty_like(positions, dtype=torch.float32))
def philox_uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in (0, 1) per row: Philox4x32-10, key = seed, counter = position.

    The first of the four words, by its upper 24 bits. (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", SC 2011.)

    Args:
        seeds: [S] int64, the 64 bits of an unsigned seed.
        positions: [S] int32, index of the token that is drawn.
    """
    counter = [positions.long(), *(torch.zeros_like(seeds) for _ in range(3))]
    key = [seeds & _MASK, (seeds >> 32) & _MASK]
    for _ in range(_PHILOX_ROUNDS):
        low = counter[0] * _PHILOX_MULTIPLIERS[0]
        high = counter[2] * _PHILOX_MULTIPLIERS[1]
        counter = [
            ((high >> 32) & _MASK) ^ counter[1] ^ key[0],
            high & _MASK,
            ((low >> 32) & _MASK) ^ counter[3] ^ key[1],
            low & _MASK,
        ]
        key = [(word + weyl) & _MASK for word, weyl in zip(key, _PHILOX_WEYL, strict=True)]
    return ((counter[0] >> 8).float() + 0.5) * 2.0**-24


@op(out=None)
def ban_words(logits: Tensor, token_pool: Tensor, slots: Tensor, lengths: Tensor, words: Tensor) -> None:
    """Bans the last token of every word whose other tokens end the row, in place.

    Args:
        logits: [S, V] float32.
        token_pool: [slots, positions] int32, slots: [S] int64, lengths: [S] int32 tokens of each row.
        words: [S, W, L] int32, right-aligned and padded with -1; a word of -1 alone bans nothing.
    """
    length = words.shape[2]
    positions = lengths[:, None] + torch.arange(1 - length, 0, device=logits.device)
    tail = torch.where(positions < 0, -2, token_pool[slots[:, None], positions.clamp(min=0)])
    heads, last = words[:, :, :-1], words[:, :, -1]
    banned = ((heads == tail[:, None]) | (heads < 0)).all(-1) & (last >= 0)
    rows, columns = banned.nonzero(as_tuple=True)
    logits[rows, last[rows, columns].long()] = -torch.inf


@op(out=None)
def apply_penalties(
    logits: Tensor,
    token_pool: Tensor,
    slots: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> None:
    """Penalties on tokens that were seen, in place.

    Repetition (logit * p below zero, else logit / p) and presence (logit - p) count the prompt too, each
    token once; frequency (logit - p * count) counts what was generated. (contract: docs/compatibility.md)

    Args:
        logits: [S, V] float32; the other arguments [S], the pool as in `ban_words`.
    """
    history = token_pool[slots, : int(lengths.max())].long()
    positions = torch.arange(history.shape[1], device=logits.device)
    known = positions < lengths[:, None]
    generated = known & (positions >= prompt_lengths[:, None])
    history = history.where(known, 0)
    seen = torch.zeros_like(logits).scatter_add_(1, history, known.float()) > 0
    counts = torch.zeros_like(logits).scatter_add_(1, history, generated.float())
    scale = torch.where(logits < 0, repetition[:, None], 1 / repetition[:, None])
    penalised = torch.where(seen, logits * scale - presence[:, None], logits)
    logits.copy_(penalised - frequency[:, None] * counts)


@op(out=lambda logits, top_k, top_p, min_p, uniform: torch.empty_like(top_k))
def sample(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """One token per row: keep the top k, of those the nucleus of mass p, of those what reaches min_p times
    the best; renormalise; take the first token, in vocabulary order, at which the cumulative mass passes
    `uniform` of the whole. (transformers' filters; Holtzman et al., arXiv 1904.09751; Nguyen et al.,
    arXiv 2407.01082)

    Args:
        logits: [S, V] float32.
        top_k: [S] int32, 0 keeps all. top_p, min_p: [S] float32; top_p 0 keeps all, like 1.
        uniform: [S] float32 in (0, 1).

    Returns:
        [S] int32.
    """
    probabilities = logits.softmax(-1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1], device=logits.device)
    ordered = ordered.masked_fill((top_k[:, None] > 0) & (rank >= top_k[:, None]), 0)
    ordered = ordered / ordered.sum(-1, keepdim=True)
    before = ordered.cumsum(-1) - ordered
    nucleus = torch.where(top_p > 0, top_p, 1.0)[:, None]
    ordered = ordered.masked_fill((before >= nucleus) & (rank > 0), 0)
    ordered = ordered.masked_fill(ordered < min_p[:, None] * ordered[:, :1], 0)
    kept = torch.zeros_like(probabilities).scatter_(1, order, ordered)
    cumulative = kept.double().cumsum(-1)
    threshold = uniform.double()[:, None] * cumulative[:, -1:]
    return (cumulative > threshold).int().argmax(-1).int()


@op(out=lambda logits: torch.empty(logits.shape[0], dtype=torch.int32, device=logits.device))
def greedy(logits: Tensor) -> Tensor:
    """[S, V] -> [S] int32, the first of the largest logits."""
    return logits.argmax(-1).int()


@op(out=lambda logits, tokens: torch.empty_like(tokens, dtype=torch.float32))
def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural log of the full softmax of [S, V] at `tokens` [S] int32."""
    chosen = logits.gather(1, tokens.long()[:, None])[:, 0]
    return chosen - logits.logsumexp(-1)
