# SPDX-License-Identifier: BSD-3-Clause
"""Engine configuration: frozen, built once from config.pbtxt parameters, checked where it is built."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from .errors import ModelLoadError

DATA_TYPES = ("fp32", "fp16", "bf16", "auto")
DEVICES = ("auto", "cpu", "cuda")
ENCODED_TOKENS = 16384
"""Of a step of a model that generates nothing, on a GPU, where the configuration says nothing."""
INT8_MODES = {0: "weights in data_type", 1: "weight-only int8"}
LOAD_FORMATS = ("auto", "dummy")
BEAM_SEARCH_RULES = ("huggingface", "fastertransformer")
MAX_SESSION_IDLE_S = 86400
MAX_NUM_SEQS = 16384
MAX_NUM_THREADS = 1024


class ParallelConfig(Struct, frozen=True, kw_only=True):
    """How many ranks compute one model, and how mpirun starts them."""

    tensor_para_size: int = 1
    pipeline_para_size: int = 1
    hostfile: str = ""
    mpi_args: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        return self.tensor_para_size * self.pipeline_para_size


class CacheConfig(Struct, frozen=True, kw_only=True):
    """The paged KV cache."""

    block_size: int = 16
    max_tokens: int = 0
    """Tokens that the cache holds; 0 takes what fits into `memory_fraction` of the free memory."""
    memory_fraction: float = 0.9
    """Of the GPU memory left after the weights; on a CPU, of the free memory of the machine, halved."""
    enable_reuse: bool = True
    """Share the blocks of equal prompt prefixes between requests."""
    session_idle_s: float = 600.0
    """How long a session without a request keeps its blocks; then it is computed again when it goes on."""


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Everything that decides what an engine loads and how it runs; equal configs share one engine."""

    model_checkpoint_path: str
    model_type: str = ""
    """Empty: what the checkpoint's own config says."""
    load_format: str = "auto"
    """dummy: config.json alone is read, and the weights are random."""
    data_type: str = "fp32"
    """auto: see `on_device`."""
    int8_mode: int = 0
    """1: the matrices of the layers as int8 with a scale per output row, activations in `data_type`."""
    device: str = "auto"
    """auto: CUDA when this machine has a GPU and the build has kernels for it, else the CPU."""
    parallel: ParallelConfig = ParallelConfig()
    cache: CacheConfig = CacheConfig()
    max_num_seqs: int = 0
    """Sequences that run at the same time; 0: see `on_device`."""
    max_num_batched_tokens: int = 0
    """Tokens that one step may compute; longer prompts are computed in chunks. 0: see `on_device`."""
    max_queue_size: int = 4096
    """Requests that may wait; one more is refused."""
    max_model_len: int = 0
    """Longest prompt + output; 0 takes the model's own limit."""
    beam_search_rule: str = "huggingface"
    """Whose beam search it is: the order, the length penalty and the end of beams differ."""
    depth: int = -1
    """Steps in flight: 0 synchronous, 1 overlapped; -1 chooses by device and pipeline."""
    num_threads: int = 0
    """CPU threads of one rank; 0 shares the cores out among the ranks."""
    disable_kernels: tuple[str, ...] = ()
    """Ops that run their Python definition instead of their kernel; `decoder_stack`: layers one by one."""


FLAGS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
"""Values of a parameter that says whether, in small letters."""


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    return FLAGS[value.lower()]


def _names(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _arguments(value: str) -> tuple[str, ...]:
    """A comma is part of one, as in `--mca btl self,tcp`."""
    return tuple(value.split())


_ENGINE: dict[str, Callable[[str], Any]] = {
    "model_checkpoint_path": _text,
    "model_type": _text,
    "load_format": _text,
    "data_type": _text,
    "int8_mode": int,
    "device": _text,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_queue_size": int,
    "max_model_len": int,
    "beam_search_rule": _text,
    "depth": int,
    "num_threads": int,
    "disable_kernels": _names,
}
_PARALLEL: dict[str, Callable[[str], Any]] = {
    "tensor_para_size": int,
    "pipeline_para_size": int,
    "hostfile": _text,
    "mpi_args": _arguments,
}
# Config names are the neighbours' (TensorRT-LLM), so that their config.pbtxt files carry over.
_CACHE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "kv_cache_block_size": ("block_size", int),
    "max_tokens_in_paged_kv_cache": ("max_tokens", int),
    "kv_cache_free_gpu_mem_fraction": ("memory_fraction", float),
    "enable_kv_cache_reuse": ("enable_reuse", _flag),
    "session_idle_timeout_s": ("session_idle_s", float),
}


def from_triton(parameters: Mapping[str, str]) -> EngineConfig:
    """Engine configuration from the `parameters` of a config.pbtxt.

    Keys that the engine does not know are left alone: they belong to the adapter or to an
    older server. Values of the form `${...}` are template slots that nobody filled: absent.

    Raises:
        ModelLoadError: a value that is not of its kind or out of range; names key, value and what is allowed.
    """
    given = {k: v for k, v in parameters.items() if v and not v.startswith("${")}
    engine = {key: _parse(given, key, kind) for key, kind in _ENGINE.items() if key in given}
    parallel = {key: _parse(given, key, kind) for key, kind in _PARALLEL.items() if key in given}
    cache = {field: _parse(given, key, kind) for key, (field, kind) in _CACHE.items() if key in given}
    if "model_checkpoint_path" not in engine:
        raise ModelLoadError(
            "parameter model_checkpoint_path is missing: give the folder or GGUF file of the checkpoint"
        )
    config = EngineConfig(parallel=ParallelConfig(**parallel), cache=CacheConfig(**cache), **engine)
    check(config)
    return config


def check(config: EngineConfig) -> None:
    """Refuses what cannot work whatever the checkpoint is.

    Raises:
        ModelLoadError: names the parameter, its value and the allowed range.
    """
    _one_of("load_format", config.load_format, LOAD_FORMATS)
    _one_of("data_type", config.data_type, DATA_TYPES)
    if config.int8_mode not in INT8_MODES:
        supported = ", ".join(f"{mode} ({meaning})" for mode, meaning in INT8_MODES.items())
        raise ModelLoadError(f"parameter int8_mode is {config.int8_mode}; supported are {supported}")
    _one_of("beam_search_rule", config.beam_search_rule, BEAM_SEARCH_RULES)
    _one_of("device", config.device, DEVICES)
    _at_least("tensor_para_size", config.parallel.tensor_para_size, 1)
    _at_least("pipeline_para_size", config.parallel.pipeline_para_size, 1)
    _between("max_num_seqs", config.max_num_seqs, 0, MAX_NUM_SEQS)
    _at_least("max_num_batched_tokens", config.max_num_batched_tokens, 0)
    _at_least("max_queue_size", config.max_queue_size, 1)
    _at_least("max_model_len", config.max_model_len, 0)
    _at_least("depth", config.depth, -1)
    _between("num_threads", config.num_threads, 0, MAX_NUM_THREADS)
    _at_least("kv_cache_block_size", config.cache.block_size, 1)
    _at_least("max_tokens_in_paged_kv_cache", config.cache.max_tokens, 0)
    fraction = config.cache.memory_fraction
    if not (math.isfinite(fraction) and 0 < fraction <= 1):
        raise ModelLoadError(f"parameter kv_cache_free_gpu_mem_fraction is {fraction}; allowed is (0, 1]")
    idle = config.cache.session_idle_s
    if not 0 <= idle <= MAX_SESSION_IDLE_S:
        raise ModelLoadError(
            f"parameter session_idle_timeout_s is {idle}; allowed is [0, {MAX_SESSION_IDLE_S}]"
        )


def resolve_data_type(data_type: str, device: str) -> str:
    """What auto means: what runs fast on the device and loses nothing that a user would see.

    Args:
        device: where the model computes, cpu or cuda.

    Raises:
        ModelLoadError: there is no such data type; lists those that there are.
    """
    _one_of("data_type", data_type, DATA_TYPES)
    return {"cpu": "fp32", "cuda": "bf16"}[device] if data_type == "auto" else data_type


def on_device(config: EngineConfig, device: str, encodes: bool = False) -> EngineConfig:
    """`config` with what depends on the device decided.

    A GPU needs thousands of tokens for its matrix rate; a CPU reaches its own with few, and a step of many
    would let all others wait. Nobody waits for a next token where a model only encodes.

    Args:
        device: where the model computes, cpu or cuda.
        encodes: whether it generates nothing.
    """
    tokens_on_gpu = ENCODED_TOKENS if encodes else 8192
    max_num_seqs, max_num_batched_tokens = {"cpu": (64, 512), "cuda": (256, tokens_on_gpu)}[device]
    return msgspec.structs.replace(
        config,
        data_type=resolve_data_type(config.data_type, device),
        max_num_seqs=config.max_num_seqs or max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or max_num_batched_tokens,
    )


def encode(config: EngineConfig) -> str:
    """Text that `decode` reads: how a configuration travels to the engine process."""
    return msgspec.json.encode(config).decode()


def decode(text: str) -> EngineConfig:
    return msgspec.json.decode(text, type=EngineConfig)


def _parse(given: Mapping[str, str], key: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(given[key])
    except (ValueError, KeyError):
        expected = {int: "an integer", float: "a number", _flag: "true or false"}[kind]
        raise ModelLoadError(f"parameter {key} is {given[key]!r}; expected {expected}") from None


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ModelLoadError(f"parameter {key} is {value!r}; allowed are {', '.join(allowed)}")


def _at_least(key: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ModelLoadError(f"parameter {key} is {value}; the smallest allowed value is {minimum}")


def _between(key: str, value: int, minimum: int, maximum: int) -> None:
    if not minimum <= value <= maximum:
        raise ModelLoadError(f"parameter {key} is {value}; allowed is [{minimum}, {maximum}]")
