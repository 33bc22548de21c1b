"""The sections of the objectives that learn from responses sampled from the model."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tfkit.recipe.schema.bounds import BatchSize, NewTokens, Positive, RewardValue, Weight
from tfkit.recipe.schema.objective_facts import Contradiction, ObjectiveSection, ScoredBy, declared
from tfkit.recipe.schema.reward_rules import PythonRule, Rule
from tfkit.recipe.schema.roles import Role

if TYPE_CHECKING:
    from tfkit.recipe.schema.sections import Recipe

ClipRange = Annotated[
    Positive,
    Field(le=1, description="The ratio of a token's new and old probability is clipped to the interval from 1 - this to 1 + this."),
]
_PROMPTS = ("prompt", "messages", "conversations", "conversation", "question", "problem", "query", "instruction", "input", "text")
_ANSWERS = ("answer", "answers", "solution", "ground_truth", "target", "label", "output")


class RolloutSection(ObjectiveSection):
    """The fields of all objectives on sampled responses. An iteration draws prompts, samples and rewards responses to them, and takes
    prompts * completions * inner_epochs / training.batch_size training steps on these responses.
    """

    rules: list[Rule] = Field(
        [], description="The rules of which the reward is the weighted sum: [{kind: number}, {kind: regex, pattern: ...}]."
    )
    reward: str | None = Field(
        None,
        min_length=1,
        description="A reward model, whose score of a prompt with its response is added to the reward of the rules; null: none.",
    )
    reward_sha256: str | None = Field(None, description="Required SHA-256 of its config and weights; null: any.")
    gold: str | None = Field(
        None,
        min_length=1,
        description="A text classifier that scores responses only for the log and for evaluations, by the probability of its last "
        "class: if this score falls while the reward rises, the policy exploits the reward. null: none.",
    )
    gold_sha256: str | None = Field(None, description="Required SHA-256 of its config and weights; null: any.")
    chat: bool = Field(
        False,
        description="true: a prompt that is a text is the turn of a user, and is formatted by the checkpoint's chat template, as messages "
        "are. false: it is continued as it is.",
    )
    prompts: BatchSize = Field(16, description="Number of prompts of an iteration; the responses are sampled before its first step.")
    completions: BatchSize = Field(8, description="Number of responses to each prompt.")
    inner_epochs: Annotated[int, Field(ge=1, le=1_000)] = Field(1, description="Number of passes over the responses of an iteration.")
    temperature: Positive = Field(1.0, description="Divides the logits in sampling, and in all log-probabilities of the training.")
    max_new_tokens: NewTokens = Field(64, description="Largest number of tokens of a response, including the token that ends it.")
    no_eos_reward: RewardValue | None = Field(
        None, description="Replaces the reward of a response that reaches max_new_tokens without an end token; null: the reward is kept."
    )
    beta: Weight = Field(
        0.0, description="Weight of the KL from the initial model, log policy - log reference, which is subtracted from the reward."
    )
    kl_limit: Positive | None = Field(
        None, description="Only checkpoints whose kl on held-out prompts, in nats per response, is at most this can be the best; null: all."
    )
    kl_stop: Positive | None = Field(
        None,
        description="End the run (exit code 6) if the kl of an iteration's responses, in nats per response, exceeds this; null: never.",
    )

    roles: ClassVar[tuple[Role, ...]] = (Role("prompt", "turns", _PROMPTS), Role("answer", "literals", _ANSWERS, required=False))
    reads_text: ClassVar[bool] = False
    scored_by: ClassVar[ScoredBy] = "rollout"
    best_by: ClassVar[str] = "reward"
    metrics: ClassVar[tuple[str, ...]] = ("reward", "accuracy", "gold", "kl", "response_length", "ended")
    companions: ClassVar[Mapping[str, bool]] = {"reward": False, "gold": False}
    companion_heads: ClassVar[Mapping[str, str]] = {"reward": "classes", "gold": "classes", "value": "classes"}

    @property
    def training_metrics(self) -> tuple[str, ...]:
        """The metrics, without accuracy if there are no rules, and without gold if there is no gold model."""
        lacking = {*(["accuracy"] if not self.rules else []), *(["gold"] if self.gold is None else [])}
        return tuple(name for name in self.metrics if name not in lacking)

    @property
    def needs_answer(self) -> bool:
        """Whether a rule compares the response with the row's answer."""
        return any(rule.kind in ("exact_answer", "number") or (rule.kind == "contains" and rule.text is None) for rule in self.rules)

    @property
    def code_files(self) -> dict[str, str]:
        """The file of each rule of the kind `python`, by the dotted name of the rule."""
        return {f"objective.rules.{number}": rule.path for number, rule in enumerate(self.rules) if isinstance(rule, PythonRule)}

    def may_be_best(self, metrics: Mapping[str, float]) -> bool:
        """Return whether the KL from the initial model is at most kl_limit; true without a limit."""
        return self.kl_limit is None or metrics.get("kl", 0.0) <= self.kl_limit

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Check that there is a reward, that the responses of an iteration make whole steps, and that each setting has an effect."""
        training, responses = recipe.training, self.prompts * self.completions
        if not self.rules and self.reward is None:
            yield ("objective",), "nothing is rewarded: give objective.rules, or a reward model as objective.reward"
        if responses % training.batch_size:
            yield (
                ("training", "batch_size"),
                f"does not divide the {responses} responses of an iteration, objective.prompts * objective.completions: change one of them",
            )
        if training.batch_ramp is not None:
            yield ("training", "batch_ramp"), f"all steps of {self.kind} have the same size, a part of an iteration: remove it"
        if self.kl_limit is not None and not recipe.data.validation:
            yield ("objective", "kl_limit"), "it applies to held-out prompts: give data.validation, or remove it"


@declared
class GRPOSection(RolloutSection):
    """Group relative policy optimization (DeepSeekMath, arXiv 2402.03300) on verifiable rewards: the advantage of a response is
    relative to the other responses to its prompt. The clipped loss is summed over the tokens of all responses of a step and divided once
    by the number of these tokens (DAPO, arXiv 2503.14476). There is no value model.
    """

    kind: Literal["grpo"]
    completions: Annotated[int, Field(ge=2, le=1 << 17)] = Field(8, description="Number of responses to each prompt, which are compared.")
    clip_range: ClipRange = 0.2
    scale_rewards: Literal["group", "none"] = Field(
        "group",
        description="group: the difference of a reward from the mean of its prompt's rewards is divided by their standard deviation. none: "
        "the difference is not divided (Dr. GRPO).",
    )


@declared
class PPOSection(RolloutSection):
    """Proximal policy optimization on sampled responses, as in InstructGPT (arXiv 2203.02155): a value model estimates the return at each
    token, the KL from the initial model is subtracted from each token's reward, and pretraining text may be mixed in (PPO-ptx). Policy
    and value model have clipped losses, and optimizer steps of their own.

    The paper does not state gae_lambda, the whitening of the advantages, or the clipping of values: these follow the reproduction in
    arXiv 2403.17031, which used 1e-5 for `optimizer.eps`.
    """

    kind: Literal["ppo"]
    value: str | None = Field(
        None, min_length=1, description="The reward model with whose weights the value model starts; null: that of objective.reward."
    )
    value_sha256: str | None = Field(None, description="Required SHA-256 of its config and weights before the first step; null: any.")
    value_lr: Positive | None = Field(None, description="Peak learning rate of the value model; null: optimizer.lr.")
    prompts: BatchSize = Field(64, description="Number of prompts of an iteration; the responses are sampled before its first step.")
    completions: BatchSize = Field(1, description="Number of responses to each prompt.")
    no_eos_reward: RewardValue | None = Field(
        -1.0, description="Replaces the reward of a response that reaches max_new_tokens without an end token; null: the reward is kept."
    )
    beta: Weight = Field(
        0.02, description="Weight of the KL from the initial model, log policy - log reference, in the reward of each token."
    )
    kl_target: Positive | None = Field(
        None,
        description="Change beta after each iteration so that the kl, in nats per response, approaches this (arXiv 1909.08593); null: "
        "beta is constant.",
    )
    kl_horizon: Positive = Field(10_000, description="Number of responses over which beta adapts to kl_target.")
    gamma: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="Discount factor, per token, of later rewards.")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(
        0.95, description="Decay of the errors of later tokens in an advantage (GAE); 1: the advantage is the return minus the value."
    )
    clip_range: ClipRange = 0.2
    value_clip_range: Positive = Field(0.2, description="A new value is clipped to the old value - this and + this.")
    ptx_weight: Weight = Field(
        0.0, description="Weight of the language-model loss on data.pretraining in each step, 27.8 in the paper; 0: no such text is read."
    )
    ptx_ratio: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Number of rows of data.pretraining for each response, 8 in the paper."
    )

    companions: ClassVar[Mapping[str, bool]] = {"reward": False, "gold": False, "value": True}

    @property
    def companion_paths(self) -> dict[str, str]:
        """The path of each companion. If `value` is null, that of the value model is the path of the reward model."""
        paths = super().companion_paths
        if "value" in self.companions and "value" not in paths and self.reward is not None:
            paths["value"] = self.reward
        return paths

    @property
    def reads_pretraining(self) -> bool:
        """Whether ptx_weight is above 0."""
        return self.ptx_weight > 0

    @property
    def trained_for(self) -> ObjectiveSection:
        """The same objective without a value model, which an evaluation does not need."""
        return _EvaluatedPPO.model_validate(self.model_dump())

    def problems(self, recipe: "Recipe", model: dict[str, Any]) -> Iterator[Contradiction]:
        """Check, besides what RolloutSection checks, that the value model can start from a model, and that each setting has an effect."""
        yield from super().problems(recipe, model)
        if self.value is None and self.reward is None:
            yield ("objective", "value"), "there is no reward model from which the value model could start: name one"
        if self.ptx_weight and recipe.data.pretraining is None:
            yield ("objective", "ptx_weight"), "there is no text to weigh: give data.pretraining, or set it to 0"
        fields = PPOSection.model_fields
        if not self.ptx_weight and self.ptx_ratio != fields["ptx_ratio"].default:
            yield ("objective", "ptx_ratio"), "without objective.ptx_weight no text is read: set that, or remove this"
        if self.kl_target is None and self.kl_horizon != fields["kl_horizon"].default:
            yield ("objective", "kl_horizon"), "only objective.kl_target reads it: set that, or remove this"
        if self.kl_target is not None and not self.beta:
            yield ("objective", "beta"), "objective.kl_target multiplies it, so it would stay 0: give an initial beta"


class _EvaluatedPPO(PPOSection):
    """The objective PPO in an evaluation, which needs no value model."""

    companions: ClassVar[Mapping[str, bool]] = {"reward": False, "gold": False}
