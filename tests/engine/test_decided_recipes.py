"""A fine-tuning without a recipe decides no field that is invalid with the command line: an error names only the user's fields."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tfkit.engine.listener import Silent
from tfkit.engine.recognition.decided_recipe import _document, _fitting_recipe
from tfkit.engine.recognition.decided_size import RowTokens, decide_size
from tfkit.engine.recognition.own_data import UnwrittenRecipe
from tfkit.errors import UsageError
from tfkit.recipe import RecipeError
from tfkit.recipe.column_forms import LabelSets, find_label_sets, flag_columns
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.tree import OVERRIDES
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.tasks import DataSummary, ModelSummary, RowCounts, decide

SEEN = DataSummary("rows.jsonl", {"text": [""]}, 60, RowCounts(60, 6_000), {"causal_lm": {"text": "text"}})
REQUIRED = {
    "grpo": "rules: [{kind: exact_answer}], max_new_tokens: 4",
    "ppo": "reward: judge, max_new_tokens: 4",
    "ai_feedback": "policy: sampler, judge: judge, max_new_tokens: 4, of: {kind: dpo}",
    "distillation": "teacher: teacher, of: {kind: causal_lm}",
}
DATA = ["data.train=[{path: rows.jsonl}]", "data={train: [{path: rows.jsonl}]}"]
DATA += [f"data={{train: [{{path: rows.jsonl}}], validation: {given}}}" for given in ("null", "0.2", "[{path: other.jsonl}]")]
CHANGES = [
    *("", "data.validation=null", "data.validation=[{path: other.jsonl}]", "data.sequence_length=8", "data.on_bad_row=skip"),
    *("evaluation={}", "evaluation.every=null", "evaluation.every=3", "evaluation.every=epoch", "evaluation={max_tokens: 9}"),
    *("evaluation.metric=loss", "evaluation.metric=accuracy", "evaluation={metric: loss, every: 2}"),
    *("training={steps: 3}", "training={}", "training.steps=3", "training.tokens=99", "training.patience=2", "training.batch_size=2"),
    *("training.frozen=['embedding.*']", "training.unfreeze_every=2", "training.adapter={kind: lora}", "training.trial_rates=[0.1]"),
    *("optimizer={kind: muon}", "optimizer.kind=adafactor", "optimizer.lr=0.1", "optimizer={}", "optimizer.weight_decay=0"),
    *("schedule={}", "schedule.kind=constant", "schedule.kind=noam", "schedule.kind=inverse_sqrt", "schedule.warmup_tokens=9"),
    *("schedule.warmup_steps=2", "schedule={kind: wsd, warmup_steps: 1}", "checkpoint={every: 3}", "checkpoint.every=null"),
    *("model.context_length=16", "generation={prompts: [the]}", "carbon.enabled=false"),
]


def decided(words: list[str], stacks: Any, parameters: int) -> Any:
    """The recipe for a model of these stacks, or what the command line makes invalid."""
    overrides = parse_overrides(words)
    given = UnwrittenRecipe(overrides).given
    model = ModelSummary("m", "gpt2", stacks, "lm", parameters, True, True, context_length=64, token_bytes=100)
    task = decide(SEEN, model, given.get("objective", {}))
    size = decide_size(SEEN.counts, model, task.objective["kind"], given, RowTokens(20, 30))
    return _fitting_recipe(_document(task, size, given), overrides, "").recipe


def words_for(kind: str, data: str, *changes: str) -> list[str]:
    section = "{" + f"kind: {kind}, {REQUIRED.get(kind, '')}" + "}"
    return ["model.from=m", data, f"objective={section}", *(change for change in changes if change)]


def cases(kind: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield stacks, parameters and command lines: each change, and with other forms of the data those that concern held-out rows."""
    stacks = SECTIONS[kind].stacks
    for change in CHANGES:
        for one in stacks:
            yield one, 10**6, words_for(kind, DATA[0], change)
        if change.startswith(("training", "model")):
            yield stacks[0], 10**13, words_for(kind, DATA[0], change)  # too large for the memory: an adapter is decided for some
        if change.startswith(("data", "evaluation", "checkpoint", "training.patience")) or not change:
            for data in DATA[1:]:
                yield stacks[0], 10**6, words_for(kind, data, change)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("kind", [kind for kind, section in SECTIONS.items() if section.scored_by != "likelihood"])
def test_what_is_decided_fits_what_is_given(kind: str) -> None:
    for stacks, parameters, words in cases(kind):
        changed = {word.partition("=")[0].partition(".")[0] for word in words[3:]}
        try:
            recipe, problems = decided(words, stacks, parameters), []
        except RecipeError as error:
            recipe, problems = None, error.problems
        for problem in problems:  # of a field of the user, or of a section from which one of them is missing
            assert problem.place == OVERRIDES or (len(problem.path) == 1 and problem.path[0] in changed), (words, str(problem))
        if recipe is not None:
            assert recipe.objective.kind in (kind, "reward")
            if not any("validation" in word for word in words):
                assert bool(recipe.data.validation) == (words[1] == DATA[0]), words


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("objective.kind=clasification", "objective.kind"),
        ("objective.kind=[dpo]", "objective.kind"),
        ("data.rows=many", "data.rows"),
        ("data.validation=[{path: v}, {pth: v}]", "data.validation.1.pth"),
        ("training.batch_size=0", "training.batch_size"),
        ("training={epochs: 1, batch_size: few}", "training.batch_size"),
    ],
)
def test_a_value_that_no_recipe_has_is_refused_before_it_decides_anything(change: str, field: str) -> None:
    unwritten = UnwrittenRecipe(parse_overrides(["model.from=m", DATA[0], change]))
    with pytest.raises(RecipeError) as caught:
        print(unwritten.inputs, unwritten.decide(Silent()))
    assert [".".join(map(str, problem.path)) for problem in caught.value.problems] == [field]


@pytest.mark.parametrize(
    ("given", "labels", "metric", "because"),
    [
        ({"regression": True}, {"1": 30, "2": 30}, "rmse", "a number for it"),
        ({"kind": "classification"}, {"spam": 45, "ham": 15}, "f1_macro", "of which 75% have 'spam'"),
        ({"kind": "classification"}, {"spam": 30, "ham": 30}, "accuracy", "one of 2 classes"),
        ({}, {"0.5": 30, "2": 30}, "rmse", "a number with fractions for it"),
    ],
)
def test_the_labels_decide_the_metric(given: dict[str, Any], labels: dict[str, int], metric: str, because: str) -> None:
    reads = {"classification": {"text": "text", "label": "label"}}
    seen = replace(SEEN, held={"text": [""], "label": [""]}, counts=RowCounts(60, 6_000, labels=Counter(labels)), reads=reads)
    task = decide(seen, ModelSummary("m", "bert", "encoder", "masked_lm", 10**6, False, False), given)
    assert (task.objective["kind"], task.metric) == ("classification", metric)
    assert because in task.because


def test_text_alone_needs_missing_spans_in_an_encoder_decoder() -> None:
    with pytest.raises(UsageError, match="the tokenizer has no <extra_id_0> for missing spans"):
        decide(SEEN, ModelSummary("m", "bart", "both", "lm", 10**6, False, False), {})


def test_tasks_of_several_answers() -> None:
    """The kind that columns name without a doubt, and the labels of a text in several columns or in one without a delimiter."""
    bert = ModelSummary("m", "bert", "encoder", "masked_lm", 10**6, False, False)
    gpt = ModelSummary("m", "gpt2", "decoder", "lm", 10**6, False, False)
    choices = replace(SEEN, held={}, reads={"multiple_choice": {"context": "c", "choices": "o", "label": "l"}})
    assert decide(choices, gpt, {}).objective == {"kind": "multiple_choice"}
    flags = replace(SEEN, held={}, reads={}, label_sets=LabelSets(3), named={"multi_label": {"labels": ["a", "b", "c"]}})
    assert decide(flags, bert, {}).because == "a text, and any number of labels: of 3 in these rows, each a column of 0 and 1"
    assert decide(replace(SEEN, held={}, label_sets=None), bert, {"kind": "multi_label"}).because == "a text, and any number of labels"


LONG = [f"a sentence of a number of words that nobody would take for a name or an address, number {n}" for n in range(20)]
BITS = ["0", "1"] * 10


@pytest.mark.parametrize(
    ("held", "columns"),
    [
        ({"text": LONG, "toxic": BITS, "threat": BITS}, {"labels": ["toxic", "threat"]}),
        ({"comment": LONG, "toxic": BITS, "threat": BITS}, {"text": "comment", "labels": ["toxic", "threat"]}),
        ({"id": ["1", "2"], "comment_text": ["a", "b"], "toxic": BITS, "odd": BITS}, {"text": "comment_text", "labels": ["toxic", "odd"]}),
        ({"comment": LONG, "reply": LONG, "toxic": BITS, "threat": BITS}, {}),  # which of the two?
        ({"text": LONG, "toxic": BITS}, {}),
        ({"text": LONG, "toxic": BITS, "threat": BITS, "label": BITS}, {}),
    ],
)
def test_columns_of_0_and_1_are_the_labels_of_one_text(held: dict[str, Any], columns: dict[str, Any]) -> None:
    assert flag_columns(held) == columns


@pytest.mark.parametrize(
    ("values", "sets"),
    [
        ([{"toxic": 1, "threat": 0}] * 3, LabelSets(2)),
        ([{"toxic": 1}, "toxic"], None),
        ([["a", "b"], ["b"], ["a"]] * 5, LabelSets(2)),
        (["a;b", "b", "a"] * 5, LabelSets(2, ";")),
        (["a", "b"] * 5, None),
    ],
)
def test_the_form_of_label_sets(values: list[Any], sets: LabelSets | None) -> None:
    assert find_label_sets(values) == sets
