"""The kinds of output layers on top of the hidden states."""

from typing import Annotated, Literal

from pydantic import Field

from tfkit.model.config.sizes import Data, Factor, Rows


class LanguageModelHeadConfig(Data):
    """A logit for each entry of the vocabulary."""

    kind: Literal["lm"] = "lm"
    tied: bool = Field(description="Whether the output matrix is the token embedding.")
    bias: bool = Field(False, description="A bias for each entry (Marian).")
    scale: Factor | None = Field(None, description="Multiplies the hidden states (T5 1.0: 1 / sqrt(dim)); null: 1.")
    softcap: Factor | None = Field(None, description="Logits become cap * tanh(logit / cap) (Gemma 2); null: no cap.")
    choices: bool = Field(False, description="Add a score for the whole sequence, to choose among several (GPT).")


class MaskedLanguageModelHeadConfig(Data):
    """A logit for each entry of the vocabulary, after a dense layer with the MLP's activation and a norm; with a bias (BERT)."""

    kind: Literal["masked_lm"]
    tied: bool = Field(description="Whether the output matrix is the token embedding.")
    dense_bias: bool = Field(True, description="A bias of the dense layer.")
    next_sentence: bool = Field(
        False, description="Add an output at the first token that predicts whether the second text follows the first."
    )


class ClassesHeadConfig(Data):
    """A logit for each class of a whole text, or the text's value if there is one class."""

    kind: Literal["classes"]
    count: Rows = Field(description="Number of classes; 1: a number is predicted (regression, a reward).")
    pool: Literal["first", "last", "mean"] = Field(
        description="The hidden state that is read: of the first token, of the last token that is not padding, or the mean without padding."
    )
    dense: Literal["tanh", "relu", "gelu", "normed"] | None = Field(
        None,
        description="A dense layer before the output layer, with this activation (BERT tanh, DistilBERT relu, ELECTRA gelu). normed: "
        "without a bias, with the MLP's activation and a norm (ModernBERT).",
    )
    bias: bool = Field(False, description="A bias for each class.")


class TagsHeadConfig(Data):
    """A logit for each tag, at every token."""

    kind: Literal["tags"]
    count: Rows = Field(description="Number of tags.")
    dense: Literal["normed"] | None = Field(None, description="A dense layer before the output layer, as in a head for classes.")


class SpansHeadConfig(Data):
    """Two logits at every token: for an answer that begins there, and for one that ends there."""

    kind: Literal["spans"]
    dense: Literal["normed"] | None = Field(None, description="A dense layer before the output layer, as in a head for classes.")


class NoHeadConfig(Data):
    """No head: the model returns hidden states."""

    kind: Literal["none"]
    pooler: bool = Field(False, description="Add a vector for the whole text: a dense layer with tanh on the first token's state (BERT).")


HeadConfig = Annotated[
    LanguageModelHeadConfig | MaskedLanguageModelHeadConfig | ClassesHeadConfig | TagsHeadConfig | SpansHeadConfig | NoHeadConfig,
    Field(discriminator="kind"),
]
