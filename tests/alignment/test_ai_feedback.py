"""Preferences by a judge's scores of a policy's responses: the examples, and the models that are trained on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_files import read_json, read_rows, write_rows
from tiny_runs import Done, hashes
from tiny_worlds import write_world

from tfkit.adapters import load
from tfkit.alignment.feedback import FeedbackEncoder
from tfkit.alignment.response_sampling import response_text
from tfkit.data import Encoded, Row
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.transformer import with_fewer_positions
from tfkit.objectives.ai_feedback import Feedback, open_ai_feedback
from tfkit.objectives.context import ModelContext
from tfkit.recipe.schema.preference_sections import AIFeedbackSection

RECIPE = """
# A reward model that learns from a judge's feedback, for tests.
model: {from: base}
data: {train: [{path: prompts.jsonl}], validation: [{path: others.jsonl}]}
objective: {kind: ai_feedback, policy: base, judge: judge, completions: 4, max_new_tokens: 5, of: {kind: reward, every_token: true}}
training: {steps: 4, batch_size: 4, precision: fp32}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with prompts, a policy, and a judge."""
    folder = tmp_path_factory.mktemp("feedback")
    write_world(folder)
    (folder / "feedback.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def feedback(place: Path, seed: int = 1, rows: int | None = None, **fields: Any) -> Feedback:
    given = {"policy": str(place / "base"), "judge": str(place / "judge"), "max_new_tokens": 5, "of": {"kind": "dpo"}}
    section = AIFeedbackSection.model_validate({"kind": "ai_feedback", **given, **fields})
    base = load(place / "base")
    return open_ai_feedback(section, ModelContext(base.config, base.codec, (), seed, place / "base", sequence_length=rows)).feedback


def encoder(found: Feedback) -> FeedbackEncoder:
    return FeedbackEncoder(found, torch.device("cpu"), torch.float32)


def rows_of(place: Path) -> list[Row]:
    return [Row("", f"prompts.jsonl:{number}", row) for number, row in enumerate(read_rows(place / "prompts.jsonl"), 1)]


def parts(example: Encoded) -> list[tuple[list[int], int]]:
    """Return the sequences of an example with their ranks."""
    sequences = np.split(np.array(example.arrays["input_ids"]), np.cumsum(example.arrays["sizes"])[:-1])
    return [(ids.tolist(), int(rank)) for ids, rank in zip(sequences, example.arrays["ranks"], strict=True)]


@pytest.mark.parametrize("ends", [[], range(100, 200)], ids=["one end", "a third of the vocabulary"])
def test_responses_are_the_policys_and_in_the_order_of_the_judges_scores(place: Path, tmp_path: Path, ends: Sequence[int]) -> None:
    loaded = load(place / "base")
    loaded.special_ids["eos_token_id"] = [*loaded.eos_ids, *ends]  # in generation_config.json
    loaded.save(tmp_path / "policy")
    made = feedback(place, policy=str(tmp_path / "policy"))
    assert made.rollouts.end_ids == {*loaded.eos_ids, *ends}
    rows = rows_of(place)
    tokenizer, judge = made.rollouts.tokenizer, made.judge
    found = encoder(made).encode(rows)
    assert len(found) == len(rows)
    for row, one in zip(rows, found, strict=True):
        sequences = parts(one)
        prompt = [*tokenizer.prefix, *tokenizer.encode_bare([row.values["prompt"]])[0].tolist()]
        assert {*one.arrays["prompts"]} == {len(prompt)}
        assert all(ids[: len(prompt)] == prompt and len(prompt) < len(ids) <= len(prompt) + 5 for ids, _ in sequences)
        assert len({tuple(ids) for ids, _ in sequences}) == len(sequences) > 1
        # No end is added to a response that was cut, and nothing follows an end.
        are_ends = [[token in made.rollouts.end_ids for token in ids[len(prompt) :]] for ids, _ in sequences]
        assert all(not any(marks[:-1]) and (marks[-1] or len(marks) == 5) for marks in are_ends)
        written = [[token for token in ids[len(prompt) :] if token not in made.rollouts.end_ids] for ids, _ in sequences]
        scores = judge.scores([row.values["prompt"] + response_text(made.rollouts, prompt, ids, is_cut=True) for ids in written], 8)
        assert all(score >= after - 1e-6 for score, after in pairwise(scores))
        assert all(following in (rank, rank + 1) for rank, following in pairwise(rank for _, rank in sequences))


def test_the_draws_depend_on_the_seed_and_the_prompts_alone(place: Path) -> None:
    rows = rows_of(place)
    first, again, other = (encoder(feedback(place, seed)).encode(rows) for seed in (1, 1, 2))
    as_lists = [[parts(one) for one in found if isinstance(one, Encoded)] for found in (first, again, other)]
    assert as_lists[0] == as_lists[1] != as_lists[2]


def test_policy_and_judge_compute_in_the_precision_of_the_run(place: Path) -> None:
    made = feedback(place)
    FeedbackEncoder(made, torch.device("cpu"), torch.bfloat16).encode(rows_of(place)[:1])
    assert {parameter.dtype for companion in made.companions for parameter in companion.model.parameters()} == {torch.bfloat16}


def test_other_feedback_has_another_place_in_the_cache(place: Path, tmp_path: Path) -> None:
    prints = [encoder(feedback(place, seed)).fingerprint() for seed in (1, 1, 2)]
    other = load(place / "judge")
    other.model.head.classes.weight.data += 1
    other.save(tmp_path / "other")
    others = [{"judge": str(tmp_path / "other")}, {"completions": 3}, {"temperature": 2.0}, {"max_new_tokens": 4}]
    prints += [encoder(feedback(place, **fields)).fingerprint() for fields in (*others, {"of": {"kind": "dpo", "chat": True}})]
    assert prints[0] == prints[1]
    assert len({*prints}) == len(prints) - 1


def test_a_prompt_whose_responses_are_equally_good_is_dropped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = feedback(place)
    monkeypatch.setattr(made.judge, "scores", lambda texts, batch_size: [0.5] * len(texts))
    found = encoder(made).encode(rows_of(place))
    assert all(isinstance(one, BadRow) and one.dropped for one in found)
    assert "prompts.jsonl:1: its responses are equally good" in str(found[0])


def test_a_reward_model_learns_from_it_and_names_its_makers(place: Path, tfkit: Callable[..., Done]) -> None:
    tfkit("finetune", "feedback.yaml", "--run", "scores").exits(0, "12 rows")
    facts = read_json(place / "scores" / "checkpoints" / "step-000004" / "tfkit.json")
    assert facts["objective"] == "reward"
    assert [parent["role"] for parent in facts["lineage"]["parents"]] == ["start", "policy", "judge"]
    pinned = (place / "scores" / "recipe.yaml").read_text()
    assert all(parent["sha256"] in pinned for parent in facts["lineage"]["parents"])
    tfkit("finetune", "feedback.yaml", "--run", "again").exits(0, "from the cache")
    assert hashes(place / "again", 4) == hashes(place / "scores", 4)
    write_rows(place / "pairs.jsonl", [{"prompt": "the cat", "chosen": " sat", "rejected": " ran fast"}])
    scored = tfkit("evaluate", "--from", "scores", "--data", "pairs.jsonl", "--json", "carbon.enabled=false").exits(0)
    assert scored.document["metrics"]["accuracy"] in (0.0, 1.0)
    why = "there are no rows to score: the recipe has prompts, to which its training sampled completions; give rows of reward as --data F"
    for words in (["--from", "scores"], ["scores/recipe.yaml", "--from", "scores"]):  # which has data.validation
        tfkit("evaluate", *words, "carbon.enabled=false").exits(2, why)


def test_dpo_learns_from_it_too(place: Path, tfkit: Callable[..., Done]) -> None:
    done = tfkit("finetune", "feedback.yaml", "objective.of={kind: dpo}", "--run", "direct", "--json").exits(0)
    assert done.document["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert load(place / "direct").config.head.kind == "lm"


def test_inspect_shows_the_responses_in_their_order(tfkit: Callable[..., Done]) -> None:
    shown = tfkit("inspect", "feedback.yaml", "--show", "1").exits(0).out
    assert ("choice 0" in shown, "label: 1.0" in shown) == (True, True)


def test_a_policy_holds_the_rows_of_the_model(place: Path) -> None:
    base = load(place / "base")
    short = with_fewer_positions(base.model, 12)
    replace(base, model=short, config=short.config).save(str(place / "short"))
    assert feedback(place, policy=str(place / "short"), rows=12).policy.model.config.context_length == 12
    with pytest.raises(ModelError, match="its context_length is 12, and the model reads rows of 16 tokens"):
        feedback(place, policy=str(place / "short"))


@pytest.mark.parametrize(
    ("field", "code", "said"),
    [
        ("policy=judge", 4, "objective.policy: judge cannot write for this model:\n  it does not continue a text"),
        ("judge=base", 4, "objective.judge: base is not a text classifier"),
        (f"policy_sha256={'a' * 64}", 4, "objective.policy: base has changed"),
        (f"judge_sha256={'a' * 64}", 4, "objective.judge: judge has changed"),
        ("completions=1", 2, "objective.completions: must be at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, tfkit: Callable[..., Done], field: str, code: int, said: str) -> None:
    tfkit("finetune", "feedback.yaml", f"objective.{field}", "--run", "no").exits(code, said)
    assert not (place / "no" / "checkpoints").exists()


def test_a_plan_has_responses_of_the_largest_length(place: Path) -> None:
    """A plan has as many responses as would be sampled, although the policy is not trained yet."""
    planning = encoder(feedback(place, completions=3))
    planning.is_plan = True
    for one in planning.encode(rows_of(place)):
        assert [len(ids) - length for (ids, _), length in zip(parts(one), one.arrays["prompts"], strict=True)] == [5] * 3
