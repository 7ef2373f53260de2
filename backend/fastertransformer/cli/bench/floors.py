# SPDX-License-Identifier: BSD-3-Clause
"""What a workload costs at least, whoever computes it: bytes to read, operations to do."""

import statistics

from msgspec import Struct

from ...messages import EngineInfo
from ...models.spec import ModelSpec
from .machine import Machine
from .workload import Encoding, Measurement, Workload


class Floors(Struct, frozen=True, kw_only=True):
    """One model on one machine."""

    machine: Machine
    spec: ModelSpec
    info: EngineInfo
    max_num_seqs: int
    """Sequences that share a step."""
    num_devices: int = 1
    """That hold and compute an equal share each."""

    def step_bytes(self, workload: Workload) -> float:
        """Weights, and cached keys and values halfway through the output, that a decode step reads."""
        running = min(workload.batch, self.max_num_seqs)
        return self.info.step_bytes + self.info.kv_token_bytes * running * context(workload)

    def share(self, workload: Workload, run: Measurement | Encoding) -> tuple[str, float]:
        """(ceiling, share of it that `run` reaches).

        The matrix rate bounds what is encoded. A single token is all prompt: the matrix rate bounds it, or
        reading the weights once where that takes longer. Otherwise reading memory bounds the time between
        tokens; where requests wait for others to end, steps are of all kinds, and the whole time is compared
        with the sum of both bounds.
        """
        if isinstance(run, Encoding):
            return "matrix", self._prefill_seconds(workload) / run.total_ms * 1e3
        if workload.output_len == 1:
            bounds = {
                "matrix": self._prefill_seconds(workload),
                "bandwidth": self._read(self.info.step_bytes),
            }
            name = max(bounds, key=lambda bound: bounds[bound])
            return name, bounds[name] / run.total_ms * 1e3
        if workload.batch <= self.max_num_seqs:
            return "bandwidth", self._bandwidth_share(workload, run)
        total = self._prefill_seconds(workload) + self._decode_seconds(workload)
        return "both", total / run.total_ms * 1e3

    def _bandwidth_share(self, workload: Workload, run: Measurement) -> float:
        """At the median time between tokens, or at the mean where most come with the first one."""
        step_ms = run.token_ms_p50 or workload.batch / run.tokens_per_second * 1e3
        return self._read(self.step_bytes(workload)) / step_ms * 1e3

    def _prefill_seconds(self, workload: Workload) -> float:
        return prefill_flops(self.spec, workload) / (self.machine.matrix_rate * self.num_devices)

    def _decode_seconds(self, workload: Workload) -> float:
        """All steps of all waves of requests."""
        waves = -(-workload.batch // self.max_num_seqs)
        steps = statistics.mean(workload.output_lens) - 1
        cached = self.info.kv_token_bytes * workload.batch * steps * context(workload)
        return self._read(waves * steps * self.info.step_bytes + cached)

    def _read(self, num_bytes: float) -> float:
        return num_bytes / (self.machine.read_bandwidth * self.num_devices)


def context(workload: Workload) -> float:
    """Cached tokens of a request halfway through its output; beams share what they begin with."""
    inputs, outputs = (statistics.mean(lens) for lens in (workload.input_lens, workload.output_lens))
    return inputs + workload.beam_width * outputs / 2


def prefill_flops(spec: ModelSpec, workload: Workload) -> float:
    """Products of every prompt token and their attention; of what generates the head for one token of each,
    and the last layer for that one and the keys and values of the others.

    The prompt of an encoder-decoder goes through its encoder, and once through what makes the decoder's keys
    and values of it.
    """
    lens = workload.input_lens
    head = 2 * len(lens) * spec.vocab_size * spec.hidden_size if workload.output_len else 0
    if spec.encoder is None:
        if not workload.output_len:
            return _layer_flops(spec, lens, is_causal=False)
        return _layer_flops(spec, lens, is_causal=True) - _spared_flops(spec, lens) + head
    cross = 2 * spec.num_key_value_heads * spec.head_dim * spec.hidden_size * spec.num_hidden_layers
    return _layer_flops(spec.encoder, lens, is_causal=False) + 2 * sum(lens) * cross + head


def _layer_flops(spec: ModelSpec, lens: list[int], is_causal: bool) -> float:
    windows = spec.windows or (0,) * spec.num_hidden_layers
    attended = sum(_keys(length, window) if is_causal else length**2 for length in lens for window in windows)
    experts = spec.moe.num_experts_per_tok if spec.moe else 0
    products = 2 * sum(lens) * spec.num_hidden_layers * _layer_weights(spec, experts)
    return products + 4 * spec.num_attention_heads * spec.head_dim * attended


def _spared_flops(spec: ModelSpec, lens: list[int]) -> float:
    """Of the last layer, where only keys and values of all tokens but the last are wanted."""
    experts = spec.moe.num_experts_per_tok if spec.moe else 0
    weights = _layer_weights(spec, experts) - 2 * spec.num_key_value_heads * spec.head_dim * spec.hidden_size
    window = spec.windows[-1] if spec.windows else 0
    attended = sum(_keys(length, window) - min(window or length, length) for length in lens)
    return 2 * sum(length - 1 for length in lens) * weights + (
        4 * spec.num_attention_heads * spec.head_dim * attended
    )


def layer_weights(spec: ModelSpec) -> int:
    """Elements of the matrices of one layer, of all experts where it has some."""
    return _layer_weights(spec, spec.moe.num_experts if spec.moe else 0)


def _layer_weights(spec: ModelSpec, num_experts: int) -> int:
    heads = 2 * spec.num_attention_heads + 2 * spec.num_key_value_heads
    matrices, width, router = 3 if spec.gated_mlp else 2, spec.intermediate_size, 0
    if spec.moe is not None:
        width = num_experts * spec.moe.intermediate_size + spec.moe.shared_intermediate_size
        router = spec.moe.num_experts
    return spec.hidden_size * (heads * spec.head_dim + matrices * width + router)


def _keys(length: int, window: int) -> int:
    """Keys that all queries of a prompt see together."""
    seen = min(window or length, length)
    return seen * (seen + 1) // 2 + (length - seen) * seen
