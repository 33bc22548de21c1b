"""A tokenizer as GGUF has it: pieces with their types, the merges or scores of its BPE, and the name of its splitter in llama.cpp."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit.errors import ModelError
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # llama.cpp's types of tokens
_SPLITTERS = {"gpt2": "gpt-2", "smollm2": "smollm", "llama3": "dbrx"}  # llama.cpp's names of our splitters
_WHOLE_WORDS = "llama-bpe"  # the splitter of dbrx, and a word that is an entry is not split


@dataclass(frozen=True)
class GgufVocabulary:
    """The vocabulary, by id. `kind`: gpt2 (BPE of bytes, with merges) or llama (BPE of characters, with scores)."""

    kind: str
    splitter: str
    pieces: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    adds_space: bool

    def describe(self, writer: "GGUFWriter", tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        """Write the vocabulary, the special tokens, the ids that end a text, and the chat template."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.splitter)
        writer.add_token_list(self.pieces)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.adds_space)
        eos = end_ids[0] if end_ids else tokenizer.eos_id
        for add, one in (
            (writer.add_bos_token_id, tokenizer.bos_id),
            (writer.add_eos_token_id, eos),
            (writer.add_eot_token_id, end_ids[1] if len(end_ids) > 1 else None),
            (writer.add_unk_token_id, tokenizer.unk_id),
            (writer.add_pad_token_id, tokenizer.pad_id),
        ):
            if one is not None:
                add(one)
        writer.add_add_bos_token(tokenizer.bos_id is not None and tokenizer.prefix == (tokenizer.bos_id,))
        writer.add_add_eos_token(tokenizer.eos_id is not None and tokenizer.suffix == (tokenizer.eos_id,))
        if tokenizer.chat_template is not None:
            writer.add_chat_template(tokenizer.chat_template)


def gguf_vocabulary(tokenizer: Tokenizer, rows: int) -> GgufVocabulary:
    """Return the vocabulary of a tokenizer for an embedding of `rows`. Raises ModelError if llama.cpp would split texts otherwise."""
    document = json.loads(tokenizer.tokenizer_json)
    model = document["model"]
    if model["type"] != "BPE":
        raise ModelError(f"a tokenizer of the type {model['type']} has no counterpart among llama.cpp's for such a model; only BPE has")
    pieces, types = [f"[PAD{number}]" for number in range(rows)], [_UNUSED] * rows
    for piece, number in model["vocab"].items():
        pieces[number], types[number] = piece, _NORMAL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    splitter = _splitter(document)
    scores: list[float] = []
    if splitter is None:
        _check_merges(model["vocab"], merges)
        scores = _scores(pieces, merges)
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
    """Return llama.cpp's name of the splitter of a BPE of bytes; None: a BPE of characters. Raises ModelError for other pipelines."""
    found = {name: document.get(name) for name in ("normalizer", "pre_tokenizer")}
    for name, splitter in pipelines.BYTE_SPLITTERS.items():
        if _alike(found, json.loads(pipelines.byte_bpe({}, [], splitter).to_str())):
            return _WHOLE_WORDS if name == "llama3" and document["model"].get("ignore_merges") else _SPLITTERS[name]
    if any(_alike(found, json.loads(build({}, []).to_str())) for build in (pipelines.llama_bpe, pipelines.gemma_bpe)):
        return None
    raise ModelError("the tokenizer splits texts in a way that llama.cpp is not known to have; those of GPT-2, Llama and SmolLM2 are known")


def _alike(found: dict[str, Any], ours: dict[str, Any]) -> bool:
    return all(_shown(found[name]) == _shown(ours.get(name)) for name in found)


def _shown(part: Any) -> Any:
    """Return a part of a pipeline without what has no effect on the ids."""
    if isinstance(part, dict):
        return {name: _shown(value) for name, value in part.items() if name != "trim_offsets"}
    return [_shown(value) for value in part] if isinstance(part, list) else part


def _check_merges(vocab: dict[str, int], merges: list[str]) -> None:
    """Raise ModelError if two entries make a third one without a merge: llama.cpp merges by the piece that comes out."""
    known = {*merges}
    for made in {merge.replace(" ", "") for merge in merges}:
        for at in range(1, len(made)):
            if made[:at] in vocab and made[at:] in vocab and f"{made[:at]} {made[at:]}" not in known:
                raise ModelError(
                    f"the tokenizer has no merge of {made[:at]!r} and {made[at:]!r}, and llama.cpp would make {made!r} of them: its BPE of "
                    "characters is SentencePiece's. Train with a tokenizer of kind byte_bpe to export a model"
                )


def _scores(pieces: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return a score for each piece, higher for what is merged earlier; what no merge makes is last."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(piece, len(merges))) for piece in pieces]
