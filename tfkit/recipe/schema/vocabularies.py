"""The entries that a tokenizer of each kind has before training: special tokens, by ascending id, and the number of bytes or text pieces.

Sources: the tokenizer files of the systems in `transformers`. In the released vocabularies of GPT-2 and Llama 3, the special tokens have
the highest ids; here they have the lowest. Models work with either order, because a model's config states the ids of its special tokens.
"""

from typing import NamedTuple

MODEL_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model")  # SentencePiece's file in folders of T5, XLM-R and DeBERTa
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", *MODEL_FILES)  # the tokenizer's files in folders without a tokenizer.json
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))  # <extra_id_0> has the highest id (Raffel et al. 2020)
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_END_OF_TEXT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


class Vocabulary(NamedTuple):
    """The entries that do not depend on the training text.

    `first` have the ids from 0 on, `last` the ids after all learned entries; between them are at least `symbols` entries: the 256 bytes, or
    a few pieces of text. `roles` maps names such as eos_token to special tokens. `in_prompts`: whether the spelling of a special token in a
    text, such as [MASK], is read as that token; otherwise it is read as ordinary text, so that no text can end a document.
    """

    first: tuple[str, ...]
    roles: dict[str, str]
    symbols: int = 256
    last: tuple[str, ...] = ()
    in_prompts: bool = False


# The vocabulary of each kind and variant of tokenizer. The first variant of a kind is the default.
VOCABULARIES: dict[str, dict[str | None, Vocabulary]] = {
    "byte_bpe": {
        "gpt2": Vocabulary(("<|endoftext|>",), _END_OF_TEXT),
        "llama3": Vocabulary(
            (
                "<|begin_of_text|>",
                "<|end_of_text|>",
                "<|finetune_right_pad_id|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eom_id|>",
                "<|eot_id|>",
                "<|python_tag|>",
            ),
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad_id|>"},
        ),
        "smollm2": Vocabulary(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), _END_OF_TEXT),
        "roberta": Vocabulary(("<s>", "<pad>", "</s>", "<unk>"), _ROBERTA, last=("<mask>",), in_prompts=True),
    },
    "wordpiece": {None: Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), _BERT, 2, in_prompts=True)},
    "bpe_eow": {None: Vocabulary(("<unk>",), {"unk_token": "<unk>"}, 2)},
    "unigram": {
        "t5": Vocabulary(
            ("<pad>", "</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, 4, SENTINELS, in_prompts=True
        ),
        "xlm_roberta": Vocabulary(("<s>", "<pad>", "</s>", "<unk>"), _ROBERTA, 4, ("<mask>",), in_prompts=True),
    },
    "bpe_byte_fallback": {
        "llama": Vocabulary(("<unk>", "<s>", "</s>"), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "gemma": Vocabulary(
            ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"),
            {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
        ),
        "translation": Vocabulary(("<pad>", "</s>", "<unk>"), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    },
}

# By field of TokenizerSection, the kinds or variants of tokenizer that read it. Fields that are not listed here are read by all kinds.
READ_BY: dict[str, tuple[str, ...]] = {
    "add_bos": ("gpt2", "llama3", "smollm2", "llama", "gemma"),
    "lowercase": ("wordpiece",),
    "strip_accents": ("wordpiece",),
}


def variant_of(kind: str, variant: str | None) -> str | None:
    """Return `variant` or, if it is None, the kind's first variant, if it has any. Raises ValueError for an unknown variant."""
    known = VOCABULARIES[kind]
    if variant is None:
        return next(iter(known))
    if variant not in known:
        named = ", ".join(name for name in known if name)
        raise ValueError(f"{kind} has no variant {variant}; it has {named}" if named else f"{kind} has no variants: remove variant")
    return variant


def vocabulary_of(kind: str, variant: str | None) -> Vocabulary:
    """Return the vocabulary of a variant; None: the kind's first variant. Raises ValueError for an unknown variant."""
    return VOCABULARIES[kind][variant_of(kind, variant)]
