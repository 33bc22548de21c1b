"""The sections of a recipe for its data: the sources of rows, the held-out part, and the tokenizer."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticKnownError

from tfkit.model.config.sizes import Context, Data
from tfkit.recipe.schema.bounds import Count, SampleBytes, SourceWeight, VocabSize
from tfkit.recipe.schema.vocabularies import READ_BY, variant_of, vocabulary_of

LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]


class TokenizerSection(Data):
    """A tokenizer that is trained on the training text, or the path of a finished one."""

    kind: Literal["byte_bpe", "wordpiece", "bpe_eow", "unigram", "bpe_byte_fallback"] = Field(
        "byte_bpe",
        description="byte_bpe: GPT-2, GPT-3, RoBERTa, Llama 3, SmolLM2. wordpiece: BERT, DistilBERT. bpe_eow: GPT. unigram: T5, XLM-R. "
        "bpe_byte_fallback: Llama 1 and 2, Mistral, Gemma 2. Only byte_bpe reproduces every text byte for byte.",
    )
    variant: Literal["gpt2", "llama3", "smollm2", "roberta", "t5", "xlm_roberta", "llama", "gemma", "translation"] | None = Field(
        None,
        description="The system whose pre-tokenization and special tokens are used. byte_bpe: gpt2, llama3, smollm2, roberta; "
        "unigram: t5, xlm_roberta; bpe_byte_fallback: llama, gemma, translation (the joint BPE of the 2017 "
        "Transformer); null: the first of the kind.",
    )
    vocab_size: VocabSize = Field(8192, description="Total number of entries, including special tokens and bytes.")
    special_tokens: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="Special tokens in addition to those of the kind; their ids follow those of the kind's first special tokens."
    )
    sample_bytes: SampleBytes = Field(200_000_000, description="Train on at most this much text, sampled evenly over the corpus.")
    add_bos: bool = Field(True, description="Put the beginning-of-text token before every text, so that its first token is predicted, too.")
    lowercase: bool = Field(True, description="wordpiece: lower-case texts, as BERT uncased.")
    strip_accents: bool | None = Field(None, description="wordpiece: remove accents; null: if lowercase is true.")
    path: str | None = Field(None, description="Use the tokenizer of this checkpoint or folder instead of training one.")

    @model_validator(mode="after")
    def _path_or_training(self) -> "TokenizerSection":
        if self.path is not None and (unread := self.model_fields_set - {"path", "kind"}):
            others = ", ".join(sorted(unread))
            raise ValueError(f"path names a finished tokenizer, so {others} would not be read: remove one or the other")
        return self

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "TokenizerSection":
        variant = variant_of(self.kind, self.variant)
        for name, readers in READ_BY.items():
            if not {self.kind, variant} & set(readers) and getattr(self, name) != TokenizerSection.model_fields[name].default:
                raise ValueError(f"{name} is not read by {self.kind if variant is None else f'the variant {variant}'}: remove it")
        vocabulary = vocabulary_of(self.kind, self.variant)
        special = [*vocabulary.first, *self.special_tokens, *vocabulary.last]
        if len(set(special)) < len(special):
            raise ValueError(f"special_tokens: {max(special, key=special.count)} is given twice, or is the kind's own: remove it")
        smallest = len(special) + vocabulary.symbols
        if self.vocab_size < smallest:
            symbols = "the 256 bytes" if vocabulary.symbols == 256 else f"{vocabulary.symbols} pieces of text"
            tokens = special[0] if len(special) == 1 else f"{len(special)} special tokens"
            raise ValueError(f"vocab_size {self.vocab_size} is too small: {symbols} and {tokens} need {smallest}")
        return self


def _no_number(value: Any) -> Any:
    """Reject numbers, because pydantic's Literal accepts 1 as True."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "False, True, 'docstrings', 'token_roles' or 'packages'"})
    return value


class SourceSection(Data):
    """A source of rows: exactly one of stdlib, path and hub."""

    stdlib: Annotated[Literal[False, True, "docstrings", "token_roles", "packages"], BeforeValidator(_no_number)] = Field(
        False,
        description="The running Python's own standard library, without a network. true: its files as text. docstrings: functions (source) "
        "and their descriptions (target). token_roles: lines of code (tokens) and the role of each token (tags). packages: code (text) and "
        "its package (label).",
    )
    path: str | None = Field(
        None,
        description="A file, folder or glob: txt, code, jsonl, json, csv, tsv, parquet, CoNLL, CoNLL-U, or .gz, .bz2, .xz, .zst, .zip and "
        ".tar of these.",
    )
    files: Literal["train", "validation", "test", "all"] | None = Field(
        None,
        description="Read only the files of a folder or glob with this word in their names (valid, val and dev mean validation). null: if "
        "the names of the files have such words, data.train reads the files of training and data.validation those of validation; else all.",
    )
    format: Literal["text", "lines", "jsonl", "json", "csv", "tsv", "parquet", "conll", "conllu"] | None = Field(
        None, description="The format of the files of path; null: by their suffixes. text: each file is a row; lines: each line is a row."
    )
    header: list[str] | None = Field(
        None, min_length=1, description="The names of the columns of csv, tsv or conll files without a header line, or of the format lines."
    )
    field: str | None = Field(
        None, description="The key of a JSON object that holds the rows; null: the only such key, or those with the name of a split."
    )
    beside: dict[str, str] = Field(
        {},
        description="Columns in addition to those of path, each from a file that is parallel to path, line by line: {de: train.de.gz} for "
        "train.en.gz. If neither this nor format is set, parallel files are recognised by their names.",
    )
    hub: str | None = Field(None, description="A data set of the Hugging Face Hub: org/name, or a local data set folder.")
    config: str | None = Field(None, description="The configuration of a hub data set.")
    split: str = Field("train", description="The split of a hub data set.")
    revision: str | None = Field(None, description="The revision of a hub data set: a tag, branch or commit.")
    streamed: bool = Field(
        False, description="Read a hub data set as a stream, once, into tfkit's cache: only the rows that are used are downloaded."
    )
    rows: Count | None = Field(None, description="Use only the first n rows of a streamed data set; null: all.")
    text: str | None = Field(None, description="The column with the text, in files and data sets with columns; null: recognised by name.")
    columns: dict[str, str | Annotated[list[str], Field(min_length=1)]] = Field(
        {},
        description="The column of each role of the objective: {label: intent}. A value is a column, a path into one (instances.0.input), "
        "a template ({source: 'translate English to French: {en}'}), or a list of these ({choices: [sol1, sol2]}). "
        "The columns of other roles are recognised by their names.",
    )
    class_names: Annotated[list[str], Field(min_length=2)] | str | None = Field(
        None,
        description="The names of classes or tags that the data hold as numbers 0, 1, ..., in the order of the numbers; or a file with a "
        "name on each line, alone or after its number.",
    )
    name: str | None = Field(
        None,
        description="The name of a validation set, with which its metrics begin if there are several sets; null: its position, from 1.",
    )
    weight: SourceWeight = Field(1.0, description="How often an epoch reads each row: 2 is twice, 0.5 a random half.")

    @model_validator(mode="after")
    def _exactly_one(self) -> "SourceSection":
        named = [name for name in ("stdlib", "path", "hub") if getattr(self, name)]
        if len(named) != 1:
            raise ValueError("a source needs exactly one of stdlib, path, hub" + (f"; here are {' and '.join(named)}" if named else ""))
        return self


def set_names(sources: Sequence[SourceSection]) -> list[str]:
    """Return the name of each validation set in its metrics: its own name or, if it has none, its position, from 1."""
    return [source.name or str(number) for number, source in enumerate(sources, 1)]


def _names_differ(sources: list[SourceSection]) -> list[SourceSection]:
    names = set_names(sources)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two sets have the name {twice!r}, so their metrics could not be distinguished: give them different names")
    return sources


ValidationSets = Annotated[list[SourceSection], AfterValidator(_names_differ)]


class DataSection(Data):
    """The sources of the rows for training and for evaluation, and how rows are held out, skipped and truncated."""

    train: list[SourceSection] = Field(min_length=1, description="The sources of the training text.")
    validation: ValidationSets | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Sources (stdlib has its own held-out files), or the fraction of train that is held out; if a folder of train has "
        "files named valid or dev, these are held out instead of the fraction.",
    )
    pretraining: Annotated[list[SourceSection], Field(min_length=1)] | None = Field(
        None,
        description="Sources of text that an objective mixes into its steps so that the model keeps what it learned from such text (ppo, "
        "with ptx_weight); null: none.",
    )
    rows: Count | None = Field(
        None, description="Use only n rows of each training source and of each validation source, drawn by training.seed; null: all."
    )
    split_by: Literal["input", "row"] = Field(
        "input",
        description="How rows are held out. input: rows with the same input are held out together, files named train, valid or test are "
        "used as such, and a single text is split by position. row: as in tfkit 0.1, by all texts of a row, without regard to the names "
        "of files.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="error: a row that cannot be read ends the run with its file and number. skip: it is skipped and counted."
    )
    max_lost: float | None = Field(
        None, ge=0, lt=1, description="Largest fraction of a training source's rows that may be skipped or truncated; null: any."
    )
    language: LanguageCode | Annotated[list[LanguageCode], Field(min_length=1)] | None = Field(
        None, description="The language of the texts, for the model card: a code such as en, or several: [en, de]; null: the base model's."
    )
    sequence_length: Context | None = Field(
        None,
        description="Largest number of tokens of a row: texts are cut into pieces of this length, and labelled rows are truncated to it "
        "(for an encoder-decoder each text of a pair). Evaluations of the run do the same. null: the model's context_length, the largest "
        "value.",
    )
    length_groups: bool = Field(True, description="Labelled rows: batches of similar lengths, the longest first, to reduce padding.")
