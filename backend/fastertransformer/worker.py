# SPDX-License-Identifier: BSD-3-Clause
"""The engine process, every rank: load, then serve on rank 0 and follow elsewhere.

    [mpirun -n T*P] python -m fastertransformer.worker --config-json TEXT --socket PATH

Ends when the last client of the socket is gone. Exit code 2: the model could not be loaded.
"""

import argparse
import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import config as configuration
from . import ops
from .config import EngineConfig
from .engine.batch import FloatArray
from .engine.channel import Channel
from .engine.encode_scheduler import EncodeScheduler
from .engine.engine import Clients, Engine, Runner, follow
from .engine.scheduler import Scheduler
from .errors import ModelLoadError
from .messages import EncoderInfo, EngineInfo, PromptKind, PromptLearning
from .models import EncoderModel, Model, Prompts, encodes, load, load_prompts
from .parallel.world import LocalWorld, World
from .runtime.device import choose_device
from .runtime.encode_runner import EncodeRunner
from .runtime.memory import EncoderPlan, MemoryPlan, blocks_that_fit, longest_sequence, plan_memory
from .runtime.runner import ModelRunner

EXIT_LOAD_FAILED = 2
EXIT_CRASHED = 1
_SPIN_S = 0.05
"""A host that sleeps while its GPU has nothing to do wakes up late, and is slow for some time; cores of a CPU
rank have better things to do."""

_log = logging.getLogger("fastertransformer")


def main() -> None:
    """Runs one rank to its end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-json", required=True, help="EngineConfig as JSON")
    parser.add_argument("--socket", required=True, help="path of the Unix socket that rank 0 opens")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    config = configuration.decode(arguments.config_json)
    try:
        run(config, make_world(config), arguments.socket)
    except ModelLoadError as error:
        print(f"fastertransformer: ModelLoadError: {error}", file=sys.stderr, flush=True)
        _leave(config, EXIT_LOAD_FAILED)
    except Exception:
        traceback.print_exc()
        _leave(config, EXIT_CRASHED)


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank that holds its part of the model and is ready to compute."""

    info: EngineInfo
    runner: Runner
    num_blocks: int
    depth: int
    prompt_tables: tuple[FloatArray, ...] = ()
    """[rows, E] of the checkpoint's prompt-learning tasks."""


def run(config: EngineConfig, world: World, socket_path: str) -> None:
    """Loads the model and computes until the last client is gone.

    Raises:
        ModelLoadError: before anything is served.
    """
    config = configuration.on_device(config, world.device.type, encodes(config))
    rank = load_rank(config, world)
    gc.collect()
    gc.freeze()  # what is loaded stays: no step shall wait for a collection that looks through it
    if world.mesh.rank == 0:
        _log.info("%s", rank.info.plan)
        _serve(config, world, rank, socket_path)
    else:
        follow(world.control, rank.runner)


def make_world(config: EngineConfig) -> World:
    """This rank, alone or among those that mpirun started. Raises: ModelLoadError: they cannot compute."""
    parallel = config.parallel
    if parallel.world_size == 1:
        return LocalWorld(choose_device(config.device))
    from .parallel.mpi import MpiWorld, place_on_node  # initialises MPI, which one rank does not need

    device = choose_device(config.device, *place_on_node())
    return MpiWorld(parallel.tensor_para_size, parallel.pipeline_para_size, device)


def load_rank(config: EngineConfig, world: World) -> Rank:
    """Raises: ModelLoadError: the model cannot be loaded here."""
    device = world.device
    if device.type == "cuda":
        # Graphs cannot be captured on the default stream, and everything shall be on one.
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    _share_cores(config, world, device)
    ops.disable(config.disable_kernels)
    model = load(config, world.mesh, world.tensor_group, device, _progress(world, "loaded %d of %d tensors"))
    longest = longest_sequence(config, model)
    if isinstance(model, EncoderModel):
        return _encoder_rank(config, world, model, longest)
    return _decoder_rank(config, world, model, longest)


def _decoder_rank(config: EngineConfig, world: World, model: Model, longest: int) -> Rank:
    prompts = load_prompts(config.model_checkpoint_path, model, world.mesh)
    num_blocks = world.minimum(blocks_that_fit(config, model, longest))
    plan = plan_memory(config, model, num_blocks, longest)
    runner = ModelRunner(
        config, world, model, num_blocks, plan.max_model_len, plan.max_encoder_len, prompts.prefixes
    )
    runner.prepare(_progress(world, "captured %d of %d graphs"))
    info = _engine_info(config, model, prompts, plan, world)  # every rank is ready once this returns
    return Rank(info, runner, num_blocks, _depth(config, model.device), prompts.embeddings)


def _encoder_rank(config: EngineConfig, world: World, model: EncoderModel, longest: int) -> Rank:
    runner = EncodeRunner(config, world, model, longest)
    runner.prepare(_progress(world, "captured %d of %d graphs"))
    plan = EncoderPlan(model.weight_bytes, longest, config.max_num_seqs, runner.max_graph_tokens)
    info = EngineInfo(
        model_type=model.info.model_type,
        vocab_size=model.info.vocab_size,
        max_model_len=longest,
        start_id=model.info.start_id,
        end_ids=(),
        plan=str(plan),
        step_bytes=world.sum(model.step_bytes),
        num_ia3_tasks=model.spec.ia3_num_tasks,
        encoder=EncoderInfo(
            hidden_size=model.spec.hidden_size,
            num_token_types=model.encoding.num_token_types,
            outputs=model.outputs,
            labels=model.encoding.labels,
            takes_tokens=model.embedding is not None,
        ),
    )
    return Rank(info, runner, 0, _depth(config, model.device))


def make_engine(config: EngineConfig, world: World, rank: Rank, clients: Clients) -> Engine:
    """The loop of rank 0 for `clients`, with nothing in it yet."""
    scheduler = (
        EncodeScheduler(config, rank.runner.result_size)
        if isinstance(rank.runner, EncodeRunner)
        else Scheduler(config, rank.info, rank.num_blocks, rank.prompt_tables)
    )
    return Engine(rank.info, clients, scheduler, world.control, rank.runner, rank.depth)


def _engine_info(
    config: EngineConfig, model: Model, prompts: Prompts, plan: MemoryPlan, world: World
) -> EngineInfo:
    return EngineInfo(
        model_type=model.info.model_type,
        vocab_size=model.info.vocab_size,
        max_model_len=plan.max_model_len,
        start_id=model.info.start_id,
        end_ids=model.info.end_ids,
        max_encoder_len=plan.max_encoder_len,
        encoder_vocab_size=0 if model.spec.encoder is None else model.spec.encoder.vocab_size,
        forced_ids=model.info.forced_ids,
        plan=str(plan),
        embedding_size=model.embedding_size,
        prompt_learning=_prompt_learning(model, prompts),
        num_ia3_tasks=model.spec.ia3_num_tasks,
        step_bytes=world.sum(model.step_bytes),
        kv_token_bytes=world.sum(plan.block_bytes // plan.block_size),
        max_num_seqs=plan.max_num_seqs,
        max_queue_size=config.max_queue_size,
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
    )


def _prompt_learning(model: Model, prompts: Prompts) -> PromptLearning:
    """Without tables, ids behind the vocabulary's are virtual."""
    return PromptLearning(
        start_id=model.info.vocab_size if prompts.start_id is None else prompts.start_id,
        kind=PromptKind(prompts.learning_type),
        task_names=tuple(task.name for task in prompts.tasks),
        lengths=tuple(task.length for task in prompts.tasks),
    )


def _serve(config: EngineConfig, world: World, rank: Rank, socket_path: str) -> None:
    channel = Channel(socket_path, rank.info, spin_seconds=_SPIN_S if world.device.type == "cuda" else 0.0)
    make_engine(config, world, rank, channel).serve()
    channel.close()  # after an error the end of the process does, when the log has the reason


def _leave(config: EngineConfig, code: int) -> None:
    """A failed rank takes the others along."""
    if config.parallel.world_size > 1:
        from .parallel.mpi import abort

        abort(code)
    sys.exit(code)


def _share_cores(config: EngineConfig, world: World, device: torch.device) -> None:
    """Ranks on one machine must not fight for its cores: waiting threads spin."""
    cores = len(os.sched_getaffinity(0))
    shared_by = world.mesh.size if device.type == "cpu" else 1
    ops.set_num_threads(config.num_threads or max(1, cores // shared_by))


def _depth(config: EngineConfig, device: torch.device) -> int:
    """Enough steps in flight to keep every stage busy; a lone CPU rank has nothing to overlap with."""
    if config.depth >= 0:
        return config.depth
    stages = config.parallel.pipeline_para_size
    return stages - 1 if device.type == "cpu" else stages


def _progress(world: World, text: str) -> Callable[[int, int], None]:
    """Reports (done, total) on rank 0, at most every second."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if world.mesh.rank == 0 and (time.monotonic() - last > 1 or done == total):
            last = time.monotonic()
            _log.info(text, done, total)

    return report


if __name__ == "__main__":
    main()
