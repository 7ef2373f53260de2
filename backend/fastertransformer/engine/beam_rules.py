# SPDX-License-Identifier: BSD-3-Clause
"""Which beams go on and which have ended: the rules of transformers and of FasterTransformer.

Scores are sums of float32 log-probabilities and are kept in float32, as in transformers: a sum that is
rounded otherwise may turn a tie.
"""

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..messages import Beam, SamplingParams
from .batch import FloatArray, Int32Array

_LARGEST_NORM = 1e30


@dataclass(slots=True, eq=False)
class Path:
    """A beam: its newest token and, through `parent`, all that were generated before it. Never changed."""

    parent: "Path | None" = None
    token: int = -1
    logprob: float = 0.0
    score: float = 0.0
    """Sum of the log-probabilities; a float32."""
    length: int = 0

    def as_beam(self) -> Beam:
        tokens, logprobs = [], []
        node = self
        while node.parent is not None:
            tokens.append(node.token)
            logprobs.append(node.logprob)
            node = node.parent
        return Beam(tuple(reversed(tokens)), tuple(reversed(logprobs)), self.score)


Choice = tuple[int, Path]
"""(index of the beam that is continued, the beam with one more token)"""


class Preference(NamedTuple):
    """Which candidates of a search come first: by sum / norm, where the norm depends on the length alone, and
    FasterTransformer's `beam_search_diversity_rate` by the rank of a candidate within its beam."""

    num_candidates: int
    """How many of them the rule looks at."""
    width: int
    diversity_rate: float


class Candidate(NamedTuple):
    """One more token for a beam."""

    beam: int
    token: int
    logprob: float
    score: float
    """The beam's with it; a float32."""
    preferred: float
    """What it is ordered by; a float32."""

    def path(self, beams: List[Path]) -> Path:
        parent = beams[self.beam]
        return Path(parent, self.token, self.logprob, self.score, parent.length + 1)


class Question(NamedTuple):
    """B beams, best first, with the K most probable next tokens of each, best first."""

    beams: list[Path]
    tokens: List[Int32Array]
    """B times [K]"""
    logprobs: List[FloatArray]
    """B times [K]"""
    preference: Preference
    norm: np.float32


def best(questions: List[Question]) -> list[list[Candidate]]:
    """The best candidates of each search, best first; banned tokens are none.

    Of all searches at once: a call of numpy takes longer than what it does for one of them.
    """
    alike = defaultdict(list)
    for place, question in enumerate(questions):
        alike[len(question.beams), len(question.tokens[0]), question.preference].append(place)
    found: list[list[Candidate]] = [[] for _ in questions]
    for (num_beams, num_tokens, preference), places in alike.items():
        shape = len(places), num_beams, num_tokens
        for place, candidates in zip(
            places, _best(shape, preference, [questions[place] for place in places]), strict=True
        ):
            found[place] = candidates
    return found


def _best(
    shape: tuple[int, int, int], preference: Preference, questions: list[Question]
) -> list[list[Candidate]]:
    tokens = np.concatenate([row for question in questions for row in question.tokens]).reshape(shape)
    logprobs = np.concatenate([row for question in questions for row in question.logprobs]).reshape(shape)
    scores = [beam.score for question in questions for beam in question.beams]
    sums = np.array(scores, np.float32).reshape(*shape[:2], 1) + logprobs
    preferred = sums / np.array([question.norm for question in questions], np.float32)[:, None, None]
    if preference.diversity_rate:
        ranks = (np.arange(shape[2]) % preference.width).astype(np.float32)
        preferred += np.float32(preference.diversity_rate) * ranks
    order = np.argsort(-preferred.reshape(shape[0], -1), axis=1, kind="stable")
    order = order[:, : preference.num_candidates]
    chosen = [
        np.take_along_axis(values.reshape(shape[0], -1), order, 1)
        for values in (tokens, logprobs, sums, preferred)
    ]
    columns = [array.tolist() for array in (order // shape[2], *chosen)]
    ranked = [list(map(Candidate, *lists)) for lists in zip(*columns, strict=True)]
    finite = np.isfinite(chosen[2])
    if not finite.all():
        ranked = [
            [candidate for candidate, is_finite in zip(candidates, row, strict=True) if is_finite]
            for candidates, row in zip(ranked, finite.tolist(), strict=True)
        ]
    return ranked


class Step(NamedTuple):
    """What a rule decides about."""

    beams: list[Path]
    """Best first."""
    candidates: List[Candidate]
    """Best first."""
    ends: Callable[[int, int], bool]
    """Whether a token ends the beam of this index."""
    is_last: bool
    """No beam may become longer."""


class Rule(Protocol):
    """The state of one search beside its live beams."""

    @property
    def preference(self) -> Preference: ...

    def norm(self, length: int) -> np.float32:
        """What scores of beams with `length` tokens are divided by before candidates are compared."""
        ...

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
        self._early_stopping = early_stopping
        self._ended: list[tuple[np.float32, Path]] = []
        self.preference = Preference(num_candidates, self._width, sampling.diversity_rate)

    @property
    def ended(self) -> list[Path]:
        return [path for _, path in self._ended]

    def norm(self, length: int) -> np.float32:
        """Beams of one length are compared by their sums."""
        return np.float32(1)

    def advance(self, step: Step) -> list[Choice]:
        live: list[Choice] = []
        num_ended = len(self._ended)
        for rank, candidate in enumerate(step.candidates):
            if rank >= self._width and len(live) == self._width:
                break
            if not step.is_last and not step.ends(candidate.beam, candidate.token):
                live.append((candidate.beam, candidate.path(step.beams)))
            elif rank < self._width:
                path = candidate.path(step.beams)
                self._ended.append((self._final_score(path), path))
        if len(self._ended) > num_ended:
            self._ended.sort(key=lambda ended: -ended[0])
            del self._ended[self._width :]
        return [] if self._is_over(live) else live

    def _is_over(self, live: list[Choice]) -> bool:
        if not live or len(self._ended) < self._width:
            return not live
        return self._early_stopping or not self._final_score(live[0][1]) > self._ended[-1][0]

    def _final_score(self, path: Path) -> np.float32:
        return np.float32(path.score) / _power(path.length, self._length_penalty)


class Survivors:
    """FasterTransformer's decoder-only search: of live and ended beams the `beam_width` best survive.

    They are ordered by sum / length^len_penalty, where length counts the prompt. Over: all have ended.
    """

    def __init__(self, sampling: SamplingParams, prompt_len: int) -> None:
        self._width = sampling.beam_width
        self._length_penalty = sampling.length_penalty
        self._prompt_len = prompt_len
        self._ended: list[Path] = []
        self.preference = Preference(self._width, self._width, sampling.diversity_rate)

    @property
    def ended(self) -> list[Path]:
        return self._ended

    def advance(self, step: Step) -> list[Choice]:
        merged = [(float(np.float32(path.score) / self.norm(path.length)), -1, path) for path in self._ended]
        merged += [
            (candidate.preferred, candidate.beam, candidate.path(step.beams)) for candidate in step.candidates
        ]
        merged.sort(key=lambda entry: -entry[0])
        self._ended, live = [], []
        for _, parent, path in merged[: self._width]:
            if parent < 0 or step.is_last or step.ends(parent, path.token):
                self._ended.append(path)
            else:
                live.append((parent, path))
        return live

    def norm(self, length: int) -> np.float32:
        return _power(self._prompt_len + length, self._length_penalty)


def _power(length: int, penalty: float) -> np.float32:
    """length^penalty, within what a sum can be divided by and stay a number."""
    try:
        power = length**penalty
    except OverflowError:
        power = _LARGEST_NORM
    return np.float32(min(max(power, 1 / _LARGEST_NORM), _LARGEST_NORM))


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
