# SPDX-License-Identifier: BSD-3-Clause
"""What a workload costs at least, whoever computes it: bytes to read, operations to do."""

from pathlib import Path

from msgspec import Struct

from ...messages import EngineInfo
from ...models.checkpoint import open_checkpoint
from ...models.loader import find_family
from ...models.spec import ModelSpec
from .machine import Machine
from .workload import Measurement, Workload


def model_spec(path: Path, load_format: str) -> ModelSpec:
    """Raises: ModelLoadError: no checkpoint, or none of a known family."""
    config = open_checkpoint(str(path), load_format).config
    return find_family("", config.model_type).spec(config)


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
        context = workload.input_len + workload.output_len / 2
        return self.info.step_bytes + self.info.kv_token_bytes * running * context

    def share(self, workload: Workload, run: Measurement) -> tuple[str, float]:
        """(ceiling, share of it that `run` reaches).

        A single token is all prompt: the matrix rate bounds it, or reading the weights once where that takes
        longer. Otherwise reading memory bounds the time between tokens; where requests wait for others to
        end, steps are of all kinds, and the whole time is compared with the sum of both bounds.
        """
        if workload.output_len == 1:
            bounds = {
                "matrix": self._prefill_seconds(workload),
                "bandwidth": self._read(self.info.step_bytes),
            }
            name = max(bounds, key=lambda bound: bounds[bound])
            return name, bounds[name] / run.total_ms * 1e3
        if workload.batch <= self.max_num_seqs:
            return "bandwidth", self._read(self.step_bytes(workload)) / run.token_ms_p50 * 1e3
        total = self._prefill_seconds(workload) + self._decode_seconds(workload)
        return "both", total / run.total_ms * 1e3

    def _prefill_seconds(self, workload: Workload) -> float:
        return prefill_flops(self.spec, workload) / (self.machine.matrix_rate * self.num_devices)

    def _decode_seconds(self, workload: Workload) -> float:
        """All steps of all waves of requests."""
        waves = -(-workload.batch // self.max_num_seqs)
        steps = workload.output_len - 1
        context = workload.input_len + workload.output_len / 2
        cached = self.info.kv_token_bytes * workload.batch * steps * context
        return self._read(waves * steps * self.info.step_bytes + cached)

    def _read(self, num_bytes: float) -> float:
        return num_bytes / (self.machine.read_bandwidth * self.num_devices)


def prefill_flops(spec: ModelSpec, workload: Workload) -> float:
    """Products of every prompt token, causal attention, and the head for the last token of each prompt."""
    attended = sum(
        _keys(workload.input_len, window) for window in spec.windows or (0,) * spec.num_hidden_layers
    )
    attention = 4 * spec.num_attention_heads * spec.head_dim * attended
    products = 2 * workload.input_len * spec.num_hidden_layers * layer_weights(spec)
    return workload.batch * (products + attention + 2 * spec.vocab_size * spec.hidden_size)


def layer_weights(spec: ModelSpec) -> int:
    """Elements of the matrices of one layer."""
    heads = 2 * spec.num_attention_heads + 2 * spec.num_key_value_heads
    matrices = 3 if spec.gated_mlp else 2
    return spec.hidden_size * (heads * spec.head_dim + matrices * spec.intermediate_size)


def _keys(length: int, window: int) -> int:
    """Keys that all queries of a prompt see together."""
    seen = min(window or length, length)
    return seen * (seen + 1) // 2 + (length - seen) * seen
