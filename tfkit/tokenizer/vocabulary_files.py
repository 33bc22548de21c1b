"""Conversion of the vocabulary files of older folders, which have no tokenizer.json, to the tokenizer.json that transformers would save.

vocab.txt               a line for each entry of WordPiece; the line's index is the id   BERT, DistilBERT, ELECTRA, MPNet
vocab.json, merges.txt  the ids of a byte-level BPE; its merges in the order learned     GPT-2, RoBERTa, BART
*.model                 pieces with scores (sentencepiece_file.py)                       T5, mT5, XLM-R, CamemBERT, mBART, DeBERTa v3
none                    the bytes themselves                                             ByT5
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tfkit.errors import ModelError
from tfkit.recipe.schema.vocabularies import MODEL_FILES, VOCABULARIES, VOCABULARY_FILES
from tfkit.run.model_files import MIB, read_object, read_text
from tfkit.run.verified import find_named
from tfkit.tokenizer import pipelines, sentencepiece_file
from tfkit.tokenizer.configured import named_tokens
from tfkit.tokenizer.tokenizer import token_text
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors

_LINES, _ENTRIES, _MERGES = VOCABULARY_FILES[:3]
_LIMIT = 64 * MIB
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
# The codes of mBART's 25 languages, in the order of their ids, which follow those of the pieces (mBART-50 has a class of its own).
_LANGUAGES = (
    *("ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX", "kk_KZ", "ko_KR"),
    *("lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN"),
)
# A vocabulary that lacks the special token of the class for one of these roles is that of another model.
_USED = ("cls_token", "sep_token", "mask_token", "pad_token", "unk_token", "eos_token")
Settings = Mapping[str, Any]
Made = tuple[Backend, Sequence[AddedToken]]  # a tokenizer, and those of its entries that are added tokens in transformers' class


class _Class(NamedTuple):
    """A tokenizer class of transformers, and how its tokenizer is built."""

    files: tuple[tuple[str, ...], ...]  # the files that the class needs, each as its possible names
    roles: Mapping[str, str]  # the class's special tokens, such as {"bos_token": "<s>"}
    build: Callable[[Sequence[Path], Settings, Mapping[str, str]], Made]  # called with the files, the settings and the special tokens
    template: Callable[[Settings], tuple[str, str]] | None = None  # the post-processor's templates; None: those of pipelines.template_parts


def read_vocabulary(folder: Path, settings: Settings, config: Settings, special: Settings, named: Settings) -> tuple[str, Settings] | None:
    """Return the tokenizer.json for a folder's vocabulary files, and `settings`, to which the class and missing special tokens are added.

    `settings`, `config`, `special`, `named`: the contents of tokenizer_config.json, config.json, special_tokens_map.json and
    added_tokens.json. The tokenizer class is that of tokenizer_config.json, else that of config.json's model_type (bert if it has none).
    Return None if the class is unknown, or its files are missing. Raises ModelError for damaged files.
    """
    name = str(settings.get("tokenizer_class") or _OF_TYPES.get(str(config.get("model_type", "bert")))).removesuffix("Fast")
    kind = _CLASSES.get(name)
    found = [next((path for file in names if (path := find_named(folder, file))), None) for names in kind.files] if kind else []
    paths = [path for path in found if path is not None]
    if kind is None or len(paths) < len(kind.files):
        return None
    lacking = {role: token for role, token in kind.roles.items() if token_text(settings.get(role)) is None}
    settings = {**settings, **lacking, "tokenizer_class": name}
    roles = {role: str(token_text(settings[role])) for role in kind.roles}
    place = str(paths[0] if paths else folder)
    with tokenizer_errors(place):
        backend, added = kind.build(paths, settings, roles)
        parts = kind.template(settings) if kind.template else pipelines.template_parts(dict(roles), False)
        words = [word.partition(":")[0] for word in (parts[0].split() if parts else ()) if not word.startswith("$")]
        wanted = dict.fromkeys([*(token for role, token in roles.items() if role in _USED), *words])
        if absent := [token for token in wanted if backend.token_to_id(token) is None]:
            raise ModelError(
                f"{place}: has no line {', '.join(absent)}, so it is not this model's vocabulary; copy the model's own file again"
            )
        if parts:
            used = [(token, backend.token_to_id(token)) for token in dict.fromkeys(words)]
            backend.post_processor = processors.TemplateProcessing(single=parts[0], pair=parts[1], special_tokens=used)
        tokens = {token.content: token for token in added}
        stated: dict[str, AddedToken] = {}
        for _, token, _ in named_tokens(settings, special, named):
            stated.setdefault(token.content, token)
        backend.add_tokens([token for content, token in (tokens | stated).items() if backend.token_to_id(content) is not None])
        return backend.to_str(pretty=True), settings


def _wordpiece(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
    lines = read_text(paths[0], _LIMIT).removesuffix("\n").split("\n")
    vocab = {line.rstrip(_SPACE): number for number, line in enumerate(lines)}
    lowercase, chinese = bool(settings.get("do_lower_case", True)), bool(settings.get("tokenize_chinese_chars", True))
    strip = None if settings.get("strip_accents") is None else bool(settings["strip_accents"])
    normalizer = pipelines.bert_normalizer(lowercase, strip, chinese)
    return pipelines.wordpiece(vocab, normalizer, roles["unk_token"]), ()


def _byte_bpe(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
    vocab, lines = read_object(paths[0], _LIMIT), read_text(paths[1], _LIMIT).split("\n")
    merges = [tuple(line.split(" ")) for line in (line.removesuffix("\r") for line in lines) if line and not line.startswith("#version")]
    if not all(type(number) is int for number in vocab.values()) or not all(len(merge) == 2 for merge in merges):
        raise ModelError(f"{paths[0].parent}: vocab.json has an entry without an id, or merges.txt a line that is no pair; copy both again")
    pairs = [(first, second) for first, second in merges]
    return pipelines.byte_bpe(vocab, pairs, pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))), ()


def _of_pieces(
    first: Sequence[str], skipped: int, last: Callable[[Settings], Sequence[str]]
) -> Callable[[Sequence[Path], Settings, Mapping[str, str]], Made]:
    """Return a function that builds a tokenizer: its entries are `first`, the pieces of a SentencePiece model from `skipped` on, `last`."""

    def build(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
        model = sentencepiece_file.read_model(paths[0])
        entries = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first]
        entries += [(piece.text, piece.score) for piece in model.pieces[skipped:]] + [(token, 0.0) for token in last(settings)]
        backend = pipelines.unigram(entries, first.index("<unk>") if first else model.unknown)
        if model.replacements:
            backend.normalizer = normalizers.Precompiled(model.replacements)
        return backend, [*_special_pieces(model), *_special([*first, *last(settings)])]

    return build


def _mbart(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
    """Build mBART's tokenizer. As in transformers' class, the normalizer of the SentencePiece model is not used."""
    backend, added = _of_pieces(("<s>", "<pad>", "</s>", "<unk>"), 3, lambda _: (*_LANGUAGES, "<mask>"))(paths, settings, roles)
    backend.normalizer = None
    return backend, added


def _deberta(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
    """Build DeBERTa v2's and v3's tokenizer. As in transformers' class, its normalizer is not that of the SentencePiece model."""
    model = sentencepiece_file.read_model(paths[0])
    backend = Backend(models.Unigram([(piece.text, piece.score) for piece in model.pieces], unk_id=model.unknown, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if settings.get("do_lower_case", False) else []
    steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False, right=True)]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    splits: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Metaspace(replacement=pipelines.SPACE, prepend_scheme=scheme)]
    if settings.get("split_by_punct", False):
        splits.insert(0, pre_tokenizers.Punctuation(behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.Metaspace(replacement=pipelines.SPACE, prepend_scheme=scheme)
    backend.add_tokens(_special([roles["mask_token"]]))  # the mask token is not among the pieces
    return backend, _special_pieces(model)


def _bytes(paths: Sequence[Path], settings: Settings, roles: Mapping[str, str]) -> Made:
    """Build ByT5's tokenizer: byte b has the id 3 + b, and the sentinels follow, in ascending order (T5's are in descending order)."""
    first = [roles[f"{name}_token"] for name in ("pad", "eos", "unk")]
    signs = {byte: sign for sign, byte in pipelines.BYTE_OF.items()}
    vocab = {token: number for number, token in enumerate([*first, *(signs[byte] for byte in range(256))])}
    backend = pipelines.byte_bpe(vocab, [], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    backend.add_tokens(_special([*first, *(f"<extra_id_{number}>" for number in range(_extra_ids(settings, 125)))]))
    return backend, ()


def _special(tokens: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(token, normalized=False, special=True) for token in dict.fromkeys(tokens)]


def _special_pieces(model: sentencepiece_file.PieceModel) -> list[AddedToken]:
    kinds = {sentencepiece_file.CONTROL: True, sentencepiece_file.USER_DEFINED: False}
    return [AddedToken(piece.text, normalized=False, special=kinds[piece.kind]) for piece in model.pieces if piece.kind in kinds]


def _extra_ids(settings: Settings, default: int) -> int:
    number = settings.get("extra_ids", default)
    return number if type(number) is int and 0 <= number <= 1000 else default


def _sentinels(settings: Settings) -> Sequence[str]:
    return [f"<extra_id_{number}>" for number in reversed(range(_extra_ids(settings, 100)))]


def _translated(settings: Settings) -> tuple[str, str]:
    language = settings.get("src_lang") or "en_XX"
    return f"$A </s> {language}", f"$A $B </s> {language}"


_BERT, _T5, _ROBERTA = VOCABULARIES["wordpiece"][None].roles, VOCABULARIES["unigram"]["t5"].roles, VOCABULARIES["byte_bpe"]["roberta"].roles
_DEBERTA = {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"}
_MODEL = (MODEL_FILES,)
_WORDPIECE = _Class(((_LINES,),), _BERT, _wordpiece)
_CLASSES = {
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), _WORDPIECE),
    "MPNetTokenizer": _Class(((_LINES,),), {**_ROBERTA, "unk_token": "[UNK]"}, _wordpiece),
    "GPT2Tokenizer": _Class(
        ((_ENTRIES,), (_MERGES,)),
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        _byte_bpe,
        lambda settings: ("$A", "$A $B"),
    ),
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer"), _Class(((_ENTRIES,), (_MERGES,)), _ROBERTA, _byte_bpe)),
    "T5Tokenizer": _Class(_MODEL, _T5, _of_pieces((), 0, _sentinels)),
    "XLMRobertaTokenizer": _Class(_MODEL, _ROBERTA, _of_pieces(("<s>", "<pad>", "</s>", "<unk>"), 3, lambda _: ("<mask>",))),
    "CamembertTokenizer": _Class(
        _MODEL, _ROBERTA, _of_pieces(("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1, lambda _: ("<mask>",))
    ),
    "MBartTokenizer": _Class(_MODEL, _ROBERTA, _mbart, _translated),
    "DebertaV2Tokenizer": _Class(_MODEL, _DEBERTA, _deberta, lambda _: pipelines.template_parts(_BERT, False) or ("", "")),
    "ByT5Tokenizer": _Class((), _T5, _bytes),
}
_OF_TYPES = {  # the class for a model_type of config.json, in folders whose tokenizer_config.json names no class
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "gpt2": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "mbart": "MBartTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
}
