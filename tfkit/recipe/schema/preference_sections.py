"""The sections of the objectives that learn from preferences among the completions of a prompt."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tfkit.recipe.schema.bounds import NewTokens, Positive
from tfkit.recipe.schema.objective_facts import ObjectiveSection, declared
from tfkit.recipe.schema.roles import Role

# The recognised column names of each role, in order of preference.
_TURNS = ("messages", "conversations", "conversation")
_OF_PROMPT = ("prompt", *_TURNS, "question", "instruction", "query", "input")
_OF_COMPLETION = ("completion", "response", "answer", "output", *_TURNS)
_OF_COMPLETIONS = ("completions", "responses", "answers")
_CHOSEN = ("chosen_response", "response_chosen", "preferred_response", "answer_chosen", "winner", "chosen_answer")
_REJECTED = ("rejected_response", "response_rejected", "dispreferred_response", "answer_rejected", "loser", "rejected_answer")
_FIRST = ("response_a", "answer_a", "completion_a", "output_a", "conversation_a")
_SECOND = ("response_b", "answer_b", "completion_b", "output_b", "conversation_b")
_LATER_FIRST = ("response_1", "answer_1", "completion_1", "output_1")
_LATER_SECOND = ("response_2", "answer_2", "completion_2", "output_2")
_VOTES = ("preferred", "better", "vote", "annotations", "preferred_response", "label", "labels")

PROMPT = Role("prompt", "turns", _OF_PROMPT, required=False, later=("problem", "history"))
_COMPLETION = Role("completion", "turns", _OF_COMPLETION, shape="unpaired", in_input=False, later=("reply", "assistant"))
_COMPLETIONS = Role("completions", "completions", _OF_COMPLETIONS, shape="ranked", in_input=False, later=("candidates",))
PREFERENCE_ROLES = (
    PROMPT,
    Role("chosen", "turns", ("chosen", "preferred", "better"), shape="pair", in_input=False, later=_CHOSEN),
    Role("rejected", "turns", ("rejected", "dispreferred", "worse"), shape="pair", in_input=False, later=_REJECTED),
    _COMPLETIONS,
    Role("ranks", "numbers", ("ranks", "rank", "ranking"), shape="ranked"),
    _COMPLETIONS._replace(shape="scored"),
    Role("scores", "numbers", ("scores", "score", "ratings"), shape="scored"),
    Role("response_a", "turns", _FIRST, shape="compared", in_input=False, later=_LATER_FIRST, is_later=True),
    Role("response_b", "turns", _SECOND, shape="compared", in_input=False, later=_LATER_SECOND, is_later=True),
    Role("winner", "votes", ("winner", "votes", "preference", "choice"), shape="compared", later=_VOTES, is_later=True),
    _COMPLETION,
    Role("label", "label", ("label", "is_good", "desirable"), shape="unpaired", later=("thumbs_up", "is_chosen")),
)
_CHAT = (
    "true: texts are turns of a conversation and go through the checkpoint's chat template, as messages do. false: they stay as they are."
)


@declared
class RewardSection(ObjectiveSection):
    """Give each completion of a prompt a reward, a number that is higher for better completions (InstructGPT, arXiv 2203.02155).

    A row is a prompt with a chosen and a rejected completion; with two responses and the votes for one of them; with several completions
    that are ranked (1 is the best) or scored (more is better); or with one completion that is labelled good or bad. Labelled completions
    of the same prompt are compared. Prompts and completions are texts or messages.
    """

    kind: Literal["reward"]
    every_token: bool = Field(
        False,
        description="true: completions are compared at each of their tokens, as if truncated there, instead of only at their ends; "
        "better for scores of truncated responses and of prefixes (arXiv 2110.14168, 4.2).",
    )
    chat: bool = Field(False, description=_CHAT)

    roles: ClassVar[tuple[Role, ...]] = PREFERENCE_ROLES
    head: ClassVar[str] = "classes"
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin", "calibration")

    @property
    def has_labels(self) -> bool:
        """False, because a reward is a number, not a class."""
        return False

    @property
    def asked_roles(self) -> tuple[Role, ...]:
        """The prompt and one completion."""
        return (PROMPT, _COMPLETION._replace(shape=None, in_input=True))


@declared
class DPOSection(ObjectiveSection):
    """Make better completions of a prompt more probable than worse ones, relative to the initial model (arXiv 2305.18290).

    Rows have the same forms as for a reward model. The loss is the paper's; in it, the log-probability of a completion is the sum over all
    of the completion's tokens.
    """

    kind: Literal["dpo"]
    beta: Positive = Field(0.1, description="Weight of the KL from the initial model: the smaller it is, the further the model may move.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Fraction of the preferences that are assumed to be wrong (conservative DPO)."
    )
    chat: bool = Field(False, description=_CHAT)

    roles: ClassVar[tuple[Role, ...]] = PREFERENCE_ROLES
    reads_text: ClassVar[bool] = False
    has_baselines: ClassVar[bool] = True
    needs_start: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "margin", "reward_chosen", "reward_rejected")


@declared
class AIFeedbackSection(ObjectiveSection):
    """Learn from preferences that a judge model gives: a policy samples several responses to each prompt, and the scores of a judge decide
    which of them are better. InstructGPT's reward model learned from people's rankings of the policy's own responses; here a classifier
    ranks them (Gao et al. 2022, arXiv 2210.10760; RLAIF, arXiv 2309.00267).

    A row is a prompt. The responses are sampled and judged once, before the first step, and are kept in tfkit's cache.
    """

    kind: Literal["ai_feedback"]
    policy: str = Field(
        min_length=1, description="The language model that samples the responses; its tokenizer is that of the trained model."
    )
    policy_sha256: str | None = Field(None, description="Required SHA-256 of its config and weights; null: any.")
    judge: str = Field(
        min_length=1,
        description="A text classifier with any tokenizer; the score of a response is the probability of the classifier's last class for "
        "prompt and response.",
    )
    judge_sha256: str | None = Field(None, description="Required SHA-256 of its config and weights; null: any.")
    of: Annotated[RewardSection | DPOSection, Field(discriminator="kind")] = Field(
        description="The objective that learns from the preferences, with its fields: {kind: reward, every_token: true}, {kind: dpo}."
    )
    completions: Annotated[int, Field(ge=2, le=64)] = Field(4, description="Responses to each prompt; all pairs of them are compared.")
    temperature: Positive = Field(1.0, description="Divides the logits when responses are sampled.")
    max_new_tokens: NewTokens = Field(64, description="Largest number of tokens of a response, including the token that ends it.")

    roles: ClassVar[tuple[Role, ...]] = (PROMPT._replace(required=True, columns=(*PROMPT.columns, "text")),)
    reads_text: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = RewardSection.metrics
    companions: ClassVar[Mapping[str, bool]] = {"policy": False, "judge": False}
    companion_heads: ClassVar[Mapping[str, str]] = {"policy": "lm", "judge": "classes"}

    @property
    def trained_for(self) -> ObjectiveSection:
        """The objective `of`, by which the trained model is evaluated."""
        return self.of

    @property
    def saved_kind(self) -> str:
        """The kind of the objective section `of`."""
        return self.of.kind
