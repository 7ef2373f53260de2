# SPDX-License-Identifier: BSD-3-Clause
"""One model instance put together: contract, engine, responder, monitor."""

import json
import os
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from .. import config as configuration
from ..config import EngineConfig
from ..errors import FasterTransformerError, ModelLoadError
from . import contracts, parameters, placement
from .call import Selective
from .contracts.interactive import InteractiveContract
from .conversations import Conversations, Turn
from .ensemble import open_step
from .launcher import DEFAULT_START_TIMEOUT_S, Launcher
from .metrics import Metrics
from .monitor import Monitor
from .placement import Placement
from .responder import Event, Exchange, Refused, Responder, Stopping
from .supervisor import Supervisor
from .triton import TritonReply, log_error, log_info, read_sequence, read_tensors

if TYPE_CHECKING:
    from .ensemble.service import StepService

_DEFAULT_IDLE_US = 1_000_000
"""Triton's own."""


def open_service(arguments: Mapping[str, str]) -> "Service | StepService":
    """The service of one model instance.

    Args:
        arguments: what Triton gives to `initialize`.

    Raises:
        ModelLoadError: configuration, checkpoint or machine do not fit together.
    """
    return open_step(json.loads(arguments["model_config"])) or Service(arguments)


class Service:
    """What `TritonPythonModel` passes its calls on to.

    Args:
        arguments: what Triton gives to `initialize`.

    Raises:
        ModelLoadError: configuration, checkpoint or machine do not fit together.
        OSError: the machine has no process or no file for the engine.
    """

    def __init__(self, arguments: Mapping[str, str]) -> None:
        model_config = json.loads(arguments["model_config"])
        values = parameters.read(model_config)
        placement.check_model_config(model_config)
        self._batched = model_config["max_batch_size"] > 0
        self._contract = contracts.choose(model_config, values)
        config = configuration.from_triton(values)
        place = _place(arguments["model_instance_name"], model_config, config)
        timeout = parameters.seconds(values, "engine_start_timeout_s", DEFAULT_START_TIMEOUT_S)
        launcher = Launcher(config, place, os.getppid(), log_info, timeout)
        metrics = _metrics(arguments, place, config)
        self._responder = Responder(metrics, log_error, self._conversations(model_config))
        try:
            self._supervisor = Supervisor(launcher, self._responder.post, log_error)
        except (ModelLoadError, OSError):
            self._responder.stop()
            raise
        self._monitor = Monitor(self._responder, metrics, log_error)

    @property
    def is_ready(self) -> bool:
        return self._supervisor.is_ready

    def accept(self, request: Any) -> None:
        """Starts a request. Never blocks and never raises: the answer comes from another thread."""
        reply = TritonReply(request)
        try:
            event = self._read(request, reply)
        except Exception as error:
            if not isinstance(error, FasterTransformerError):
                log_error(traceback.format_exc())
            event = Refused(reply, error)
        self._responder.post(event)

    def _read(self, request: Any, reply: TritonReply) -> Event:
        tensors = read_tensors(request, self._contract.input_types, self._batched)
        info = self._supervisor.info
        if "stop" in tensors and tensors["stop"].any():
            return Stopping(reply, request.request_id())
        if isinstance(self._contract, InteractiveContract):
            return Turn(*read_sequence(request), tensors, info, reply)
        call = self._contract.open(tensors, info)
        if isinstance(call, Selective):
            call.select(list(request.requested_output_names()))
        return Exchange(call, reply, request.request_id())

    def _conversations(self, model_config: Mapping[str, Any]) -> Conversations | None:
        if not isinstance(self._contract, InteractiveContract):
            return None
        idle_us = int(model_config["sequence_batching"].get("max_sequence_idle_microseconds", 0))
        return Conversations(self._contract, (idle_us or _DEFAULT_IDLE_US) / 1e6)

    def stop(self) -> None:
        self._monitor.stop()
        self._responder.stop()
        self._supervisor.stop()


def _place(instance_name: str, model_config: Mapping[str, Any], config: EngineConfig) -> Placement:
    gpus = () if config.device == "cpu" else placement.visible_gpus()
    instances = model_config["instance_group"][0]["count"]
    return placement.place(placement.instance_index(instance_name), instances, config.parallel, gpus)


def _metrics(arguments: Mapping[str, str], place: Placement, config: EngineConfig) -> Metrics:
    metrics = Metrics()
    labels = {
        "model": arguments["model_name"],
        "version": arguments["model_version"],
        "engine": str(place.group),
    }
    try:
        metrics.create_families(pb_utils, labels, config.cache.block_size)
    except pb_utils.TritonModelException as error:
        log_info(f"no metrics of the engine are published: {error}")
    return metrics
