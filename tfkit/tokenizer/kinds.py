"""Training a tokenizer of any kind (pipelines.py) as the recipe describes it."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.vocabularies import VOCABULARIES, Vocabulary, variant_of
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.bpe import learn
from tfkit.tokenizer.pipelines import PREFIX, SPACE, SUFFIX
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.train import Corpus

END_OF_TEXT = "<|endoftext|>"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# [MASK] and sentinels appear in prompts; the other kinds read no special tokens in texts, so that no text can end a document.
_READS_SPECIAL_TOKENS = ("wordpiece", "unigram")


class _Task(NamedTuple):
    """Input of a kind's trainer: `first` are the entries from id 0 on, `own` is the kind's vocabulary before training."""

    section: TokenizerSection
    variant: str | None
    own: Vocabulary
    first: list[str]
    corpus: Corpus

    def room(self, forms: int = 1) -> int:
        """Return how many characters may have entries: those that fill half of the free entries, with `forms` entries each."""
        free = self.section.vocab_size - len(self.first) - len(self.own.last)
        return max(1, free // 2 // forms)


def train_tokenizer(section: TokenizerSection, texts: Iterable[str], progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Train on the texts, which all kinds but byte_bpe read twice; the same section and texts always give the same tokenizer.

    Texts with few distinct words give fewer entries than requested: `size` is then smaller than `vocab_size`, for the caller to report.
    `progress` receives the bytes of each text, in another thread, and may raise to stop.
    """
    variant = variant_of(section.kind, section.variant)
    own = VOCABULARIES[section.kind][variant]
    first = [*own.first, *section.special_tokens]
    backend = _TRAINERS[section.kind](_Task(section, variant, own, first, Corpus(texts, progress)))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*first, *own.last)])
    around = pipelines.template_parts(own.roles, section.add_bos)
    if around is not None:
        used = [(token, backend.token_to_id(token)) for token in dict.fromkeys(own.roles.values()) if token in around[0]]
        backend.post_processor = processors.TemplateProcessing(single=around[0], pair=around[1], special_tokens=used)
    settings = {**own.roles, "split_special_tokens": section.kind not in _READS_SPECIAL_TOKENS}
    return Tokenizer.from_json(backend.to_str(pretty=True), settings)


def train_byte_bpe(texts: Iterable[str], vocab_size: int, add_bos: bool, progress: Callable[[int], None] | None = None) -> Tokenizer:
    """Train GPT-2's kind: `<|endoftext|>` is bos and eos, with id 0. There is no pad token: batches are masked by length."""
    return train_tokenizer(TokenizerSection(vocab_size=vocab_size, add_bos=add_bos), texts, progress)


def _byte_bpe(task: _Task) -> Backend:
    splitter = pipelines.BYTE_SPLITTERS[str(task.variant)]
    first = [*task.first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return pipelines.byte_bpe(**learn(task.corpus, splitter, first, task.section.vocab_size), splitter=splitter)


def _wordpiece(task: _Task) -> Backend:
    normalizer = pipelines.bert_normalizer(task.section.lowercase, task.section.strip_accents)
    alphabet = task.corpus.alphabet(task.room(forms=2), normalizer)
    splitter = pre_tokenizers.BertPreTokenizer()
    learned = learn(task.corpus, splitter, task.first, task.section.vocab_size, normalizer=normalizer, alphabet=alphabet, prefix=PREFIX)
    return pipelines.wordpiece(learned["vocab"], normalizer)


def _bpe_eow(task: _Task) -> Backend:
    normalizer = pipelines.bert_normalizer()
    alphabet = task.corpus.alphabet(task.room(forms=2), normalizer)
    splitter = pre_tokenizers.BertPreTokenizer()
    return pipelines.bpe_eow(
        **learn(task.corpus, splitter, task.first, task.section.vocab_size, normalizer=normalizer, alphabet=alphabet, suffix=SUFFIX)
    )


# SentencePiece splits its training text like this: a word has its space before it, digits and punctuation are separate from letters,
# spaces in a row are entries of their own. Without it a trainer merges across words. New lines are separate, too.
_WORDS = rf"\n+|{SPACE}+(?={SPACE})|{SPACE}?[\p{{L}}\p{{M}}]+|\p{{N}}|{SPACE}?[^\p{{L}}\p{{M}}\p{{N}}{SPACE}\n]+|{SPACE}"


def _bpe_byte_fallback(task: _Task) -> Backend:
    normalizer = normalizers.Replace(" ", SPACE)
    first = [*task.first, *_BYTES]
    # Llama's trainer read line by line, so a new line is its byte; Gemma has entries for them.
    room, bytes_only = (task.section.vocab_size - len(first)) // 2, "" if task.variant == "gemma" else "\n"
    alphabet = task.corpus.alphabet(room, normalizer, left_out=lambda character: character in bytes_only)
    splitter = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    learned = learn(task.corpus, splitter, first, task.section.vocab_size, normalizer=normalizer, alphabet=alphabet)
    if task.variant == "gemma":
        return pipelines.gemma_bpe(**learned)
    return pipelines.llama_bpe(**learned, unk_token="<unk>" if task.variant == "translation" else None)


def _unigram(task: _Task) -> Backend:
    alphabet = task.corpus.alphabet(task.room() - 1, left_out=lambda character: character.isspace() or character == SPACE)
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pipelines.word_splitter(), pre_tokenizers.Split(Regex(_PIECES), "isolated")])
    trainer = trainers.UnigramTrainer(
        vocab_size=task.section.vocab_size - len(task.own.last), special_tokens=task.first, unk_token="<unk>", show_progress=False
    )
    task.corpus.train(backend, trainer, alphabet=alphabet)
    learned = json.loads(backend.to_str())["model"]["vocab"][len(task.first) :]
    return pipelines.unigram(
        [*((token, 0.0) for token in task.first), *_stable_scores(learned), *((token, 0.0) for token in task.own.last)]
    )


# SentencePiece learns no piece of more than one script; this also keeps the special tokens out of what is learned.
_PIECES = rf"{SPACE}?[\p{{L}}\p{{M}}]+|{SPACE}?\p{{N}}+|{SPACE}?[^\p{{L}}\p{{M}}\p{{N}}{SPACE}]+|{SPACE}"


def _stable_scores(learned: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return pieces with scores that are the same in every training. The trainer sums in the random order of a hash table, which moves a
    score by 1e-11, and gives unused characters rising scores from the least one up, in that order too: here all have the least.
    """
    least = min((score for _, score in learned), default=0.0)
    unused = least + 1e-4 * sum(len(piece) == 1 for piece, _ in learned)
    settled = [(piece, round(least if len(piece) == 1 and score < unused else score, 4)) for piece, score in learned]
    return sorted(settled, key=lambda entry: (-entry[1], entry[0]))


_TRAINERS: dict[str, Callable[[_Task], Backend]] = {
    "byte_bpe": _byte_bpe,
    "wordpiece": _wordpiece,
    "bpe_eow": _bpe_eow,
    "unigram": _unigram,
    "bpe_byte_fallback": _bpe_byte_fallback,
}
