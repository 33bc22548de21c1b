"""AI feedback: a policy's responses to each prompt, ranked by a judge, are the preferences that a reward model or DPO learns from.

The recipe's `objective.of` is the section of the objective that learns, reward or dpo; this module loads the policy and the judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tfkit.objectives import reward
from tfkit.objectives.companion import Companion, open_companion, refuse_misfit
from tfkit.objectives.context import ModelContext
from tfkit.objectives.dpo import DPO, open_dpo
from tfkit.objectives.reward import Reward, open_reward
from tfkit.objectives.rollouts import GroupBaseline, PromptEncoder, Rollouts
from tfkit.objectives.score_model import GoldModel, gives_same_ids
from tfkit.recipe.schema.preference_sections import AIFeedbackSection, RewardSection
from tfkit.recipe.schema.rollout_sections import GRPOSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.conversations import end_ids


@dataclass(frozen=True)
class Feedback:
    """The models and settings by which examples of preferences are made from prompts."""

    policy: Companion
    judge: GoldModel
    prompts: PromptEncoder
    rollouts: Rollouts  # how the policy's responses are sampled; its field `gold` is the judge
    seed: int

    @property
    def companions(self) -> Sequence[Companion]:
        """The models that make the examples, and take no part in training steps."""
        return (self.policy, self.judge.companion)


def open_ai_feedback(section: AIFeedbackSection, context: ModelContext) -> Reward | DPO:
    """Construct the objective that learns, with the `feedback` that makes its examples. Raises ModelError for an unfit policy or judge."""
    objective = open_reward(section.of, context) if isinstance(section.of, RewardSection) else open_dpo(section.of, context)
    policy = open_companion(section, "policy")
    _check_policy(policy, context)
    sampled = {name: getattr(section, name) for name in ("completions", "temperature", "max_new_tokens")}
    rollout = GRPOSection(kind="grpo", chat=section.of.chat, **sampled)
    prompts, judge = PromptEncoder(rollout, context), GoldModel(open_companion(section, "judge"))
    assert policy.tokenizer is not None, "_check_policy raises otherwise"
    writer = replace(context.tokenizer, stated_end_ids=end_ids(policy.tokenizer))  # responses also end at the policy's end ids
    rollouts = Rollouts(rollout, writer, GroupBaseline(is_scaled=False), gold=judge)
    objective.feedback = Feedback(policy, judge, prompts, rollouts, context.seed)
    return objective


def fit_tokenizer(section: AIFeedbackSection, tokenizer: Tokenizer, *, is_finished: bool) -> Tokenizer:
    """Return the tokenizer for the objective that learns: with a padding token for a reward model, unchanged for DPO."""
    return reward.fit_tokenizer(section.of, tokenizer, is_finished=is_finished) if isinstance(section.of, RewardSection) else tokenizer


def _check_policy(policy: Companion, context: ModelContext) -> None:
    """Raise ModelError, with all reasons, if the policy cannot write texts for the model that is trained."""
    config, reasons = policy.model.config, []
    if config.encoder_layers or config.head.kind != "lm":
        reasons.append("it does not continue a text: name a language model with a decoder alone")
    if policy.tokenizer is None:
        reasons.append("it has no tokenizer.json, so the tokens of its ids are not known")
    elif not gives_same_ids(context.tokenizer, policy.tokenizer):
        reasons.append("its tokenizer is not that of the model: train both from the same checkpoint")
    if config.context_length < context.row_length and config.position.kind != "relative":
        reasons.append(f"its context_length is {config.context_length:,}, and the model reads rows of {context.row_length:,} tokens")
    refuse_misfit(policy, "write for this model", reasons)
