# SPDX-License-Identifier: BSD-3-Clause
"""What the documentation lists is what there is: parameters, families, tensors, metrics, verbs, files."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from fastertransformer import config
from fastertransformer.cli.main import VERBS
from fastertransformer.models.families import FAMILIES
from fastertransformer.models.families.fastertransformer import PREFIX
from fastertransformer.server import metrics
from fastertransformer.server.contracts import (
    core,
    core_call,
    encoder,
    encoder_call,
    encoder_decoder,
    encoder_text,
    encoder_text_call,
    interactive,
    tensorrt_llm,
    text,
    text_call,
)
from fastertransformer.server.ensemble import postprocessing, preprocessing

ROOT = Path(__file__).resolve().parents[1]
SERVER = ROOT / "backend" / "fastertransformer" / "server"
DOCUMENTS = [
    path for folder in (".", "docs", "docker", "model_repository") for path in (ROOT / folder).glob("*.md")
]
NOT_SENT = {output.name for output in tensorrt_llm.NOT_SENT}
"""Outputs that may be declared and never come."""
TENSORS = {
    "fastertransformer": (*core.INPUTS, *core_call.OUTPUTS),
    "encoder_decoder": (*encoder_decoder.INPUTS, *encoder_decoder.OUTPUTS),
    "encoder": (*encoder.INPUTS, *encoder_call.OUTPUTS),
    "embed, classify": (*encoder_text.INPUTS, *encoder_text_call.OUTPUTS),
    "interactive": interactive.SESSION_INPUTS,
    "text": (*text.INPUTS, *text_call.OUTPUTS),
    "tensorrt_llm": (*tensorrt_llm.INPUTS, *tensorrt_llm.OUTPUTS),
    "preprocessing, postprocessing": (*preprocessing.INPUTS, *postprocessing.INPUTS),
}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def names(markdown: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))


def first_cells(markdown: str) -> Iterator[str]:
    """Of the rows of its tables."""
    for line in markdown.splitlines():
        if line.startswith("| `"):
            yield line.split(" | ")[0]


def section(markdown: str, title: str) -> str:
    return re.split(r"^## ", markdown.partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def test_every_parameter_is_documented_once() -> None:
    engine = {*config._ENGINE, *config._PARALLEL, *config._CACHE}
    sources = "".join(path.read_text() for path in SERVER.rglob("*.py"))
    own = set(re.findall(r'(?:flag|seconds)\(\w+, "(\w+)"|parameters\.get\("(\w+)"', sources))
    documented = [
        name
        for cell in first_cells(section(read("README.md"), "Parameters of config.pbtxt"))
        for name in names(cell)
    ]
    assert sorted(documented) == sorted(engine | {name for pair in own for name in pair if name})


@pytest.mark.parametrize("document", ["README.md", "docs/models.md"])
def test_every_family_is_listed(document: str) -> None:
    families = {name for name in FAMILIES if not name.startswith(PREFIX)}
    assert families - set(names(read(document))) == set()


@pytest.mark.parametrize("contract", TENSORS)
def test_every_tensor_is_described(contract: str) -> None:
    """Some of those that are refused share a pattern, such as `lora_*`."""
    known = names(read("docs/compatibility.md"))
    wanted = {tensor.name for tensor in TENSORS[contract]} - NOT_SENT
    assert {name for name in wanted if not any(fnmatchcase(name, pattern) for pattern in known)} == set()


def test_every_metric_is_listed() -> None:
    table = section(read("docs/deployment.md"), "Health and metrics")
    families = {name for name, *_ in metrics._GAUGES} | {name for name, _ in metrics._HISTOGRAMS.values()}
    labels = {key for *_, values in metrics._GAUGES for key in values}
    assert (families | labels) - set(names(table)) == set()


def test_every_verb_is_listed() -> None:
    assert VERBS.keys() - set(names(section(read("README.md"), "Quick start"))) == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        file, _, title = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if title else []
        assert not title or title in map(anchor, titles), link
