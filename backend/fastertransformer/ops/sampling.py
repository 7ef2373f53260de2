# SPDX-License-Identifier: BSD-3-Clause
"""From logits to tokens, every row with the parameters of its slot. Rows are independent of each other.

The order within a step: temperature, penalties, bans, draw. (FasterTransformer bans bad words first) The ops
share these arguments, which lie on the device:

    logits: [S, V] float32.
    token_pool: [slots, positions] int32, the tokens of every slot; below 0 what is not of the vocabulary.
    slots: [S] int32; -1 marks a row that only fills the batch: it is not touched, and its result is 0.
    lengths: [S] int32, tokens that the row has, which is the position of the token drawn.
    floats, integers: [rows, slots] float32 and int32, the rows of SAMPLING_FLOATS and SAMPLING_INTEGERS.
    seeds: [slots] int64, the 64 bits of an unsigned seed.

Slots, lengths and tables do not change during a step: kernels read them before its logits are there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .registry import op

SAMPLING_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "top_p_decay",
    "top_p_min",
)
"""`temperature` is what logits are divided by, never 0."""

SAMPLING_INTEGERS = (
    "top_k",
    "prompt_len",
    "first_end",
    "num_bad_words",
    "num_end_ids",
    "wants_logprob",
    "top_p_reset_id",
    "no_repeat_ngram_size",
    "num_biases",
)
"""`top_k` 1 is greedy, 0 has no limit; `first_end` is the length from which on an end id may come."""

_MASK = 0xFFFFFFFF
_PHILOX_ROUNDS = 10
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)

_LOG2_E = 1.44269504
# 2^x - 1 over x for |x| <= 1/2, highest power first: exp2f of the Cephes library (S. L. Moshier).
_EXP2 = (1.535336188e-4, 1.339887440e-3, 9.618437357e-3, 5.550332471e-2, 2.402264791e-1, 6.931472029e-1)
_LOWEST_EXPONENT = -64.0
_MASS_OF_BEST = 2.0**40


@op(out=None)
def process_logits(
    logits: Tensor,
    token_pool: Tensor,
    slots: Tensor,
    lengths: Tensor,
    floats: Tensor,
    integers: Tensor,
    bad_words: Tensor,
    end_ids: Tensor,
    biases: Tensor,
) -> None:
    """Adds biases, divides by the temperature, penalises, bans bad words, repeated n-grams and the end ids of
    short rows; in place. Bans come last: what is -inf stays so, whatever the penalties would do.

    A row that asks for none of it keeps its bits. (contract: docs/compatibility.md)

    Args:
        bad_words, end_ids: [slots, W, L] int32, of which the first `num_bad_words` and `num_end_ids` count;
            right-aligned, padded with -1. The last token of a word is banned where the others end the row.
        biases: [slots, W, 2] int32, of which the first `num_biases` count: a token, once in a row, and the
            bits of the float that is added to its logit.
    """
    at = _columns(floats, integers, slots)
    unready = (lengths < at["first_end"]) & (at["num_end_ids"] > 0)
    penalised = (
        (at["repetition_penalty"] != 1) | (at["presence_penalty"] != 0) | (at["frequency_penalty"] != 0)
    )
    lists = (at["num_bad_words"] > 0) | (at["num_biases"] > 0) | (at["no_repeat_ngram_size"] > 0)
    asks = unready | penalised | (at["temperature"] != 1) | lists
    rows = (asks & (slots >= 0)).nonzero()[:, 0]
    if not len(rows):
        return
    at = {name: column[rows] for name, column in at.items()}
    lengths, places, unready = lengths[rows], slots[rows].long(), unready[rows]
    history = token_pool[places, : int(lengths.max())]
    processed = logits[rows]
    _add_biases(processed, biases[places], at["num_biases"])
    processed /= at["temperature"][:, None]
    if penalised[rows].any():
        _penalise(processed, history, lengths, at)
    _ban(processed, history, lengths, bad_words[places], at["num_bad_words"])
    _ban_ngrams(processed, history, lengths, at["no_repeat_ngram_size"])
    _ban(processed, history, lengths, end_ids[places], at["num_end_ids"] * unready)
    logits[rows] = processed


def _columns(floats: Tensor, integers: Tensor, slots: Tensor) -> dict[str, Tensor]:
    """[S] of each parameter; arbitrary ones where the slot is -1."""
    places = slots.clamp(min=0).long()
    names = (*SAMPLING_FLOATS, *SAMPLING_INTEGERS)
    return dict(zip(names, (*floats[:, places], *integers[:, places]), strict=True))


def _ban(logits: Tensor, history: Tensor, lengths: Tensor, words: Tensor, counts: Tensor) -> None:
    """Words [S, W, L] of which a row's first `counts` [S] count."""
    _, num_words, size = words.shape
    positions = lengths[:, None] + torch.arange(1 - size, 0, device=logits.device)
    tail = torch.where(positions < 0, -2, history.gather(1, positions.clamp(min=0).long()))
    heads, last = words[:, :, :-1], words[:, :, -1]
    counted = torch.arange(num_words, device=logits.device) < counts[:, None]
    banned = ((heads == tail[:, None]) | (heads < 0)).all(-1) & counted
    rows, columns = banned.nonzero(as_tuple=True)
    logits[rows, last[rows, columns].long()] = -torch.inf


def _add_biases(logits: Tensor, biases: Tensor, counts: Tensor) -> None:
    """Biases [S, W, 2] of which a row's first `counts` [S] count."""
    counted = torch.arange(biases.shape[1], device=logits.device) < counts[:, None]
    rows, columns = counted.nonzero(as_tuple=True)
    tokens, bits = biases[rows, columns].unbind(-1)
    logits[rows, tokens.long()] += bits.contiguous().view(torch.float32)


def _ban_ngrams(logits: Tensor, history: Tensor, lengths: Tensor, sizes: Tensor) -> None:
    """Bans what would end an n-gram that the row has already. (transformers' no_repeat_ngram_size)"""
    for size in set(sizes.tolist()) - {0}:
        if size > history.shape[1]:
            continue
        rows = ((sizes == size) & (lengths >= size)).nonzero()[:, 0]
        ngrams = history[rows].unfold(1, size, 1)
        steps = torch.arange(1 - size, 0, device=logits.device)
        tail = history[rows].gather(1, lengths[rows, None].long() + steps)
        known = torch.arange(ngrams.shape[1], device=logits.device) <= lengths[rows, None] - size
        heads, last = ngrams[..., :-1], ngrams[..., -1]
        repeated = ((heads == tail[:, None]) & (heads >= 0)).all(-1) & known & (last >= 0)
        found, columns = repeated.nonzero(as_tuple=True)
        logits[rows[found], last[found, columns].long()] = -torch.inf


def _penalise(logits: Tensor, history: Tensor, lengths: Tensor, at: dict[str, Tensor]) -> None:
    """Repetition (logit * p below zero, else logit / p) and presence (logit - p) count prompt and output,
    each token once; frequency (logit - p * count) counts the output."""
    repetition = at["repetition_penalty"][:, None]
    positions = torch.arange(history.shape[1], device=logits.device)
    known = (positions < lengths[:, None]) & (history >= 0)
    generated = known & (positions >= at["prompt_len"][:, None])
    tokens = history.long().where(known, 0)
    seen = torch.zeros_like(logits).scatter_add_(1, tokens, known.float()) > 0
    counts = torch.zeros_like(logits).scatter_add_(1, tokens, generated.float())
    repeated = torch.where(logits < 0, logits * repetition, logits / repetition)
    logits.copy_(torch.where(seen, repeated - at["presence_penalty"][:, None], logits))
    logits -= at["frequency_penalty"][:, None] * counts


@op(out=lambda logits, slots: torch.empty_like(slots))
def greedy(logits: Tensor, slots: Tensor) -> Tensor:
    """[S] int32, the first of the largest logits."""
    return torch.where(slots < 0, 0, logits.argmax(-1)).int()


@op(out=lambda logits, token_pool, slots, *_: torch.empty_like(slots))
def sample(
    logits: Tensor,
    token_pool: Tensor,
    slots: Tensor,
    lengths: Tensor,
    floats: Tensor,
    integers: Tensor,
    seeds: Tensor,
) -> Tensor:
    """[S] int32, one token per row: `greedy` where top_k is 1, else drawn.

    A draw keeps the top_k most probable tokens (0: all), of those the smallest set whose mass reaches top_p
    (0: all), of those what has at least min_p times the mass of the best; of equal ones the first come first.
    Then it takes the first token, in vocabulary order, at which the cumulative mass passes `philox_uniform`
    of the whole. (transformers' filters; Holtzman et al., arXiv 1904.09751; Nguyen et al., arXiv 2407.01082)
    top_p falls with the output where top_p_decay is not 1, see `_decayed`.

    Masses are integers: their sums do not depend on the order, so every device draws the same token. A row
    without any mass, as one whose logits are all -inf, takes greedy's token.
    """
    tokens: Tensor = greedy(logits, slots)
    places = slots.clamp(min=0).long()
    rows = ((integers[SAMPLING_INTEGERS.index("top_k"), places] != 1) & (slots >= 0)).nonzero()[:, 0]
    if len(rows):
        at = _columns(floats, integers, slots[rows])
        if (at["top_p_decay"] != 1).any():
            history = token_pool[places[rows], : int(lengths[rows].max())]
            at["top_p"] = _decayed(at, history, lengths[rows])
        uniform = philox_uniform(seeds[places[rows]], lengths[rows])
        tokens[rows] = _draw(logits[rows], tokens[rows], at, uniform)
    return tokens


def _decayed(at: dict[str, Tensor], history: Tensor, lengths: Tensor) -> Tensor:
    """[R] float32, max(top_p * top_p_decay^n, top_p_min) where n > 0: n tokens came after the prompt, or
    after the last top_p_reset_id of the output. (factual nucleus sampling; Lee et al., arXiv 2206.04624)"""
    positions = torch.arange(history.shape[1], device=history.device)
    generated = (positions >= at["prompt_len"][:, None]) & (positions < lengths[:, None])
    resets = generated & (history == at["top_p_reset_id"][:, None])
    begin = torch.where(resets, positions + 1, 0).amax(-1).maximum(at["prompt_len"])
    times = lengths - begin
    power = _power(at["top_p_decay"].double(), times)
    decayed = (at["top_p"] * power).maximum(at["top_p_min"].double()).float()
    decays = (times > 0) & (at["top_p_decay"] != 1) & (at["top_p"] > 0)
    return torch.where(decays, decayed, at["top_p"])


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base^exponent, [R] float64 and integers -> float64, in products that round alike on every device."""
    result = torch.ones_like(base)
    while bool((exponent > 0).any()):
        result = torch.where(exponent % 2 == 1, result * base, result)
        base, exponent = base * base, exponent // 2
    return result


def _draw(logits: Tensor, otherwise: Tensor, at: dict[str, Tensor], uniform: Tensor) -> Tensor:
    """[R] int32 for logits [R, V] and uniform [R] float64; `otherwise` where there is no mass."""
    top_k, top_p, min_p = (at[name][:, None] for name in ("top_k", "top_p", "min_p"))
    ordered, order = shares(logits).sort(dim=-1, descending=True, stable=True)
    mass = (ordered * _MASS_OF_BEST).long()
    rank = torch.arange(logits.shape[1], device=logits.device)
    mass = mass.where((rank < top_k) | (top_k == 0), 0)
    until = mass.cumsum(-1)
    total = until[:, -1:]
    nucleus = torch.where((top_p > 0) & (top_p < 1), (total * top_p.double()).ceil().long(), total)
    kept = (until - mass < nucleus) & (mass >= min_p.double() * _MASS_OF_BEST)
    cumulative = torch.zeros_like(mass).scatter_(1, order, mass.where(kept, 0)).cumsum(-1)
    passed = cumulative > (uniform[:, None] * cumulative[:, -1:]).long()
    return torch.where(passed[:, -1], passed.int().argmax(-1), otherwise).int()


def shares(logits: Tensor) -> Tensor:
    """exp(logit - largest logit of its row): [R, V] float32 -> float32 in [2^-64, 1].

    In operations that round alike on every device, so that all get the same bits; the relative error is below
    4e-6 where the share is a mass of 1 or more. NaN and what is smaller than 2^-64 get 2^-64.
    """
    exponent = (logits - logits.amax(-1, keepdim=True)) * _LOG2_E
    exponent = exponent.where(exponent > _LOWEST_EXPONENT, _LOWEST_EXPONENT)
    whole = exponent.round()
    fraction = exponent.sub_(whole)
    share = torch.full_like(fraction, _EXP2[0])
    for coefficient in (*_EXP2[1:], 1.0):
        share.mul_(fraction).add_(coefficient)
    return share.mul_(((whole.int() + 127) << 23).view(torch.float32))


def philox_uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """[S] float64 in (0, 1): (n + 1/2) / 2^24, where n is the upper 24 bits of Philox's first word.

    Args:
        seeds: [S] int64, the key. positions: [S] int32, the counter.
    """
    zeros = torch.zeros_like(seeds)
    words = philox([positions.long(), zeros, zeros, zeros], [seeds & _MASK, (seeds >> 32) & _MASK])
    return ((words[0] >> 8).double() + 0.5) * 2.0**-24


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> Sequence[Tensor]:
    """Philox4x32-10: four words of counter and two of key -> four words, all int64 in [0, 2^32).

    (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
    """
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
    return counter


@op(out=lambda logits, tokens, *_: torch.empty_like(tokens, dtype=torch.float32))
def log_probability(logits: Tensor, tokens: Tensor, slots: Tensor, integers: Tensor) -> Tensor:
    """[S] float32, natural log of the row's full softmax at `tokens` [S] int32; 0 where none is wanted."""
    wanted = integers[SAMPLING_INTEGERS.index("wants_logprob"), slots.clamp(min=0).long()] != 0
    rows = (wanted & (slots >= 0)).nonzero()[:, 0]
    chosen = logits[rows].gather(1, tokens[rows].long()[:, None])[:, 0]
    result = torch.zeros_like(tokens, dtype=torch.float32)
    result[rows] = chosen - logits[rows].logsumexp(-1)
    return result
