"""The reward model's loss against its formula; each completion is read once, in any order; the scores equal those of transformers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_examples import batch_of, model, opened, stored, tokenizer, whole_batch
from tiny_files import read_json
from tiny_preferences import LENGTH, SCORER, count_rows_read, ranked_rows, reward_objective

from tfkit.data import Row
from tfkit.errors import ModelError
from tfkit.model.transformer import Transformer
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.preference_rows import calibration_metrics
from tfkit.objectives.reward import PAD, fit_tokenizer, read_shift, reward_scores
from tfkit.recipe.schema.preference_sections import RewardSection


def by_formula(found: Any, scores: list[float]) -> tuple[float, list[float]]:
    """Return the sum over prompts of the mean over pairs, and all margins, in float64."""
    total, margins, left = 0.0, [], iter(scores)
    for number in range(len(found)):
        ranked = [(rank, next(left)) for rank in found[number]["ranks"].tolist()]
        pairs = [better - worse for rank, better in ranked for other, worse in ranked if rank < other]
        total += sum(math.log1p(math.exp(-margin)) for margin in pairs) / len(pairs)
        margins += pairs
    return total, margins


def test_the_loss_is_the_mean_over_the_pairs_of_each_prompt(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, ranked_rows(9), objective)
    batch = whole_batch(found, objective)
    with torch.no_grad():
        scores = reward_scores(scorer, batch).double()
        expected, margins = by_formula(found, scores.tolist())
        assert float(objective.loss(scorer, batch)["reward"]) == pytest.approx(expected, rel=1e-5)
        sums = objective.measure(scorer, batch)
    assert objective.counts(batch) == {"reward": 9}
    assert len(margins) > 9  # pairs, of which a prompt has several
    wanted = {"loss": expected / 9, "accuracy": np.mean(np.array(margins) > 0), "margin": np.mean(margins)}
    assert objective.metrics(sums) == pytest.approx(wanted, rel=1e-4)
    assert objective.answer_metrics([{"margins": margins}])[0](unit_weights(1)).keys() == {"calibration"}


def at_ends_of_beginnings(found: Any, scorer: Transformer) -> tuple[float, int]:
    """Return the loss, the mean over tokens too, from one forward pass for each beginning of a completion; and their number."""

    def score(ids: Any) -> float:
        with torch.no_grad():
            return float(scorer(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, 0])

    total, read = 0.0, 0
    for one in (found[number] for number in range(len(found))):
        sequences = np.split(one["input_ids"], np.cumsum(one["sizes"])[:-1])
        scores = [[score(ids[: end + 1]) for end in range(len(ids))] for ids in sequences]
        read, ranked, pairs = read + sum(map(len, scores)), [*zip(one["ranks"].tolist(), scores, strict=True)], []
        for better, worse in ((mine, other) for rank, mine in ranked for below, other in ranked if rank < below):
            places = range(int(one["prompts"][0]), max(len(better), len(worse)))
            margins = [better[min(place, len(better) - 1)] - worse[min(place, len(worse) - 1)] for place in places]
            pairs.append(float(np.mean([math.log1p(math.exp(-margin)) for margin in margins])))
        total += float(np.mean(pairs))
    return total, read


def test_at_every_token_the_loss_is_that_of_the_completions_cut_there(tmp_path: Path) -> None:
    objective, scorer = reward_objective(every_token=True), model(SCORER | {"init": {"std": 0.3}}).eval()
    found = stored(tmp_path, ranked_rows(6), objective)
    expected, read = at_ends_of_beginnings(found, scorer)
    batch = whole_batch(found, objective)
    assert batch.padding_mask is not None
    assert read > 2 * len(batch.input_ids)
    with torch.no_grad():
        assert float(objective.loss(scorer, batch)["reward"]) == pytest.approx(expected, rel=1e-4)
        assert float(reward_objective().loss(scorer, batch)["reward"]) != pytest.approx(expected, rel=2e-3)
        assert objective.measure(scorer, batch) == reward_objective().measure(scorer, batch)  # an evaluation is of whole completions
        alone = [float(objective.loss(scorer, batch_of(tmp_path, [row], objective))["reward"]) for row in ranked_rows(6)]
    assert sum(alone) == pytest.approx(expected, rel=1e-4)


def test_a_model_that_reads_whole_texts_has_no_score_of_a_beginning() -> None:
    config = SCORER | {"encoder_layers": 2, "decoder_layers": 0, "head": {"kind": "classes", "count": 1, "pool": "first"}}
    said = r"^base: objective.every_token is for a model with a decoder alone, and this one scores only whole texts"
    with pytest.raises(ModelError, match=said):
        reward_objective(config, every_token=True)


def test_each_completion_is_read_once_in_one_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, rows = reward_objective(), ranked_rows(6)
    read = count_rows_read(monkeypatch)
    objective.loss(model(SCORER).eval(), batch_of(tmp_path, rows, objective))
    assert read == [sum(len(row["completions"]) for row in rows)]


def test_the_order_of_completions_does_not_matter(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    rows = [row for row in ranked_rows(12) if len({*row["ranks"]}) == len(row["ranks"])]
    turned = [{**row, "completions": row["completions"][::-1], "ranks": row["ranks"][::-1]} for row in rows]
    one, other = (objective.loss(scorer, batch_of(tmp_path, each, objective))["reward"].item() for each in (rows, turned))
    assert len(rows) > 3
    assert one == other


def test_a_score_does_not_depend_on_padding(tmp_path: Path) -> None:
    objective, scorer, rows = reward_objective(), model(SCORER).eval(), ranked_rows(6)
    together, *alone = (reward_scores(scorer, batch_of(tmp_path, part, objective)) for part in (rows, *([row] for row in rows)))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-6)


def test_the_head_is_drawn_small_where_it_is_new() -> None:
    objective, scorer, name = reward_objective(), model(SCORER | {"dim": 96}), "head.classes.weight"
    before = scorer.state_dict()[name].clone()
    objective.initialize(scorer, ("embedding.tokens.weight",))
    assert torch.equal(scorer.state_dict()[name], before)  # a reward model that is trained further
    for new in (None, (name,)):
        objective.initialize(scorer, new)
        assert float(scorer.state_dict()[name].std()) == pytest.approx(1 / math.sqrt(97), rel=0.2)


def test_transformers_gives_the_same_scores_and_demonstrations_average_0(tmp_path: Path) -> None:
    objective, scorer = reward_objective(), model(SCORER).eval()
    found = stored(tmp_path, ranked_rows(7), objective)
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
        others = theirs(input_ids=batch.input_ids, attention_mask=batch.padding_mask.long()).logits[:, 0]
        torch.testing.assert_close(others, reward_scores(scorer, batch), atol=1e-5, rtol=1e-5)
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
    sure = math.log(9)  # a confidence of 0.9
    for margins, weights, calibration in (
        ([[sure] * 9 + [-sure]], [1], 0),
        ([[sure, -sure], []], [1, 1], 0.4),
        ([[0.0, 1e-9]], [2], 0.25),
        *(([margins], [1], math.nan) for margins in ([math.nan], [])),
    ):
        found = calibration_metrics(margins)(np.array(weights, float))["calibration"]
        assert found == pytest.approx(calibration, nan_ok=True), margins


def test_a_row_that_is_lost_is_decided_wrongly() -> None:
    objective = reward_objective()
    result = objective.wrong(Row("", "here"))
    assert (result.sums["accuracy"].mean, result.prediction["margins"]) == (0, [])
    assert objective.encoder.row_length == LENGTH
