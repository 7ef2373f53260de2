# SPDX-License-Identifier: BSD-3-Clause
"""Which beams go on and which have ended: the rules of transformers and of FasterTransformer.

Scores are sums of float32 log-probabilities and are kept in float32, as in transformers: a sum that is
rounded otherwise may turn a tie.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..messages import Beam, SamplingParams
from .batch import FloatArray, Int32Array

NO_SCORE = np.float32(0)


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A beam: its newest token and, through `parent`, all that were generated before it."""

    parent: "Path | None" = None
    token: int = -1
    logprob: float = 0.0
    score: np.float32 = NO_SCORE
    """Sum of the log-probabilities."""
    length: int = 0

    def as_beam(self) -> Beam:
        tokens, logprobs = [], []
        node = self
        while node.parent is not None:
            tokens.append(node.token)
            logprobs.append(node.logprob)
            node = node.parent
        return Beam(tuple(reversed(tokens)), tuple(reversed(logprobs)), float(self.score))


Choice = tuple[int, Path]
"""(index of the beam that is continued, the beam with one more token)"""


@dataclass(frozen=True, slots=True)
class Step:
    """B beams, best first, with the K most probable next tokens of each, best first."""

    beams: list[Path]
    tokens: Int32Array
    """[B, K]"""
    logprobs: FloatArray
    """[B, K]"""
    ends: Callable[[int, int], bool]
    """Whether a token ends the beam of this index."""
    is_last: bool
    """No beam may become longer."""

    def best(self, count: int, score: Callable[[FloatArray], FloatArray]) -> list[tuple[np.float32, Choice]]:
        """The `count` best of all candidates by `score` of their sums [B, K]; banned tokens are none."""
        sums = np.array([beam.score for beam in self.beams], np.float32)[:, None] + self.logprobs
        scores = score(sums)
        order = np.argsort(-scores, axis=None, kind="stable")[:count]
        places = [divmod(int(index), sums.shape[1]) for index in order]
        return [(scores[at], self._choice(*at, sums[at])) for at in places if np.isfinite(sums[at])]

    def _choice(self, beam: int, rank: int, total: np.float32) -> Choice:
        parent = self.beams[beam]
        token, logprob = int(self.tokens[beam, rank]), float(self.logprobs[beam, rank])
        return beam, Path(parent, token, logprob, total, parent.length + 1)


class Rule(Protocol):
    """The state of one search beside its live beams."""

    def advance(self, step: Step) -> list[Choice]:
        """The beams that go on, best first; none when the search is over."""
        ...

    @property
    def ended(self) -> list[Path]:
        """Beams that have ended, best first; when the search is over, what it found."""
        ...


class Hypotheses:
    """transformers' `generate(num_beams=...)`, with its length penalty and `early_stopping`.

    Ended beams wait in a list of the best `beam_width` by sum / length^len_penalty, the others go on. Over:
    the list is full, and (early_stopping) at once, or (else) no live beam is better than its last one.

    Args:
        num_candidates: how many candidates one step looks at.
    """

    def __init__(self, sampling: SamplingParams, num_candidates: int, early_stopping: bool) -> None:
        self._width = sampling.beam_width
        self._length_penalty = sampling.length_penalty
        self._diversity_rate = sampling.diversity_rate
        self._num_candidates = num_candidates
        self._early_stopping = early_stopping
        self._ended: list[tuple[np.float32, Path]] = []

    @property
    def ended(self) -> list[Path]:
        return [path for _, path in self._ended]

    def advance(self, step: Step) -> list[Choice]:
        norm = np.float32((step.beams[0].length + 1) ** self._length_penalty)
        live: list[Choice] = []
        best = step.best(
            self._num_candidates, lambda sums: _diversified(sums, self._diversity_rate, self._width)
        )
        for rank, (_, choice) in enumerate(best):
            if not step.is_last and not step.ends(choice[0], choice[1].token):
                live.append(choice)
            elif rank < self._width:
                self._ended.append((choice[1].score / norm, choice[1]))
        self._ended.sort(key=lambda ended: -ended[0])
        del self._ended[self._width :], live[self._width :]
        return [] if self._is_over(live, norm) else live

    def _is_over(self, live: list[Choice], norm: np.float32) -> bool:
        if not live or len(self._ended) < self._width:
            return not live
        return self._early_stopping or not live[0][1].score / norm > self._ended[-1][0]


class Survivors:
    """FasterTransformer's decoder-only search: of live and ended beams the `beam_width` best survive.

    They are ordered by sum / length^len_penalty, where length counts the prompt. Over: all have ended.
    """

    def __init__(self, sampling: SamplingParams, prompt_len: int) -> None:
        self._width = sampling.beam_width
        self._length_penalty = sampling.length_penalty
        self._diversity_rate = sampling.diversity_rate
        self._prompt_len = prompt_len
        self._ended: list[Path] = []

    @property
    def ended(self) -> list[Path]:
        return self._ended

    def advance(self, step: Step) -> list[Choice]:
        norm = self._norm(step.beams[0].length + 1)
        candidates = step.best(
            self._width, lambda sums: _diversified(sums / norm, self._diversity_rate, self._width)
        )
        merged: list[tuple[np.float32, Choice]] = [
            *((path.score / self._norm(path.length), (-1, path)) for path in self._ended),
            *candidates,
        ]
        merged.sort(key=lambda entry: -entry[0])
        self._ended, live = [], []
        for _, (parent, path) in merged[: self._width]:
            if parent < 0 or step.is_last or step.ends(parent, path.token):
                self._ended.append(path)
            else:
                live.append((parent, path))
        return live

    def _norm(self, length: int) -> np.float32:
        return np.float32((self._prompt_len + length) ** self._length_penalty)


def _diversified(scores: FloatArray, rate: float, width: int) -> FloatArray:
    """FasterTransformer's `beam_search_diversity_rate`, by the rank of a candidate within its beam."""
    return (
        scores
        if rate == 0
        else scores + np.float32(rate) * (np.arange(scores.shape[1]) % width).astype(np.float32)
    )


def num_candidates(width: int, num_end_ids: int) -> int:
    """Enough for `width` beams that go on where each one may end in every way. (transformers)"""
    return max(2, 1 + num_end_ids) * width


def choose_rule(
    name: str, sampling: SamplingParams, end_ids: tuple[int, ...], prompt_len: int, has_encoder: bool = False
) -> Rule:
    """The search that `beam_search_rule` asks for; FasterTransformer's of encoder-decoders is transformers'
    with `early_stopping`."""
    is_ours = name == "fastertransformer"
    if is_ours and not has_encoder:
        return Survivors(sampling, prompt_len)
    candidates = num_candidates(sampling.beam_width, len(end_ids))
    return Hypotheses(sampling, candidates, sampling.early_stopping or is_ours)


def forced_path(tokens: tuple[int, ...]) -> Path:
    """The beam that a search starts from: what is forced upon the output costs nothing and has a length."""
    path = Path()
    for token in tokens:
        path = Path(path, token, length=path.length + 1)
    return path
