"""Training of tokenizers of each kind (pipelines.py), as the section `tokenizer` of a recipe describes them."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.vocabularies import Vocabulary, variant_of, vocabulary_of
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.pieces import pieces
from tfkit.tokenizer.pipelines import PREFIX, SPACE, SUFFIX
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_guard import interruptible

_COVERAGE = 0.9999  # fraction of the characters in the texts that get entries; SentencePiece's `character_coverage` (0.9995; Llama 0.99995)
_GAP = "\0"  # replaces a character without an entry
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


class Corpus:
    """The training texts, which can be read several times. They are split so that training takes bounded memory and time.

    `train` calls `progress` with each text's number of UTF-8 bytes, possibly in another thread; an exception that it raises ends training.
    """

    def __init__(self, texts: Iterable[str], progress: Callable[[int], None] | None = None):
        self._texts, self._progress = texts, progress

    def alphabet(
        self, most: int, normalizer: normalizers.Normalizer | None = None, excluded: Callable[[str], bool] = str.isspace
    ) -> list[str]:
        """Return the most frequent characters, which make up 99.99% of the normalized texts; at most `most`, sorted by code point.

        Rarer characters get no entries, so that more entries are left for parts of words. `excluded`: returns whether to omit a character.
        """
        counts: Counter[str] = Counter()
        for text in self._texts:
            for piece in pieces(text):
                counts.update(piece if normalizer is None else normalizer.normalize_str(piece))
        ranked = sorted((c for c in counts if c != _GAP and not excluded(c)), key=lambda c: (-counts[c], c))
        covered = accumulate((counts[character] for character in ranked), initial=0)
        enough = _COVERAGE * sum(counts[character] for character in ranked)
        return sorted(character for character, before in zip(ranked[:most], covered, strict=False) if before < enough)

    def train(
        self,
        backend: Backend,
        trainer: trainers.Trainer,
        normalizer: normalizers.Normalizer | None = None,
        alphabet: Collection[str] | None = None,
    ) -> None:
        """Train the backend on the normalized texts. `alphabet`: if not None, all characters that are not in it separate words."""
        others, abandoned = None, threading.Event()
        if alphabet is not None:
            others = re.compile(f"[^{''.join(map(re.escape, alphabet))}]" if alphabet else "(?s:.)")
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(_GAP, "removed"), backend.pre_tokenizer])

        def parts() -> Iterator[str]:
            for part in self._parts(abandoned):
                normalized = part if normalizer is None else normalizer.normalize_str(part)
                yield normalized if others is None else others.sub(_GAP, normalized)

        interruptible(lambda: backend.train_from_iterator(parts(), trainer), abandoned)

    def _parts(self, abandoned: threading.Event) -> Iterator[str]:
        """Yield the texts in pieces that cut no words, except very long ones. Raises InterruptedError once `abandoned` is set."""
        for text in self._texts:
            for piece in pieces(text):
                if abandoned.is_set():
                    raise InterruptedError("the training of this tokenizer was abandoned")
                yield from _cut_long_words(piece)
            if self._progress is not None:
                self._progress(len(text.encode()))


# Training time is quadratic in the length of a word, so training on a megabyte of letters without a space would not finish. Therefore runs
# of one class of characters (letters, digits, spaces, signs) are cut if they are longer than any word of a language.
_MAX_WORD = 1024  # the most characters in a run of one class
_CLASSES = (r"[^\W\d_]", r"\d", r"\s", r"[^\w\s]|_")
_LONG_WORD, _HALF_WORD = (re.compile("|".join(f"(?:{kind}){{{length}}}" for kind in _CLASSES)) for length in (_MAX_WORD, _MAX_WORD // 2))


def _cut_long_words(piece: str) -> Iterator[str]:
    start = 0
    if any(_HALF_WORD.match(piece, half) for half in range(0, len(piece), _MAX_WORD // 2)):  # a fast test: false for most pieces
        for match in _LONG_WORD.finditer(piece):
            yield piece[start : match.end()]
            start = match.end()
    yield piece[start:]


class _Task(NamedTuple):
    """The arguments of the function that trains one kind of tokenizer."""

    section: TokenizerSection
    variant: str | None
    fixed: Vocabulary  # the entries and special tokens that this variant of the kind has without training
    first: list[str]  # the untrained entries with the ids from 0 on
    corpus: Corpus

    def max_characters(self, forms: int = 1) -> int:
        """Return how many characters may get entries, `forms` for each: together at most half of the entries left for training."""
        free = self.section.vocab_size - len(self.first) - len(self.fixed.last)
        return max(1, free // 2 // forms)


def train_tokenizer(section: TokenizerSection, texts: Iterable[str], progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Train a tokenizer. The same section and texts always give the same tokenizer. For all kinds but byte_bpe, the texts are read twice.

    Texts with few distinct words may give fewer entries than the section's `vocab_size`. `progress` gets each text's number of UTF-8 bytes.
    """
    variant = variant_of(section.kind, section.variant)
    fixed = vocabulary_of(section.kind, section.variant)
    first = [*fixed.first, *section.special_tokens]
    backend = _TRAINERS[section.kind](_Task(section, variant, fixed, first, Corpus(texts, progress)))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*first, *fixed.last)])
    templates = pipelines.template_parts(fixed.roles, section.add_bos)
    if templates is not None:
        single, pair = templates
        used = [(token, backend.token_to_id(token)) for token in dict.fromkeys(fixed.roles.values()) if token in single]
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    settings = {**fixed.roles, "split_special_tokens": not fixed.in_prompts}
    return Tokenizer.from_json(backend.to_str(pretty=True), settings)


def train_byte_bpe(texts: Iterable[str], vocab_size: int, add_bos: bool, progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Train a tokenizer like GPT-2's. Its token `<|endoftext|>`, id 0, is bos and eos; it has no pad token."""
    return train_tokenizer(TokenizerSection(vocab_size=vocab_size, add_bos=add_bos), texts, progress)


def _byte_bpe(task: _Task) -> Backend:
    splitter = pipelines.BYTE_SPLITTERS[str(task.variant)]
    first = [*task.first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return pipelines.byte_bpe(**_learn_bpe(task.corpus, splitter, first, task.section.vocab_size - len(task.fixed.last)), splitter=splitter)


def _wordpiece(task: _Task) -> Backend:
    normalizer = pipelines.bert_normalizer(task.section.lowercase, task.section.strip_accents)
    return pipelines.wordpiece(_learn_words(task, normalizer, prefix=PREFIX)["vocab"], normalizer)


def _bpe_eow(task: _Task) -> Backend:
    return pipelines.bpe_eow(**_learn_words(task, pipelines.bert_normalizer(), suffix=SUFFIX))


def _learn_words(task: _Task, normalizer: normalizers.Normalizer, **affix: str) -> dict[str, Any]:
    """Learn entries from texts split into words as by BERT. Each character has two entries: with and without `prefix` or `suffix`."""
    alphabet = task.corpus.alphabet(task.max_characters(forms=2), normalizer)
    splitter, size = pre_tokenizers.BertPreTokenizer(), task.section.vocab_size
    return _learn_bpe(task.corpus, splitter, task.first, size, normalizer=normalizer, alphabet=alphabet, **affix)


# The pattern of words; no merge across two words is learned, as in SentencePiece. A word includes the space before it; digits, punctuation,
# new lines and runs of spaces are separate from letters.
_WORDS = rf"\n+|{SPACE}+(?={SPACE})|{SPACE}?[\p{{L}}\p{{M}}]+|\p{{N}}|{SPACE}?[^\p{{L}}\p{{M}}\p{{N}}{SPACE}\n]+|{SPACE}"


def _bpe_byte_fallback(task: _Task) -> Backend:
    normalizer = normalizers.Replace(" ", SPACE)
    first = [*task.first, *_BYTES]
    # Llama's tokenizer was trained on single lines, so it encodes a new line as a byte; Gemma's has entries for new lines.
    free, bytes_only = task.section.vocab_size - len(first), "" if task.variant == "gemma" else "\n"
    alphabet = task.corpus.alphabet(free // 2, normalizer, excluded=lambda character: character in bytes_only)
    if free:  # ▁ always gets an entry, even if texts have no spaces: if ▁ were encoded as three bytes, decoding would not make it a space
        alphabet = sorted({*alphabet, SPACE})
    splitter = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    learned = _learn_bpe(task.corpus, splitter, first, task.section.vocab_size, normalizer=normalizer, alphabet=alphabet)
    if task.variant == "gemma":
        return pipelines.gemma_bpe(**learned)
    return pipelines.llama_bpe(**learned, unk_token="<unk>" if task.variant == "translation" else None)


def _unigram(task: _Task) -> Backend:
    alphabet = task.corpus.alphabet(task.max_characters() - 1, excluded=lambda character: character.isspace() or character == SPACE)
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pipelines.word_splitter(), pre_tokenizers.Split(Regex(_PIECES), "isolated")])
    trainer = trainers.UnigramTrainer(
        vocab_size=task.section.vocab_size - len(task.fixed.last), special_tokens=task.first, unk_token="<unk>", show_progress=False
    )
    task.corpus.train(backend, trainer, alphabet=alphabet)
    learned = json.loads(backend.to_str())["model"]["vocab"][len(task.first) :]
    return pipelines.unigram(
        [*((token, 0.0) for token in task.first), *_stable_scores(learned), *((token, 0.0) for token in task.fixed.last)],
        unknown=task.first.index("<unk>"),
    )


# As in SentencePiece, a piece has only letters, only digits or only signs; this also keeps special tokens out of the pieces.
_PIECES = rf"{SPACE}?[\p{{L}}\p{{M}}]+|{SPACE}?\p{{N}}+|{SPACE}?[^\p{{L}}\p{{M}}\p{{N}}{SPACE}]+|{SPACE}"


def _learn_bpe(
    corpus: Corpus,
    splitter: pre_tokenizers.PreTokenizer,
    first: Sequence[str],
    vocab_size: int,
    *,
    normalizer: normalizers.Normalizer | None = None,
    alphabet: Sequence[str] | None = None,
    prefix: str = "",
    suffix: str = "",
) -> dict[str, Any]:
    """Learn byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909), or the entries of WordPiece, from the words into which `splitter`
    divides normalized texts. Return `vocab` and `merges` for a `tokenizers` model.

    `first`: the entries from id 0 on. The characters of the alphabet follow, each also with `prefix` (its form inside a word) or `suffix`
    (its form at a word's end). The trainer gets these forms as special tokens; else it would number them in a hash table's random order.
    """
    forms = [form for character in alphabet or () for form in dict.fromkeys((character, prefix + character + suffix))]
    affixes: dict[str, Any] = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*first, *forms],
        show_progress=False,
        **{name: affix for name, affix in affixes.items() if affix},
    )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = splitter
    corpus.train(backend, trainer, normalizer, alphabet)
    model = json.loads(backend.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _stable_scores(learned: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the learned pieces with scores that are the same in every run, sorted by score.

    The trainer adds numbers in the order of a hash table, which is random in each run and changes scores by about 1e-11. To
    characters that must have an entry, but are not learned as pieces, it gives scores just above the lowest, in the order of that table;
    here all of them get the lowest score.
    """
    lowest = min((score for _, score in learned), default=0.0)
    unused = lowest + 1e-4 * sum(len(piece) == 1 for piece, _ in learned)
    stable = [(piece, round(lowest if len(piece) == 1 and score < unused else score, 4)) for piece, score in learned]
    return sorted(stable, key=lambda entry: (-entry[1], entry[0]))


_TRAINERS: dict[str, Callable[[_Task], Backend]] = {
    "byte_bpe": _byte_bpe,
    "wordpiece": _wordpiece,
    "bpe_eow": _bpe_eow,
    "unigram": _unigram,
    "bpe_byte_fallback": _bpe_byte_fallback,
}
