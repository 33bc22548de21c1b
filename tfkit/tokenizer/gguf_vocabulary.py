"""The vocabulary of a GGUF file: pieces (entries) with types, the merges or scores of a BPE, and llama.cpp's name of the pre-tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.errors import ModelError
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # llama.cpp's token types
_SPLITTERS = {"gpt2": "gpt-2", "smollm2": "smollm", "llama3": "dbrx"}  # llama.cpp's names of the pre-tokenizers in pipelines.BYTE_SPLITTERS
_QWEN2 = (  # the pattern of Qwen 2 and later. Their tokenizers also normalize to NFC; llama.cpp does not, but hardly any text changes
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WHOLE_WORDS = "llama-bpe"  # llama.cpp's pre-tokenizer that splits as dbrx does, but keeps each word that is an entry as one token


@dataclass(frozen=True)
class GgufVocabulary:
    """A vocabulary as GGUF stores it. `pieces`, `types` and, unless it is empty, `scores` are lists by id."""

    kind: str  # gpt2: BPE over bytes, with `merges`; llama: BPE over characters, with `scores`
    splitter: str  # llama.cpp's name of the pre-tokenizer
    pieces: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    adds_space: bool  # whether a space is put before each text

    def describe(self, writer: "GGUFWriter", tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        """Write to a GGUF file the vocabulary, the special tokens, the chat template, and the first two ids that end a generated text."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.splitter)
        writer.add_token_list(self.pieces)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.adds_space)
        for add, token_id in (
            (writer.add_bos_token_id, tokenizer.bos_id),
            (writer.add_eos_token_id, end_ids[0] if end_ids else None),
            (writer.add_eot_token_id, end_ids[1] if len(end_ids) > 1 else None),
            (writer.add_unk_token_id, tokenizer.unk_id),
            (writer.add_pad_token_id, tokenizer.pad_id),
        ):
            if token_id is not None:
                add(token_id)
        writer.add_add_bos_token(tokenizer.bos_id is not None and tokenizer.prefix == (tokenizer.bos_id,))
        writer.add_add_eos_token(tokenizer.eos_id is not None and tokenizer.suffix == (tokenizer.eos_id,))
        if tokenizer.chat_template is not None:
            writer.add_chat_template(tokenizer.chat_template)


def gguf_vocabulary(tokenizer: Tokenizer, rows: int) -> GgufVocabulary:
    """Return a tokenizer's vocabulary, padded to the `rows` rows of the embedding. Raises ModelError if llama.cpp's ids might differ."""
    document = json.loads(tokenizer.tokenizer_json)
    model = document["model"]
    if model["type"] != "BPE":
        raise ModelError(f"a tokenizer of the type {model['type']} has no counterpart in llama.cpp for such a model; only BPE has one")
    pieces, types = [f"[PAD{number}]" for number in range(rows)], [_UNUSED] * rows
    for piece, number in model["vocab"].items():
        pieces[number], types[number] = piece, _NORMAL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    splitter = _splitter(document)
    scores: list[float] = []
    if splitter is None:
        _check_merges(model["vocab"], merges)
        ranks: dict[str, int] = {}
        for rank, merge in enumerate(merges):
            ranks.setdefault(merge.replace(" ", ""), rank)
        scores = [-float(ranks.get(piece, len(merges))) for piece in pieces]  # higher for an earlier merge, lowest without a merge
        for number, piece in enumerate(pieces):
            if types[number] == _NORMAL and len(piece) == 6 and piece.startswith("<0x"):
                types[number] = _BYTE
    for token in document["added_tokens"]:
        pieces[token["id"]], types[token["id"]] = token["content"], _CONTROL if token["special"] else _USER_DEFINED
    if splitter is not None:
        return GgufVocabulary("gpt2", splitter, pieces, types, merges, [], False)
    if tokenizer.unk_id is not None:
        types[tokenizer.unk_id] = _UNKNOWN
    adds_space = (document.get("pre_tokenizer") or {}).get("type") == "Metaspace"
    return GgufVocabulary("llama", "default", pieces, types, [], scores, adds_space)


def _splitter(document: dict[str, Any]) -> str | None:
    """Return llama.cpp's name of a byte-level BPE's pre-tokenizer; None for a BPE over characters. Raises ModelError for other BPEs."""
    pipeline = {name: document.get(name) for name in ("normalizer", "pre_tokenizer")}
    for name, splitter in pipelines.BYTE_SPLITTERS.items():
        if _is_equal(pipeline, json.loads(pipelines.byte_bpe({}, [], splitter).to_str())):
            return _WHOLE_WORDS if name == "llama3" and document["model"].get("ignore_merges") else _SPLITTERS[name]
    steps = [{"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}]
    steps += [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]
    if _is_equal(pipeline, {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}):
        return "qwen2"
    if any(_is_equal(pipeline, json.loads(build({}, []).to_str())) for build in (pipelines.llama_bpe, pipelines.gemma_bpe)):
        return None
    raise ModelError(
        "the tokenizer splits texts in a way that llama.cpp is not known to have; those of GPT-2, Llama, SmolLM2 and Qwen are known"
    )


def _is_equal(pipeline: dict[str, Any], reference: dict[str, Any]) -> bool:
    return all(_without_offsets(pipeline[name]) == _without_offsets(reference.get(name)) for name in pipeline)


def _without_offsets(step: Any) -> Any:
    """Return a step of a pipeline without `trim_offsets`, which has no effect on the ids."""
    if isinstance(step, dict):
        return {name: _without_offsets(value) for name, value in step.items() if name != "trim_offsets"}
    return [_without_offsets(value) for value in step] if isinstance(step, list) else step


def _check_merges(vocab: dict[str, int], merges: list[str]) -> None:
    """Raise ModelError if an entry that a merge makes also consists of two entries that no merge joins; llama.cpp would join them."""
    known = {*merges}
    for piece in sorted({merge.replace(" ", "") for merge in merges}):
        for left, right in ((piece[:i], piece[i:]) for i in range(1, len(piece))):
            if left in vocab and right in vocab and f"{left} {right}" not in known:
                raise ModelError(
                    f"the tokenizer has no merge of {left!r} and {right!r}, and llama.cpp would make {piece!r} of them: its BPE of "
                    "characters is SentencePiece's. Train with a tokenizer of kind byte_bpe to export a model"
                )
