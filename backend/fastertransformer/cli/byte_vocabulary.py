# SPDX-License-Identifier: BSD-3-Clause
"""tokenizer.json of ByT5, whose tokens are the bytes of a text. (arXiv 2105.13626)"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

_SPECIAL = ("<pad>", "</s>", "<unk>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_SENTINELS = tuple(f"<extra_id_{number}>" for number in range(125))


def write_byte_tokenizer(folder: Path) -> None:
    """tokenizer.json into `folder`. No character has a token of its own: all fall back to their bytes."""
    ids = {token: number for number, token in enumerate((*_SPECIAL, *_BYTES))}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*_SPECIAL, *_SENTINELS)])
    tokenizer.save(str(folder / "tokenizer.json"))
