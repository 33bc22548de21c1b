"""PPO: credit, values, scores and gradients against formulas and in real steps, the mix of pretraining text, and restored trainings."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_rollouts import END, LETTERS, LONGEST, PROMPTS, RULES, SIZES, PPOWorld, codec, critic, policy, pretraining_text

from tfkit.alignment.advantages import token_credit
from tfkit.alignment.response_sampling import SampledResponse, sample
from tfkit.data import PackedRows
from tfkit.engine.assembly.training_state import companion_tensors, load_companion_tensors
from tfkit.errors import ModelError
from tfkit.generation.inference import inference
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.context import ModelContext
from tfkit.objectives.log_probs import response_log_probs
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.ppo import clipped_value_loss
from tfkit.objectives.rollouts import Response, response_batch
from tfkit.objectives.score_model import gives_same_ids, score_model
from tfkit.tokenizer import Tokenizer


def test_a_table_of_ends_by_hand() -> None:
    """The responses have 1, 2 and 3 tokens, and values, ratios and scores that make every return and advantage a short sum."""
    ratios = [torch.tensor([0.2]), torch.tensor([0.4, -0.2]), torch.tensor([0.0, 0.2, 0.4])]
    values = [torch.tensor([0.5]), torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5, 1.0])]
    scores = torch.tensor([1.0, 2.0, -1.0])
    found = token_credit(scores, ratios, values, beta=0.5, gamma=1.0, gae_lambda=1.0)
    by_hand = [[0.9], [1.9, 2.1], [-1.3, -1.3, -1.2]]
    for returns, expected in zip(found.returns, by_hand, strict=True):
        assert returns.tolist() == pytest.approx(expected)
    plain = torch.tensor([0.4, 0.9, 1.6, -1.3, -1.8, -2.2], dtype=torch.float64)  # returns less values
    white = (plain - plain.mean()) / plain.std(correction=0)
    assert torch.cat(found.advantages).tolist() == pytest.approx(white.tolist(), abs=1e-6)
    spread = torch.tensor([0.9, 1.9, 2.1, -1.3, -1.3, -1.2], dtype=torch.float64).var(correction=0)
    assert found.explained_variance == pytest.approx(1 - float(plain.var(correction=0) / spread))
    error = token_credit(scores, ratios, values, beta=0.5, gamma=0.9, gae_lambda=0.0)  # the TD error
    assert error.returns[1].tolist() == pytest.approx([-0.2 + 0.9 * 0.5, 2.1])
    one = token_credit(torch.tensor([1.0]), [torch.zeros(1)], [torch.zeros(1)], beta=0.1, gamma=1.0, gae_lambda=0.95)
    assert (one.advantages[0].tolist(), one.returns[0].tolist(), one.explained_variance) == ([0.0], [1.0], None)


def test_one_real_token_gives_numbers() -> None:
    found = token_credit(torch.tensor([1.0]), [torch.zeros(1)], [torch.zeros(1)], beta=0.1, gamma=1.0, gae_lambda=0.95)
    assert (found.advantages[0].tolist(), found.returns[0].tolist(), found.explained_variance) == ([0.0], [1.0], None)


def test_a_value_model_holds_the_rows_of_the_policy() -> None:
    assert critic(texts=9, context_length=9).companion.model.config.context_length == 9
    with pytest.raises(ModelError, match="its context_length is 9, and the policy's texts have up to 10 tokens"):
        critic(texts=10, context_length=9)


def test_the_value_of_the_last_token_is_the_score() -> None:
    """This holds before the first step; both include the shift of the reward model."""
    value = critic(shift=0.25)
    ids = torch.tensor([[1, 0, 2, 3, 0], [2, 2, 1, 0, 3]])
    mask = torch.arange(5) < torch.tensor([[4], [5]])
    last = torch.arange(5) == torch.tensor([[3], [4]])
    batch = Batch(ids, torch.where(last, 0, IGNORED), padding_mask=mask)
    assert torch.equal(value.values(batch), value.scores(batch))
    raw = value.companion.model(ids, padding_mask=mask).logits[:, 0]
    torch.testing.assert_close(value.scores(batch), raw - 0.25)


def test_a_reward_model_scores_the_prompt_with_its_response(tmp_path: Path) -> None:
    """Its score, of all tokens with the end token, is added to the rules' reward; a score of NaN is an error that names the row."""
    world = PPOWorld(tmp_path, PROMPTS, rules=RULES, no_eos_reward=-3.0, **SIZES)
    rollouts = replace(world.objective.rollouts, reward=critic())
    prompts = world.rollouts.rows.gather(np.zeros(4, np.int64), np.arange(4)).single()

    def drawn() -> list[SampledResponse]:
        return sample(world.policy, prompts, rollouts, world.rollouts.rules, completions=4, seed=1, batch_size=8)

    for one in drawn():
        ids = torch.tensor([one.prompt + one.ids])
        text = "".join(LETTERS[token] for token in one.ids if token != END)
        score = float(rollouts.reward.scores(Batch(ids, torch.full_like(ids, IGNORED))).detach())
        assert one.reward == pytest.approx(0.7 + ("b" in text) + score if one.ended else -3.0, abs=1e-5)
    with torch.no_grad():
        next(rollouts.reward.companion.model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match=r"prompts.jsonl:\d+: the reward model made scores a response to this prompt nan"):
        drawn()


def test_a_tokenizer_with_a_token_for_padding_gives_the_same_ids() -> None:
    ours = codec()
    padded = ours.with_special_tokens(["<pad>"])
    assert gives_same_ids(padded, ours)
    assert not gives_same_ids(ours, padded)
    document = json.loads(ours.tokenizer_json)
    document["model"]["vocab"] |= {"a": 1, "b": 0}
    other = Tokenizer.from_json(json.dumps(document), ours.settings)
    assert not gives_same_ids(other, ours)
    context = ModelContext(policy().config, ours, [], 1, Path("policy"))
    for tokenizer, reason in ((None, "it has no tokenizer.json"), (other, "its tokenizer is not that of the policy")):
        with pytest.raises(ModelError, match=reason):
            score_model(replace(critic().companion, tokenizer=tokenizer), context)


def test_the_value_loss_by_its_formula() -> None:
    values = torch.tensor([1.0, 1.0, -1.0], requires_grad=True)
    found = clipped_value_loss(values, torch.tensor([0.9, 0.5, -0.5]), torch.tensor([2.0, 0.0, 0.0]), 0.2)
    # Clipped: 1.0 (inside), 0.7, -0.7, against returns 2, 0, 0: the larger of both squares.
    assert float(found["value"].detach()) == pytest.approx(0.5 * (1.0 + max(1.0, 0.49) + max(1.0, 0.49)))
    found["value"].backward()
    assert values.grad.tolist() == pytest.approx([-1.0, 1.0, -1.0])
    nearer = clipped_value_loss(torch.tensor([0.1]), torch.tensor([0.5]), torch.tensor([0.0]), 0.2)
    assert (float(nearer["value"]), int(nearer["value_clip_fraction"])) == (pytest.approx(0.5 * 0.09), 1)


def gradients(world: PPOWorld) -> dict[str, torch.Tensor]:
    """Return the gradient of the policy in a real step, before clipping."""
    kept: dict[str, torch.Tensor] = {}
    for name, parameter in world.policy.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda one, name=name: kept.__setitem__(name, one.grad.clone()))
    world.take(1)
    return kept


def test_text_adds_its_gradient_by_its_weight(tmp_path: Path) -> None:
    """The gradient with text is that of PPO alone, plus 27.8 times that of a language model on the same rows of text."""
    weight, ratio = 27.8, 3
    mixed = gradients(PPOWorld(tmp_path, PROMPTS, ptx_weight=weight, ptx_ratio=ratio, **SIZES))
    alone = gradients(PPOWorld(tmp_path, PROMPTS, **SIZES))
    objective, model = CausalLM(separator_id=3), policy().eval()
    rows = PackedRows([(pretraining_text(), 1.0)], 16, 1)
    batch = objective.collate(rows.gather(np.zeros(24, np.int64), rows.order(0)[: 8 * ratio]))
    (objective.loss(model, batch)["lm"] / objective.counts(batch)["lm"]).backward()
    for name, parameter in model.named_parameters():
        of_text = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(mixed[name], alone[name] + weight * of_text, atol=2e-5, rtol=1e-4, msg=name)


def test_the_value_model_has_a_rate_and_a_clip_of_its_own(tmp_path: Path) -> None:
    world = PPOWorld(tmp_path, PROMPTS, value_lr=3e-4, **SIZES)
    assert world.companions["value"].optimizer.section.lr == 3e-4
    assert world.take(1)[0].all_observed["value_grad_norm"] > 0


def test_beta_follows_its_target(tmp_path: Path) -> None:
    """It grows by a fifth of responses / horizon if the KL is far above the target, and falls by as much at the reference."""
    world = PPOWorld(tmp_path, PROMPTS, beta=0.1, kl_target=0.01, kl_horizon=100.0, lr=3e-2, **SIZES)
    betas = [(world.take(1, first=step), world.loader.observed()["beta"])[1] for step in range(6)]
    first, grown = 0.1 * (1 - 0.2 * 16 / 100), 0.1 * (1 - 0.2 * 16 / 100) * (1 + 0.2 * 16 / 100)
    assert betas[::2] == pytest.approx([0.1, first, grown])  # at the reference first, then beyond the target


@pytest.mark.thorough
def test_a_restored_training_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    """Stopped within an iteration or between two, it restores weights and moments of both models, beta, and the responses."""
    fields = {"inner_epochs": 2, "ptx_weight": 1.0, "kl_target": 0.1, "kl_horizon": 50.0, **SIZES}
    whole = PPOWorld(tmp_path, PROMPTS, **fields)
    reports = whole.take(6)
    for stop in (1, 3, 4):
        begun, again = PPOWorld(tmp_path, PROMPTS, **fields), PPOWorld(tmp_path, PROMPTS, **fields)
        begun.take(stop)
        again.weights.load(dict(begun.weights.master))
        again.stepper.optimizer.load_state(begun.stepper.optimizer.state())
        load_companion_tensors(again.companions, companion_tensors(begun.companions))
        tensors, state = begun.loader.state(stop)
        assert bool(tensors) == (stop % 4 != 0)
        again.loader.restore(tensors, state)
        assert again.take(6 - stop, first=stop) == reports[stop:]
        assert math.isfinite(again.loader.observed()["beta"])


def test_credit_is_in_its_place(tmp_path: Path) -> None:
    """With lambda 1, a token's return is the score at the end, or no_eos_reward without one, less beta times k1 from the token on."""
    beta = 0.3
    world = PPOWorld(tmp_path, PROMPTS, gae_lambda=1.0, beta=beta, no_eos_reward=-2.0, rules=RULES, **SIZES)
    lengths = set()
    for iteration in range(3):
        responses = world.rollouts._of_step(2 * iteration).responses
        batch = response_batch([replace(one, token_values={}) for one in responses], 0)
        with inference(world.policy):
            own = response_log_probs(world.policy, batch).double()
        with world.reference.in_use() as reference:
            ratios = own - response_log_probs(reference, batch).double()
        for one, k1 in zip(responses, ratios.split([len(one.ids) for one in responses]), strict=True):
            text = "".join(LETTERS[token] for token in one.ids if token != END)
            score = 0.7 + ("b" in text) if one.ids[-1] == END else -2.0
            expected = score - beta * k1.flip(0).cumsum(0).flip(0)
            assert one.token_values["returns"] == pytest.approx(expected.numpy(), abs=1e-5)
            lengths.add((len(one.ids), bool(one.ids[-1] == END)))
        advantages = np.concatenate([one.token_values["advantages"] for one in responses])
        assert (advantages.mean(), advantages.var()) == pytest.approx((0, 1), abs=1e-5)  # white over all tokens of an iteration
        for step in (2 * iteration, 2 * iteration + 1):
            for micro_batch in world.loader.step(step):
                masked = micro_batch.labels == IGNORED
                assert all(not values[masked].any() for values in micro_batch.extras.values())
                ends = (micro_batch.input_ids == END).sum(1) - (micro_batch.labels == END).sum(1)
                assert not ends.any(), "an end has no loss"
            world.stepper.take(step + 1, world.loader.step(step), 1.0)
    assert lengths == {(1, True), (2, True), (3, True), (LONGEST, False)}  # the end in the first, a middle, the last place, and absent


def test_values_are_those_before_a_token() -> None:
    """The last token of a response changes no value, and the token before it changes only the last value."""
    value, prompt = critic(), np.array([1, 2])
    batches = (response_batch([Response(prompt, np.array(ids), {})], 0) for ids in ([0, 1, 2], [0, 1, END], [0, 0, 2]))
    one, other, another = map(value.values, batches)
    assert torch.equal(one, other)
    assert torch.equal(one[:2], another[:2])
    assert not torch.isclose(one[2], another[2], atol=1e-3)


def test_any_cut_is_the_same_step(tmp_path: Path) -> None:
    """Losses, observations and weights of a whole iteration, with pretraining text, do not depend on the micro-batches."""
    mixed = {"ptx_weight": 2.0, "ptx_ratio": 2, "prompts": 4, "completions": 4, "batch_size": 8, "lr": 1e-3}
    found = []
    for micro in (8, 4, 1):
        world = PPOWorld(tmp_path, PROMPTS, micro=micro, **mixed)
        found.append((world.take(2), dict(world.weights.master)))
    (wanted, wanted_weights), *others = found
    for reports, weights in others:
        for one, other in zip(reports, wanted, strict=True):
            assert one.losses == pytest.approx(other.losses, abs=1e-4)
            assert one.all_observed == pytest.approx(other.all_observed, abs=1e-3)
        torch.testing.assert_close(weights, wanted_weights, atol=2e-4, rtol=0)
