# SPDX-License-Identifier: BSD-3-Clause
"""model_repository/: every template is a config.pbtxt that declares what its contract reads."""

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from repositories import TEMPLATES
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from fastertransformer.errors import ModelLoadError
from fastertransformer.server import contracts, repository
from fastertransformer.server.contracts import core, tensorrt_llm
from fastertransformer.server.protocol import Input

CONFIGS = sorted(TEMPLATES.glob("*/*/config.pbtxt"))
DECLARED = {
    "decoder/fastertransformer": core.INPUTS,
    "tensorrt_llm/tensorrt_llm": tensorrt_llm.INPUTS,
}


def read(path: Path) -> Any:
    return text_format.Parse(path.read_text(), ModelConfig())


def entries(config: Any) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    return {
        entry.name: (DataType.Name(entry.data_type), tuple(entry.dims), entry.optional)
        for entry in config.input
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_it_is_a_config_that_needs_no_filling(path: Path) -> None:
    config = text_format.Parse(re.sub(r"\$\{\w+\},?", "", path.read_text()), ModelConfig())
    assert not config.name  # the folder's name, so that a model may be copied under another one
    assert config.max_batch_size >= 1
    # Outputs of encoders depend on the checkpoint's heads.
    assert path.parent.parent.name == "encoder" or "$" not in path.read_text()
    assert (path.parent / "1").is_dir()


@pytest.mark.parametrize("name", DECLARED)
def test_it_declares_every_input_of_its_contract(name: str) -> None:
    table: tuple[Input, ...] = DECLARED[name]
    wanted = {row.name: (row.data_type, row.dims, row.optional) for row in table}
    assert entries(read(TEMPLATES / name / "config.pbtxt")) == wanted


@pytest.mark.parametrize("template", ["decoder", "interactive"])
def test_ensemble_passes_on_what_the_model_takes(template: str) -> None:
    """Every input of the model is an input of the ensemble or comes from preprocessing."""
    config = read(TEMPLATES / template / "ensemble" / "config.pbtxt")
    steps = {step.model_name: step for step in config.ensemble_scheduling.step}
    wanted = entries(read(TEMPLATES / template / "fastertransformer" / "config.pbtxt"))
    passed = steps["fastertransformer"].input_map
    assert set(passed) == set(wanted)
    own = entries(config)
    from_texts = set(steps["preprocessing"].output_map.values())
    for name, source in passed.items():
        assert source in from_texts or own[source] == wanted[name]


def test_parameters_are_set_and_others_added(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ path'
    values = {"model_checkpoint_path": odd, "tokenizer_dir": "/t", "max_num_seqs": "7"}
    names = {"one": "fastertransformer", "two": "text", "pre": "preprocessing"}
    repository.write(TEMPLATES / "decoder", tmp_path, names, values, instances=3, decoupled={"one": True})
    configs = {name: read(tmp_path / name / "config.pbtxt") for name in names}
    parameters = {
        name: {key: value.string_value for key, value in config.parameters.items()}
        for name, config in configs.items()
    }
    assert parameters["one"]["model_checkpoint_path"] == parameters["two"]["model_checkpoint_path"] == odd
    assert parameters["one"]["max_num_seqs"] == "7"
    assert "tokenizer_dir" not in parameters["one"]
    assert parameters["two"]["tokenizer_dir"] == parameters["pre"]["tokenizer_dir"] == "/t"
    assert "max_num_seqs" not in parameters["pre"]
    assert [config.instance_group[0].count for config in configs.values()] == [3, 3, 1]
    assert configs["one"].model_transaction_policy.decoupled


def test_models_that_need_no_tokenizer() -> None:
    assert set(repository.models_of(TEMPLATES / "decoder", has_tokenizer=False)) == {"fastertransformer"}
    assert set(repository.models_of(TEMPLATES / "tensorrt_llm", has_tokenizer=False)) == {"tensorrt_llm"}
    assert "ensemble" in repository.models_of(TEMPLATES / "decoder")


def test_the_closest_contract_explains_what_is_wrong() -> None:
    def config(*names: str) -> dict[str, Any]:
        entry = {"data_type": "TYPE_INT32", "dims": [1]}
        return {"input": [{"name": name, **entry} for name in names], "output": []}

    with pytest.raises(ModelLoadError, match=r"declares top_k; allowed are input_ids, .*runtime_top_k"):
        contracts.choose(config("input_ids", "input_lengths", "request_output_len", "top_k"), {})
    with pytest.raises(ModelLoadError, match=r"declares top_k; allowed are .*streaming"):
        contracts.choose(config("input_ids", "seed", "min_tokens", "top_k"), {})
