"""Classic bugs of preferences, put in on purpose, each with the check that turns red: what a test of the right code is worth.

A mutation replaces a function of the real code by one with the bug; a check is an assertion that other tests of this folder make of it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_examples import examples, losses_and_weights, model
from tiny_preferences import DECODER, SCORER, dpo_objective, paired_rows, ranked_rows, reward_objective, stored, whole_batch
from torch import Tensor

from tfkit.data import Encoded
from tfkit.data.columns import record_columns
from tfkit.data.columns.preference_forms import opening
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import Row
from tfkit.engine.assembly.reference_model import with_reference
from tfkit.engine.listener import Silent
from tfkit.objectives import dpo, reward
from tfkit.objectives.conversation_texts import ConversationTexts
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.preference_rows import PreferenceEncoder, differences
from tfkit.recipe.schema.preference_sections import PREFERENCE_ROLES

Check = Callable[[Path], None]
Mutate = Callable[[pytest.MonkeyPatch], None]


def referenced(folder: Path, objective: Any, rows: list[dict[str, Any]], key: str) -> Any:
    return with_reference(stored(folder, objective, rows), objective, model(DECODER).eval(), f"{folder}{key}", 4, Silent())


# ----------------------------------------------------------------------------------------------------------------- the checks


def dpo_loss_is_the_formula(folder: Path) -> None:
    """Sums over the tokens of a completion, its end included; the chosen one minus the rejected one."""
    objective, policy, reference = dpo_objective(beta=0.3), model(DECODER | {"init": {"std": 0.2}}).eval(), model(DECODER).eval()
    found = referenced(folder, objective, paired_rows(6), "formula")
    batch, codec = whole_batch(found, objective), objective.tokenizer

    def log_probs(of: Any, number: int) -> float:
        ids = batch.input_ids[number][: int(np.concatenate([found[place]["sizes"] for place in range(6)])[number])]
        prompt = len(codec.prefix) + len(codec.encode_bare([paired_rows(6)[number // 2]["prompt"]])[0])
        values = of(ids[None]).logits[0].log_softmax(-1)
        return sum(float(values[place - 1, ids[place]]) for place in range(prompt, len(ids)))

    with torch.no_grad():
        ratios = [log_probs(policy, number) - log_probs(reference, number) for number in range(12)]
        expected = sum(math.log1p(math.exp(-0.3 * (better - worse))) for better, worse in zip(ratios[::2], ratios[1::2], strict=True))
        assert float(objective.loss(policy, batch)["dpo"]) == pytest.approx(expected, rel=1e-4)
        assert objective.rewards(policy, batch).tolist() == pytest.approx([0.3 * ratio for ratio in ratios], abs=1e-3)


def dpo_loss_is_ln_2_in_the_first_step(folder: Path) -> None:
    """In a real step: the policy draws no dropout, and the reference read the rows by the same weights."""
    objective = dpo_objective(beta=1.0)
    rows = stored(folder, objective, paired_rows(8))
    first = model(DECODER | {"init": {"std": 0.1}}).eval()
    found = with_reference(rows, objective, first, f"{folder}first", 4, Silent())
    losses, _ = losses_and_weights(DECODER, found, objective, 4, steps=1)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)


def reward_loss_is_the_mean_over_prompts(folder: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(folder, objective, ranked_rows(9))
    batch = whole_batch(found, objective)
    scores, begin, expected = reward.reward_scores(scorer, batch).tolist(), 0, 0.0
    for number in range(9):
        ranks = found[number]["ranks"].tolist()
        mine = scores[begin : begin + len(ranks)]
        pairs = [mine[i] - mine[j] for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
        expected += sum(math.log1p(math.exp(-margin)) for margin in pairs) / len(pairs)
        begin += len(ranks)
    assert objective.loss(scorer, batch)["reward"].item() == pytest.approx(expected, rel=1e-5)


def a_score_is_read_at_the_end_of_its_text(folder: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    together = reward.reward_scores(scorer, whole_batch(stored(folder, objective, ranked_rows(4)), objective))
    alone = [reward.reward_scores(scorer, whole_batch(stored(folder, objective, [row]), objective)) for row in ranked_rows(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-6)


def demonstrations_average_0(folder: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(folder, objective, ranked_rows(6))
    with torch.no_grad():
        objective.shift = objective.facts(scorer, [found], 4)["reward_shift"]
        scores = [result.prediction["scores"][0] for result in objective.predict(scorer, whole_batch(found, objective))]
    assert abs(np.mean(scores)) < 1e-5


def completions_of_a_prompt_are_held_out_together(folder: Path) -> None:
    rows = [Columns(PREFERENCE_ROLES).take(Record({"prompt": "p", "chosen": text, "rejected": "b"}, "rows:1")) for text in ("a", "c")]
    assert len({row.input_key for row in rows if isinstance(row, Row)}) == 1


def the_end_is_in_every_example(folder: Path) -> None:
    objective = dpo_objective()
    one = examples(folder, paired_rows(1), PREFERENCE_ROLES, objective)[0]
    ends = [part[-1] for part in np.split(one["input_ids"], np.cumsum(one["sizes"])[:-1])]
    assert ends == [objective.tokenizer.eos_id] * 2


# -------------------------------------------------------------------------------------------------------------- the mutations


def mean_for_sum(patch: pytest.MonkeyPatch) -> None:
    """The length bias of means over tokens (minimind#451)."""
    sums = dpo.sequence_sums
    patch.setattr(dpo, "sequence_sums", lambda values, labels: sums(values, labels) / (labels != IGNORED).sum(-1))


def end_without_a_loss(patch: pytest.MonkeyPatch) -> None:
    collate = PreferenceEncoder.collate

    def masked(self: PreferenceEncoder, rows: Any, pad_id: int) -> Batch:
        batch = collate(self, rows, pad_id)
        batch.labels[batch.labels == self.texts.tokenizer.eos_id] = IGNORED
        return batch

    patch.setattr(PreferenceEncoder, "collate", masked)


def prompt_with_a_loss(patch: pytest.MonkeyPatch) -> None:
    encoded = PreferenceEncoder._encoded

    def whole(self: PreferenceEncoder, rows: Any, found: Any) -> list[Any]:
        made = [one for one in encoded(self, rows, found) if isinstance(one, Encoded)]
        return [one._replace(arrays={**one.arrays, "prompts": [1] * len(one.arrays["prompts"])}) for one in made]

    def cut(self: PreferenceEncoder) -> str:
        return "mutated"

    patch.setattr(PreferenceEncoder, "_encoded", whole)
    patch.setattr(PreferenceEncoder, "fingerprint", cut)


def sides_swapped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tfkit.objectives.pair_loss.differences", lambda values, batch: -differences(values, batch))


def dropout_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dpo.DPO, "draws_dropout", True)


def reference_with_dropout(patch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def training(of: Any) -> Any:
        with torch.no_grad():
            yield of.train()

    patch.setattr("tfkit.engine.assembly.reference_model.inference", training)


def reference_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dpo.DPO, "rewards", lambda self, policy, batch: self.section.beta * self.reference_values(policy, batch))


def mean_over_pairs(patch: pytest.MonkeyPatch) -> None:
    """Prompts with more completions count for more: the paper's overfitting."""

    def losses(values: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
        return -F.logsigmoid(differences(values, batch)) * int(batch.extras["row"][-1] + 1) / len(batch.extras["share"])

    patch.setattr(reward, "pair_losses", losses)


def ties_as_pairs(patch: pytest.MonkeyPatch) -> None:
    from tfkit.objectives import preference_rows

    pairs = preference_rows._pairs
    patch.setattr(preference_rows, "_pairs", lambda found: pairs([{**one, "ranks": np.arange(len(one["ranks"]))} for one in found]))


def score_read_on_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tfkit.model.task_heads.last_real", lambda hidden, padding_mask: hidden[:, -1])


def shift_over_all_completions(patch: pytest.MonkeyPatch) -> None:
    def worst(found: Any) -> Any:
        for number in range(len(found)):
            one, last = found[number], int(found[number]["sizes"][-1])
            yield {"input_ids": one["input_ids"][-last:], **{name: one[name][-1:] for name in ("sizes", "prompts", "ranks")}}

    patch.setattr(reward, "_best", worst)


def split_by_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(record_columns, "_input_key", lambda roles, values: opening(values["chosen"]))


def end_left_out(patch: pytest.MonkeyPatch) -> None:
    texts = ConversationTexts._texts

    def without(self: ConversationTexts, asked: Any) -> Any:
        return [one._replace(ids=one.ids[:-1]) for one in texts(self, asked)]

    patch.setattr(ConversationTexts, "_texts", without)
    patch.setattr(PreferenceEncoder, "fingerprint", lambda self: "mutated")


TABLE: list[tuple[Mutate, Check]] = [
    (mean_for_sum, dpo_loss_is_the_formula),
    (end_without_a_loss, dpo_loss_is_the_formula),
    (prompt_with_a_loss, dpo_loss_is_the_formula),
    (sides_swapped, dpo_loss_is_the_formula),
    (dropout_on, dpo_loss_is_ln_2_in_the_first_step),
    (reference_with_dropout, dpo_loss_is_ln_2_in_the_first_step),
    (reference_forgotten, dpo_loss_is_ln_2_in_the_first_step),
    (mean_over_pairs, reward_loss_is_the_mean_over_prompts),
    (ties_as_pairs, reward_loss_is_the_mean_over_prompts),
    (score_read_on_padding, a_score_is_read_at_the_end_of_its_text),
    (shift_over_all_completions, demonstrations_average_0),
    (split_by_row, completions_of_a_prompt_are_held_out_together),
    (end_left_out, the_end_is_in_every_example),
]


@pytest.mark.parametrize("check", dict.fromkeys(check for _, check in TABLE), ids=lambda check: check.__name__)
def test_the_real_code_passes(check: Check, tmp_path: Path) -> None:
    check(tmp_path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("mutate", "check"), TABLE, ids=[mutate.__name__ for mutate, _ in TABLE])
def test_a_bug_turns_its_check_red(mutate: Mutate, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path)
