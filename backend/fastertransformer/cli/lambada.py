# SPDX-License-Identifier: BSD-3-Clause
"""`fastertransformer lambada`: how often a model finds the last word of a text.

The task of LAMBADA (arXiv 1606.06031), on a file of the user's: a text per line, or `{"text": ...}` per line.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from ..errors import FasterTransformerError, InvalidRequest
from .console import errors, output
from .tensor_client import stream

_WORD = re.compile(r"[\w'-]+")


def lambada(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="One text per line.", show_default=False)
    ],
    url: Annotated[str, typer.Option("--url", "-u", help="gRPC address of the server.")] = "127.0.0.1:8001",
    model: Annotated[str, typer.Option("--model", "-m", help="A text model.")] = "text",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Texts of a request.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that a word may take.")] = 6,
    limit: Annotated[int, typer.Option(min=0, help="Use so many texts; 0 is all.")] = 0,
    accuracy_threshold: Annotated[float, typer.Option(help="An error below this percentage.")] = 0.0,
) -> None:
    """Cut the last word off every text, let a text model go on, and count how often it comes back."""
    pairs = read(file)[: limit or None]
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    found = 0
    for batch in track(batches, "asking", console=errors, transient=True):
        answers = _ask(url, model, [context for context, _ in batch], max_tokens)
        found += sum(is_found(word, answer) for (_, word), answer in zip(batch, answers, strict=True))
    accuracy = 100 * found / len(pairs)
    output.print(f"last word accuracy: {accuracy:.2f} % ({found} of {len(pairs)})", highlight=False)
    if accuracy < accuracy_threshold:
        raise FasterTransformerError(f"the accuracy {accuracy:.2f} % is below {accuracy_threshold:g} %")


def read(file: Path) -> list[tuple[str, str]]:
    """Texts without their last word, and that word.

    Raises:
        InvalidRequest: names the first line that has no two words, or is no JSON of that form.
    """
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8: {error}") from None
    pairs = [_cut(_text(file, line)) for line in lines]
    bad = next(
        (line for line, (context, word) in zip(lines, pairs, strict=True) if not (context and word)), None
    )
    if bad is not None or not lines:
        raise InvalidRequest(f"{file}: every line needs a text of two words or more; one is {bad!r}")
    return pairs


def is_found(word: str, answer: str) -> bool:
    """Whether the answer's first word is this one; signs around words do not count."""
    first, wanted = _WORD.search(answer), _WORD.search(word)
    return bool(first and wanted and first.group() == wanted.group())


def _text(file: Path, line: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        return str(json.loads(line)["text"]).strip()
    except (ValueError, KeyError) as error:
        raise InvalidRequest(
            f'{file}: {line!r} is not of the form {{"text": ...}}: {type(error).__name__}: {error}'
        ) from None


def _cut(text: str) -> tuple[str, str]:
    """The context ends before the blank, which belongs to the next token in most vocabularies."""
    context, _, word = text.rpartition(" ")
    return context.rstrip(), word


def _ask(address: str, model: str, contexts: Sequence[str], max_tokens: int) -> list[str]:
    texts: Any = np.array([[text.encode()] for text in contexts], dtype=np.object_)
    arrays = {
        "text_input": texts,
        "max_tokens": np.full((len(contexts), 1), max_tokens, np.int32),
        "exclude_input_in_output": np.full((len(contexts), 1), True),
    }
    (response,) = stream(address, model, arrays)
    return [text.decode() for text in response["text_output"].reshape(-1)]
