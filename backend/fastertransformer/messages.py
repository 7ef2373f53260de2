# SPDX-License-Identifier: BSD-3-Clause
"""What crosses the process border between a Triton stub (or any client) and the engine.

Frames on the Unix socket (`frames`) have one message each:
client -> engine `Submit`, `Abort`, `EndSessions`; engine -> client first `Ready`, then `Outputs`.
Closing the socket is the only goodbye; end of file means that the other side is gone.
"""

import struct
from array import array
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

if TYPE_CHECKING:
    Numbers = npt.NDArray[np.float32]
    TokenIds = array[int]
else:  # what comes out of a socket is told apart by its class
    Numbers, TokenIds = np.ndarray, array
"""Many token ids, as `token_ids` makes them: they travel and are read by numpy as they lie in memory, since
a step does not begin before its prompt has been read. 64 bits hold whatever a client may take for an id, so
that errors can name it."""


def token_ids(ids: Sequence[int] = ()) -> TokenIds:
    """Raises: struct.error: an id has more than 64 bits."""
    return array("q", struct.pack(f"{len(ids)}q", *ids))  # in half the time that `array` alone takes


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request draws its tokens. Defaults are FasterTransformer's: greedy, no penalty."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    top_p_decay: float = 1.0
    """What top_p is multiplied with after every token, down to `top_p_min`."""
    top_p_min: float = 1e-6
    top_p_reset_id: int = -1
    """The token after which top_p starts anew; -1 for none."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_length: int = 0
    no_repeat_ngram_size: int = 0
    """No n-gram of this size comes twice; 0 allows all."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)"""
    seed: int = 0
    logprobs: bool = False
    end_ids: tuple[int, ...] | None = None
    """Tokens that end the request; None takes the checkpoint's."""
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    beam_width: int = 1
    """More than 1: a beam search, which draws nothing."""
    length_penalty: float = 0.0
    diversity_rate: float = 0.0
    early_stopping: bool = False
    reports_beams: bool = False
    """Whether every step tells the beams so far; else only the last one does."""


class Session(Struct, frozen=True):
    """Requests of one session, one after the other, go on from the keys and values of the one before."""

    id: int
    """The client's own number."""
    is_last: bool = False
    """Nothing is kept after this request."""


class Request(Struct, frozen=True, tag=True, omit_defaults=True):
    """One sequence to generate. `id` is the client's own and unique among its live requests."""

    id: int
    prompt: TokenIds
    """All tokens before the new ones, in a session with all of its requests and answers so far; -1 - r stands
    for row r of `embeddings`, or of the table of task `prompt_task`.
    Of an encoder-decoder: what its decoder starts with."""
    sampling: SamplingParams
    session: Session | None = None
    memory_len: int = 0
    """How many tokens back a token sees, in whole blocks of the cache and at least one; 0 sees all."""
    encoder_tokens: TokenIds = field(default_factory=token_ids)
    """What an encoder-decoder encodes."""
    forced_tokens: tuple[int, ...] = ()
    """The output begins with them, whatever the model would say; their log-probability is 0."""
    embeddings: bytes = b""
    """Rows of float32 that replace rows of the word table."""
    prompt_task: int = -1
    """Number of the checkpoint's prompt-learning task; -1 for none."""
    ia3_task: int | None = None
    """Number of the checkpoint's IA3 task."""
    wants_context: bool = False
    """Whether to return the sum of the prompt's hidden states."""
    wants_context_logits: bool = False
    """Whether to return the logits behind every token of the prompt that is computed."""
    wants_logits: bool = False
    """Whether to return the logits that every token was drawn from, before biases, bans and temperature."""


class EncodeRequest(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """One input to encode, as token ids or as what an embedding layer has made of them."""

    id: int
    tokens: TokenIds = field(default_factory=token_ids)
    token_types: TokenIds = field(default_factory=token_ids)
    """Of every token; empty: 0."""
    hidden_states: Numbers | None = None
    """[S, hidden_size], instead of tokens."""
    outputs: tuple[str, ...]
    """Which of `EncoderInfo.outputs` to answer with."""
    ia3_task: int | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) if self.hidden_states is None else len(self.hidden_states)


AnyRequest = Request | EncodeRequest


class FinishReason(Enum):
    """Why a request ended."""

    STOP = "stop"
    """An end id or a stop word; it is the last token of the output."""
    LENGTH = "length"
    """max_tokens were generated."""
    ENCODED = "encoded"
    """The input was encoded; the output has the arrays."""
    ABORTED = "aborted"
    ERROR = "error"


class Beam(Struct, frozen=True, array_like=True):
    """One answer of a beam search."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cum_logprob: float


class Output(Struct, frozen=True, omit_defaults=True):
    """What one step added to one request."""

    id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each of `tokens`; empty unless the request asked."""
    finish_reason: FinishReason | None = None
    beams: tuple[Beam, ...] = ()
    """Of a beam search: all beams from their first token on, best first, instead of `tokens`."""
    context: bytes = b""
    """Sum of the prompt's hidden states, [hidden_size] float32; beside the first token, where wanted."""
    context_logits: bytes = b""
    """[prompt, vocabulary] float32, beside the first token, where wanted."""
    logits: bytes = b""
    """[vocabulary] float32 of the last of `tokens`, where wanted."""
    error: str = ""
    """Text for the user when finish_reason is ERROR."""
    may_retry: bool = True
    """Whether what failed may succeed later."""
    arrays: dict[str, Numbers] = {}
    """What an EncodeRequest asked for, by name."""


class EncoderInfo(Struct, frozen=True, kw_only=True):
    """What a model that encodes takes and gives."""

    hidden_size: int
    num_token_types: int
    outputs: tuple[str, ...]
    """Names that a request may ask for."""
    labels: tuple[str, ...] = ()
    """Of the classes of a classification head."""
    takes_tokens: bool = True
    """Not where the checkpoint has no embeddings: then hidden states alone."""


class PromptKind(Enum):
    """What a prompt-learning table holds, under FasterTransformer's numbers."""

    NONE = 0
    SOFT = 1
    """Embeddings in front of the prompt."""
    PREFIX = 2
    """Keys and values in front of the prompt."""
    VIRTUAL = 3
    """Embeddings of ids behind the vocabulary's (p-tuning, prompt tuning)."""


class PromptLearning(Struct, frozen=True):
    """The prompt-learning tables of a checkpoint."""

    start_id: int
    """The id from which on ids are rows of a table."""
    kind: PromptKind = PromptKind.NONE
    task_names: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    """Rows of each task."""


class EngineInfo(Struct, frozen=True, kw_only=True):
    """Facts about a loaded model that its clients check requests against."""

    model_type: str
    vocab_size: int
    max_model_len: int
    """Longest prompt + output that the model's positions and the KV cache can hold."""
    start_id: int
    end_ids: tuple[int, ...]
    max_encoder_len: int = 0
    """Longest input that the encoder takes; 0: the model has none."""
    encoder_vocab_size: int = 0
    forced_ids: tuple[int, ...] = ()
    """What the checkpoint wants every output to begin with."""
    plan: str
    """The printed memory plan."""
    step_bytes: int = 0
    """Weights that a decode step reads, over all ranks."""
    embedding_size: int = 0
    """Width of a row of `Request.embeddings`."""
    prompt_learning: PromptLearning | None = None
    num_ia3_tasks: int = 0
    kv_token_bytes: int = 0
    """Keys and values of one token, over all ranks."""
    encoder: EncoderInfo | None = None
    """Of a model that encodes and does not generate."""
    max_num_seqs: int = 0
    """Sequences, and so beams, that run at the same time."""
    max_queue_size: int = 0
    """Requests that may wait; 0: nobody has said."""
    num_blocks: int = 0
    block_size: int = 0
    """Of the KV cache: its blocks, and tokens of one."""


class EngineStats(Struct, frozen=True, kw_only=True):
    """Gauges of the engine, sent with every Outputs message."""

    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    num_total_blocks: int = 0
    num_prefix_hit_tokens: int = 0
    """Prompt tokens served from the prefix cache since the start."""
    num_preemptions: int = 0


class Submit(Struct, frozen=True, tag=True):
    requests: Sequence[AnyRequest]


class Abort(Struct, frozen=True, tag=True):
    request_ids: list[int]


class EndSessions(Struct, frozen=True, tag=True):
    session_ids: list[int]


class Ready(Struct, frozen=True, tag=True):
    info: EngineInfo
    pid: int


class Outputs(Struct, frozen=True, tag=True):
    outputs: list[Output]
    stats: EngineStats


ClientMessage = Submit | Abort | EndSessions
EngineMessage = Ready | Outputs
