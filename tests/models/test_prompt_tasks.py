# SPDX-License-Identifier: BSD-3-Clause
"""Prompts of tasks in FasterTransformer's checkpoints."""

import shutil
from pathlib import Path

import pytest
import torch
from fastertransformer_files import save, write
from tiny_checkpoints import make

from fastertransformer.errors import ModelLoadError
from fastertransformer.models.checkpoint.fastertransformer import prompt_start_id, prompt_tasks

TASKS = {"squad": 5, "sentiment": 3}
SECTIONS = "".join(
    f"[task_{index}]\ntask_name = {name}\nprompt_length = {length}\n"
    for index, (name, length) in enumerate(TASKS.items())
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make("gpt2", tmp_path_factory.mktemp("gpt2"))


def checkpoint(model: torch.nn.Module, folder: Path, kind: int, sections: str = SECTIONS) -> Path:
    """Of two shards, with prompts in half precision."""
    place = write(folder, model, 2, torch.float16, num_tasks=len(TASKS), prompt_learning_type=kind)
    with (place / "config.ini").open("a") as file:
        file.write(sections)
    return place


def table(length: int) -> torch.Tensor:
    return torch.randn(length, 48, generator=torch.Generator().manual_seed(length)).half()


def keys_and_values(length: int) -> torch.Tensor:
    """[layers, 2, heads, length, head_dim]"""
    return torch.randn(2, 2, 4, length, 12, generator=torch.Generator().manual_seed(length)).half()


def test_tables_of_embeddings(model, tmp_path):
    place = checkpoint(model, tmp_path, kind=3)
    for name, length in TASKS.items():
        save(place / f"model.prompt_table.{name}.weight.bin", table(length), torch.float16)
    for path in (place, tmp_path):
        found = prompt_tasks(str(path))
        assert {name: task.id for name, task in found.items()} == {"squad": 0, "sentiment": 1}
        assert all(torch.equal(found[name].tensor, table(length)) for name, length in TASKS.items())


def test_prefix_prompts_are_joined_over_the_heads_of_all_ranks(model, tmp_path):
    place = checkpoint(model, tmp_path, kind=2)
    for name, length in TASKS.items():
        for rank, part in enumerate(keys_and_values(length).chunk(2, 2)):
            save(place / f"model.prefix_prompt.{name}.weight.{rank}.bin", part, torch.float16)
    found = prompt_tasks(str(place))
    assert all(torch.equal(found[name].tensor, keys_and_values(length)) for name, length in TASKS.items())


@pytest.mark.parametrize("kind", [0, 1])
def test_other_kinds_have_no_files(model, tmp_path, kind):
    assert prompt_tasks(str(checkpoint(model, tmp_path, kind))) == {}


def test_other_checkpoints_have_none(model, tmp_path):
    assert prompt_tasks(str(tmp_path)) == {}
    model.save_pretrained(tmp_path)
    assert prompt_tasks(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ("", r"has no section \[task_0\], though num_tasks asks for it"),
        ("[task_0]\nprompt_length = 5\n", r"\[task_0\] has no task_name"),
        ("[task_0]\ntask_name = squad\n", r"\[task_0\] has no prompt_length"),
        ("[task_0]\ntask_name = squad\nprompt_length = 0\n", "prompt_length is 0; expected a positive"),
        (
            SECTIONS,
            r"prompt_table\.squad\.weight\.bin is missing; 480 bytes are needed, \[5, 48\] in float16",
        ),
        (SECTIONS.replace("squad", "../squad"), "task_name is '../squad'"),
    ],
)
def test_what_is_wrong_is_named(model, tmp_path, sections, message):
    place = checkpoint(model, tmp_path, 3, sections)
    with pytest.raises(ModelLoadError, match=message):
        prompt_tasks(str(place))


@pytest.mark.parametrize("key", ["prompt_learning_type", "num_tasks", "prompt_learning_start_id", "end_id"])
@pytest.mark.parametrize("value", ["inf", "nan", "2.5"])
def test_numbers_that_are_no_integers_are_named(model, tmp_path, key, value):
    read = prompt_tasks if key in ("prompt_learning_type", "num_tasks") else prompt_start_id
    place = write(tmp_path, model, 1, **{"prompt_learning_type": 3, key: value})
    with pytest.raises(ModelLoadError, match=rf"config\.ini \[gpt\]: {key} is {value}; expected"):
        read(str(place))


def test_two_tasks_of_one_name_are_named(model, tmp_path):
    """Else the ids of those that follow would be others than config.ini's."""
    place = checkpoint(model, tmp_path, 3, SECTIONS.replace("sentiment", "squad").replace("= 3", "= 5"))
    save(place / "model.prompt_table.squad.weight.bin", table(5), torch.float16)
    with pytest.raises(ModelLoadError, match=r"\[task_1\] task_name is 'squad', as that of \[task_0\]"):
        prompt_tasks(str(place))


def test_a_table_of_another_size_is_named(model, tmp_path):
    place = checkpoint(model, tmp_path, 3)
    save(place / "model.prompt_table.squad.weight.bin", table(4), torch.float16)
    with pytest.raises(ModelLoadError, match=r"squad\.weight\.bin has 384 bytes; 480 bytes are needed"):
        prompt_tasks(str(shutil.copytree(place, tmp_path / "copy")))
