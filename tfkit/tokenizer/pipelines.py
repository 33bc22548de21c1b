"""The pipeline (normalizer, pre-tokenizer, model, decoder) of each kind of tokenizer, as `transformers` builds it for models of that kind.

byte_bpe           BPE over bytes (as 256 characters), within words; lossless       GPT-2 (Radford et al. 2019, 2.2), RoBERTa, Llama 3
wordpiece          longest entries of a word, from the left; ## inside a word       BERT (Devlin et al. 2018, arXiv 1810.04805)
bpe_eow            BPE within lower-cased words, </w> at the end of a word          GPT (Radford et al. 2018)
unigram            most likely pieces of a word; T5's sentinels have the last ids   T5, XLM-R (Kudo 2018, arXiv 1804.10959)
bpe_byte_fallback  BPE over characters, ▁ for a space; rare characters as bytes     Llama, Mistral, Gemma 2 (Kudo and Richardson 2018)
"""

from collections.abc import Sequence

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from tfkit.tokenizer.pieces import LLAMA3

SPACE = "▁"  # U+2581, SentencePiece's sign for a space
SUFFIX, PREFIX = "</w>", "##"

# GPT-2's alphabet, in which a character represents a byte: for a printable byte the character of the same code, for the other bytes, in
# order, the characters from U+0100 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = sorted({*range(256)} - {*_PRINTABLE})
BYTE_OF = dict(zip(map(chr, [*_PRINTABLE, *range(256, 256 + len(_OTHERS))]), [*_PRINTABLE, *_OTHERS], strict=True))

BYTE_SPLITTERS: dict[str, pre_tokenizers.PreTokenizer] = {
    **dict.fromkeys(("gpt2", "roberta"), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}


def byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], splitter: pre_tokenizers.PreTokenizer) -> Backend:
    """Build a byte-level BPE pipeline. It has no normalizer and no unknown token: decoding restores a text, if `splitter` adds no space."""
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    return backend


def bert_normalizer(lowercase: bool = True, strip_accents: bool | None = None, chinese: bool = True) -> normalizers.Normalizer:
    """Build BERT's normalizer: control characters are removed, white space becomes spaces; `chinese`: isolate Chinese characters."""
    return normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase)


def wordpiece(vocab: dict[str, int], normalizer: normalizers.Normalizer, unk_token: str = "[UNK]") -> Backend:
    """Build BertTokenizer's pipeline: words end at white space and punctuation; a word that entries cannot form becomes `unk_token`."""
    backend = Backend(models.WordPiece(vocab=vocab, unk_token=unk_token))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=PREFIX)
    return backend


def bpe_eow(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Backend:
    """Build OpenAIGPTTokenizer's pipeline, which lower-cases the text and splits it into words as BERT's does."""
    model = models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix=SUFFIX, unk_token="<unk>")
    backend = Backend(model)
    backend.normalizer = bert_normalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=SUFFIX)
    return backend


def unigram(scores: Sequence[tuple[str, float]], unknown: int = 2) -> Backend:
    """Build T5Tokenizer's pipeline, in which each run of white space becomes one space. `unknown`: the id of unknown characters."""
    backend = Backend(models.Unigram(list(scores), unk_id=unknown, byte_fallback=False))
    backend.pre_tokenizer = word_splitter()
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    return backend


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Build T5's pre-tokenizer, which splits at white space and puts ▁ before each word."""
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])


def llama_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], unk_token: str | None = None) -> Backend:
    """Build LlamaTokenizer's pipeline: a text is one long word, with ▁ added before it; decoding removes one leading space.

    `unk_token`: the unknown token; None if the vocabulary has an entry for each byte, so that nothing is unknown.
    """
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token=unk_token, fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    backend.decoder = decoders.Sequence(steps)
    return backend


def gemma_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Backend:
    """Build GemmaTokenizer's pipeline. It adds no ▁, so decoding restores every text that has none. The pre-tokenizer has no effect, since
    the normalizer has replaced all spaces by ▁.
    """
    backend = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def template_parts(roles: dict[str, str], add_bos: bool) -> tuple[str, str] | None:
    """Return the post-processor's templates for one text and for a pair; None if no special token is added. Tokenizers with cls and bos
    have RoBERTa's templates, those with only cls BERT's. Of the others, those with bos put bos before each text if `add_bos`, and
    those without bos put eos after each text. `roles`: the special tokens, such as {"bos_token": "<s>"}.
    """
    bos, eos, cls, sep = (roles.get(f"{role}_token") for role in ("bos", "eos", "cls", "sep"))
    if cls and bos:
        return f"{cls} $A {sep}", f"{cls} $A {sep} {sep} $B {sep}"
    if cls:
        return f"{cls}:0 $A:0 {sep}:0", f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"
    if bos:
        return (f"{bos} $A", f"{bos} $A {bos} $B") if add_bos else None
    return (f"$A {eos}", f"$A {eos} $B {eos}") if eos else None
