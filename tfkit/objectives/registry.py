"""The objectives by their kind: each entry of OBJECTIVES constructs an objective for a model, from the recipe's section `objective`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfkit.data import Rows
from tfkit.errors import ModelError
from tfkit.model.config import ModelConfig
from tfkit.objectives import ai_feedback, chat, multiple_choice, reward
from tfkit.objectives.ai_feedback import open_ai_feedback
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.chat import Chat
from tfkit.objectives.classification import Classification
from tfkit.objectives.context import ModelContext, RowOrder, Stored, row_length
from tfkit.objectives.distillation import Distillation, open_teacher
from tfkit.objectives.dpo import open_dpo
from tfkit.objectives.grpo import GRPO
from tfkit.objectives.masked_lm import MaskedLM
from tfkit.objectives.multi_label import MultiLabel
from tfkit.objectives.multiple_choice import MultipleChoice
from tfkit.objectives.objective import Objective
from tfkit.objectives.ppo import PPO
from tfkit.objectives.question_answering import QuestionAnswering
from tfkit.objectives.reward import open_reward
from tfkit.objectives.rollouts import PromptRows
from tfkit.objectives.span_corruption import open_span_corruption
from tfkit.objectives.tagging import Tagging
from tfkit.objectives.text_regression import Regression
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.reading.validate import tags
from tfkit.recipe.schema.objective_facts import ObjectiveSection, declared, judges_only
from tfkit.recipe.schema.objective_sections import DistillationSection
from tfkit.recipe.schema.sections import Recipe, rebuild_recipe
from tfkit.tokenizer import Tokenizer


class Registered(NamedTuple):
    """The two functions of a kind of objective, which construct the objective and its tokenizer."""

    open: Callable[[Any, ModelContext], Objective]  # raises ModelError if the section does not fit the model
    fit_tokenizer: Callable[..., Tokenizer] = lambda section, tokenizer, is_finished: tokenizer  # adds special tokens; by default none


def _open_text_labelling(section: Any, context: ModelContext) -> Objective:
    start_id = context.tokenizer.start_id if context.is_encoder_decoder else None
    if context.is_encoder_decoder and start_id is None:
        raise ModelError("an encoder-decoder needs a start token for its decoder, bos or pad, and the tokenizer has none")
    if section.problem_type == "regression":
        return Regression(section, context.tokenizer, context.row_length, start_id)
    objective = MultiLabel if section.kind == "multi_label" else Classification
    return objective(section, context.tokenizer, context.labels, context.row_length, start_id)


def _open_distillation(section: DistillationSection, context: ModelContext) -> Distillation:
    base: Any = open_objective(section.of, context)  # a Distillable: the schema admits no other kind in `of`
    return Distillation(section, base, open_teacher(section, context))


OBJECTIVES: dict[str, Registered] = {
    "causal_lm": Registered(lambda section, to: CausalLM(section.documents, to.tokenizer.eos_id)),
    "masked_lm": Registered(lambda section, to: MaskedLM(section, to.tokenizer, to.seed)),
    "classification": Registered(_open_text_labelling),
    "multi_label": Registered(_open_text_labelling),
    "tagging": Registered(lambda section, to: Tagging(section, to.tokenizer, to.labels, to.row_length)),
    "multiple_choice": Registered(lambda section, to: MultipleChoice(section, to.tokenizer, to.row_length), multiple_choice.fit_tokenizer),
    "question_answering": Registered(lambda section, to: QuestionAnswering(section, to.tokenizer, to.row_length)),
    "span_corruption": Registered(open_span_corruption),
    "text_to_text": Registered(lambda section, to: TextToText(section, to.tokenizer, to.row_length)),
    "chat": Registered(lambda section, to: Chat(section, to.tokenizer, to.row_length, to.folder), chat.fit_tokenizer),
    "dpo": Registered(open_dpo),
    "reward": Registered(open_reward, reward.fit_tokenizer),
    "ai_feedback": Registered(open_ai_feedback, ai_feedback.fit_tokenizer),
    "distillation": Registered(_open_distillation),
    "grpo": Registered(GRPO),
    "ppo": Registered(PPO.open),
}


def register(section: type[ObjectiveSection], registered: Registered) -> None:
    """Add an objective from outside the package, so that recipes and all commands of this process accept its kind."""
    declared(section)
    rebuild_recipe()
    (kind,) = tags(section)
    OBJECTIVES[kind] = registered


def open_objective(section: ObjectiveSection, context: ModelContext) -> Objective:
    """Construct the objective of a section for a model. Raises ModelError if the section does not fit the model."""
    return _registered(section).open(section, context)


def objective_tokenizer(section: ObjectiveSection, tokenizer: Tokenizer, *, is_finished: bool) -> Tokenizer:
    """Add the objective's special tokens to a tokenizer. Raises UsageError if it is unfit. `is_finished`: this run did not train it."""
    return _registered(section).fit_tokenizer(section, tokenizer, is_finished=is_finished)


def _registered(section: ObjectiveSection) -> Registered:
    """Return the functions of the section's objective. Raises UsageError for a kind that can only be evaluated, not trained."""
    if section.scored_by == "likelihood":
        raise judges_only(section)
    return OBJECTIVES[section.kind]


def open_rows(recipe: Recipe, objective: Objective, stored: Sequence[tuple[Stored, float]], config: ModelConfig) -> Rows:
    """Return the rows of the sources `stored`; prompts, if the objective samples responses. Raises DataError for too little text."""
    rows = objective.open_rows(stored, row_order(recipe, config))
    return rows if objective.rollouts is None else PromptRows(rows, objective.rollouts)


def row_order(recipe: Recipe, config: ModelConfig) -> RowOrder:
    """Return how a recipe cuts and orders rows for a model."""
    length = row_length(recipe.data.sequence_length, config)
    return RowOrder(length, recipe.training.seed, recipe.training.batch_size, recipe.data.length_groups)
