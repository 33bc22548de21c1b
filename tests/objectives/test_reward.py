"""The reward model's loss against its formula; each completion is read once, in any order; the scores equal those of transformers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_examples import assert_same_steps, model, opened, tokenizer, whole_batch
from tiny_files import read_json
from tiny_preferences import LENGTH, SCORER, count_rows_read, ranked_rows, reward_objective, stored

from tfkit.data import Row
from tfkit.errors import ModelError
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.preference_rows import calibration_metrics
from tfkit.objectives.reward import PAD, Reward, fit_tokenizer, open_reward, read_shift, reward_scores
from tfkit.recipe.schema.preference_sections import RewardSection


def by_formula(found: Any, scores: list[float]) -> tuple[float, list[float]]:
    """Return the sum over prompts of the mean over pairs, and all margins, in float64."""
    total, margins, begin = 0.0, [], 0
    for number in range(len(found)):
        ranks = found[number]["ranks"].tolist()
        mine = scores[begin : begin + len(ranks)]
        begin += len(ranks)
        pairs = [(mine[i] - mine[j]) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
        total += sum(math.log1p(math.exp(-margin)) for margin in pairs) / len(pairs)
        margins += pairs
    return total, margins


def test_the_loss_is_the_mean_over_the_pairs_of_each_prompt(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, objective, ranked_rows(9))
    batch = whole_batch(found, objective)
    with torch.no_grad():
        scores = reward_scores(scorer, batch).double()
        expected, margins = by_formula(found, scores.tolist())
        assert float(objective.loss(scorer, batch)["reward"]) == pytest.approx(expected, rel=1e-5)
        sums = objective.measure(scorer, batch)
    assert objective.counts(batch) == {"reward": 9}
    assert len(margins) > 9  # pairs, of which a prompt has several
    assert objective.metrics(sums) == pytest.approx(
        {"loss": expected / 9, "accuracy": np.mean(np.array(margins) > 0), "margin": np.mean(margins)}, rel=1e-4
    )
    assert objective.answer_metrics([{"margins": margins}])[0](unit_weights(1)).keys() == {"calibration"}


def at_ends_of_beginnings(found: Any, scorer: Transformer, objective: Reward) -> tuple[float, int]:
    """Return the sum over prompts of the mean over pairs of the mean over tokens, from one forward pass for each beginning of a
    completion; and the number of these passes.
    """

    def score(ids: Any) -> float:
        with torch.no_grad():
            return float(scorer(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, 0])

    total, read = 0.0, 0
    for number in range(len(found)):
        one = found[number]
        sequences = np.split(one["input_ids"], np.cumsum(one["sizes"])[:-1])
        scores = [[score(ids[: end + 1]) for end in range(len(ids))] for ids in sequences]
        read += sum(map(len, scores))
        ranks, begin, pairs = one["ranks"].tolist(), int(one["prompts"][0]), []
        for i, j in ((i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]):
            places = range(begin, max(len(scores[i]), len(scores[j])))
            margins = [scores[i][min(place, len(scores[i]) - 1)] - scores[j][min(place, len(scores[j]) - 1)] for place in places]
            pairs.append(float(np.mean([math.log1p(math.exp(-margin)) for margin in margins])))
        total += float(np.mean(pairs))
    return total, read


def test_at_every_token_the_loss_is_that_of_the_completions_cut_there(tmp_path: Path) -> None:
    objective, scorer = reward_objective(every_token=True), model(SCORER | {"init": {"std": 0.3}}).eval()
    found = stored(tmp_path, objective, ranked_rows(6))
    expected, read = at_ends_of_beginnings(found, scorer, objective)
    batch = whole_batch(found, objective)
    assert batch.padding_mask is not None
    assert read > 2 * len(batch.input_ids)
    with torch.no_grad():
        assert float(objective.loss(scorer, batch)["reward"]) == pytest.approx(expected, rel=1e-4)
        assert float(reward_objective().loss(scorer, batch)["reward"]) != pytest.approx(expected, rel=2e-3)
        assert objective.measure(scorer, batch) == reward_objective().measure(scorer, batch)  # an evaluation is of whole completions
        alone = [
            float(objective.loss(scorer, whole_batch(stored(tmp_path, objective, [row]), objective))["reward"]) for row in ranked_rows(6)
        ]
    assert sum(alone) == pytest.approx(expected, rel=1e-4)


def test_a_model_that_reads_whole_texts_has_no_score_of_a_beginning() -> None:
    encoder = SCORER | {"encoder_layers": 2, "decoder_layers": 0, "head": {"kind": "classes", "count": 1, "pool": "first"}}
    config = ModelConfig.model_validate(encoder)
    with pytest.raises(
        ModelError, match=r"^base: objective.every_token is for a model with a decoder alone, and this one scores only whole texts"
    ):
        open_reward(RewardSection(kind="reward", every_token=True), ModelContext(config, reward_objective().tokenizer, (), 1, Path("base")))


def test_each_completion_is_read_once_in_one_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, objective, ranked_rows(6))
    read = count_rows_read(monkeypatch)
    objective.loss(scorer, whole_batch(found, objective))
    assert read == [sum(len(found[number]["sizes"]) for number in range(6))]


def test_the_order_of_completions_does_not_matter(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    rows = [row for row in ranked_rows(12) if len({*row["ranks"]}) == len(row["ranks"])]
    turned = [{**row, "completions": row["completions"][::-1], "ranks": row["ranks"][::-1]} for row in rows]
    losses = [objective.loss(scorer, whole_batch(stored(tmp_path, objective, each), objective))["reward"].item() for each in (rows, turned)]
    assert len(rows) > 3
    assert losses[0] == losses[1]


@pytest.mark.thorough
def test_any_micro_batches_are_the_same_step_without_dropout(tmp_path: Path) -> None:
    objective = reward_objective()
    found = stored(tmp_path, objective, ranked_rows(16))
    assert_same_steps(SCORER, found, objective)


def test_a_score_does_not_depend_on_padding(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, objective, ranked_rows(6))
    together = reward_scores(scorer, whole_batch(found, objective))
    alone = [reward_scores(scorer, whole_batch(stored(tmp_path, objective, [row]), objective)) for row in ranked_rows(6)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-6)


def test_the_head_is_drawn_small_where_it_is_new() -> None:
    objective, name = reward_objective(), "head.classes.weight"
    scorer = model(SCORER | {"dim": 96})
    before = scorer.state_dict()[name].clone()
    objective.initialize(scorer, ("embedding.tokens.weight",))
    assert torch.equal(scorer.state_dict()[name], before)  # a reward model that is trained further
    for new in (None, (name,)):
        objective.initialize(scorer, new)
        assert float(scorer.state_dict()[name].std()) == pytest.approx(1 / math.sqrt(97), rel=0.2)


def test_transformers_gives_the_same_scores_and_demonstrations_average_0(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, objective, ranked_rows(7))
    with torch.no_grad():
        facts = objective.facts(scorer, [found], batch_size=3)
    kind = transformers.AutoModelForSequenceClassification
    theirs = opened(tmp_path / "saved", kind, scorer, objective.tokenizer, family="llama", facts=facts)
    written = read_json(tmp_path / "saved" / "tfkit.json")
    assert (written["reward_shift"], written["demonstrations"]) == (facts["reward_shift"], 7)
    assert (type(theirs).__name__, theirs.config.num_labels) == ("LlamaForSequenceClassification", 1)
    assert theirs.config.pad_token_id == objective.tokenizer.pad_id != objective.tokenizer.eos_id
    batch = whole_batch(found, objective)
    with torch.no_grad():
        ours, others = (
            reward_scores(scorer, batch),
            theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask.long()).logits[:, 0],
        )
        torch.testing.assert_close(others, ours, atol=1e-5, rtol=1e-5)
        objective.shift = read_shift(written, "saved")
        scores = [result.prediction["scores"] for result in objective.predict(scorer, batch)]
    assert abs(np.mean([mine[0] for mine in scores])) < 1e-5  # best first
    assert abs(facts["reward_shift"]) > 0.01


@pytest.mark.parametrize("shift", ["1", None, float("nan"), True])
def test_a_shift_that_is_no_number_is_refused(shift: Any) -> None:
    with pytest.raises(ModelError, match=r"rm: reward_shift in tfkit.json is .*, which is not a number; take the file"):
        read_shift({"reward_shift": shift}, "rm")


def test_padding_has_a_token_of_its_own() -> None:
    section, codec = RewardSection(kind="reward"), tokenizer("byte_bpe")
    assert codec.pad_id in (None, codec.eos_id)
    padded = fit_tokenizer(section, codec, is_finished=True)
    assert (padded.backend.id_to_token(padded.pad_id), padded.size) == (PAD, codec.size + 1)
    assert fit_tokenizer(section, padded, is_finished=True) is padded
    known = fit_tokenizer(section, tokenizer("bpe_byte_fallback", variant="llama", vocab_size=320), is_finished=True)
    assert known.pad_id not in (None, known.eos_id)
    assert known.size == 320  # a token that the vocabulary has


def test_calibration_is_the_distance_of_confidence_from_accuracy() -> None:
    sure = math.log(9)  # confidence 0.9
    assert calibration_metrics([[sure] * 9 + [-sure]])(unit_weights(1))["calibration"] == pytest.approx(0)
    assert calibration_metrics([[sure, -sure], []])(unit_weights(2))["calibration"] == pytest.approx(0.4)
    assert calibration_metrics([[0.0, 1e-9]])(np.array([2.0]))["calibration"] == pytest.approx(0.25)
    assert math.isnan(calibration_metrics([[math.nan]])(unit_weights(1))["calibration"])
    assert math.isnan(calibration_metrics([[]])(unit_weights(1))["calibration"])


def test_a_row_that_is_lost_is_decided_wrongly() -> None:
    objective = reward_objective()
    result = objective.wrong(Row("", "here"))
    assert (result.sums["accuracy"].mean, result.prediction["margins"]) == (0, [])
    assert objective.encoder.row_length == LENGTH
