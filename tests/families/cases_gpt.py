"""GPT and the further heads of GPT-2."""

from tiny_references import Case
from transformers import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
)

_SIZES = {"vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "bos_token_id": 0, "eos_token_id": 0}
_CLASSES = {**_SIZES, "pad_token_id": 1, "num_labels": 5}
CASES = {
    "gpt": Case(OpenAIGPTLMHeadModel, OpenAIGPTConfig(**_SIZES)),
    "gpt untied": Case(OpenAIGPTLMHeadModel, OpenAIGPTConfig(**_SIZES, tie_word_embeddings=False)),
    "gpt with relu": Case(OpenAIGPTLMHeadModel, OpenAIGPTConfig(**_SIZES, afn="relu")),
    "gpt with two heads": Case(OpenAIGPTDoubleHeadsModel, OpenAIGPTConfig(**_SIZES)),
    "gpt for classes": Case(OpenAIGPTForSequenceClassification, OpenAIGPTConfig(**_CLASSES)),
    "gpt2 with two heads": Case(GPT2DoubleHeadsModel, GPT2Config(**_SIZES)),
    "gpt2 for classes": Case(GPT2ForSequenceClassification, GPT2Config(**_CLASSES)),
    "gpt2 for tags": Case(GPT2ForTokenClassification, GPT2Config(**_SIZES, num_labels=5, classifier_dropout=0.2)),
    "gpt2 for a reward": Case(GPT2ForSequenceClassification, GPT2Config(**_CLASSES | {"num_labels": 1})),
}
