"""A fine-tuning without a recipe decides no field that is invalid with the command line: an error names only the user's fields."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tfkit.engine.listener import Silent
from tfkit.engine.recognition import decided_size
from tfkit.engine.recognition.decided_recipe import _document, _fitting_recipe
from tfkit.engine.recognition.decided_size import RowTokens, Size, decide_size, row_tokens
from tfkit.engine.recognition.own_data import UnwrittenRecipe
from tfkit.errors import UsageError
from tfkit.recipe import RecipeError
from tfkit.recipe.column_forms import LabelSets, find_label_sets, flag_columns
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.tree import OVERRIDES
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.starting_points import LORA
from tfkit.recipe.tasks import DataSummary, ModelSummary, RowCounts, decide
from tfkit.tokenizer import train_tokenizer

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


# -- sizes: of rows, batches and the part that is held out, by the rows and the memory


TEXT = RowCounts(1, 1_000_000)
LARGE = ModelSummary("m", "llama", "decoder", "lm", 135_000_000, True, False, tuned=True, context_length=8192, token_bytes=2_000_000)
ENCODER = ModelSummary("m", "bert", "encoder", "masked_lm", 22_000_000, False, False, context_length=512, token_bytes=10**6)
WHOLE = RowTokens(225_280, 225_280)  # one text file


def sized(counts: RowCounts, start: ModelSummary, kind: str, tokens: RowTokens | None, **given: Any) -> Size:
    return decide_size(counts, start, kind, {"data": {}, **given}, tokens)


def test_rows_of_text_are_shorter_than_a_long_context() -> None:
    """8,192 tokens a row, 32 rows a step: no line in minutes. The command line's own length stays, and each long step has a line."""
    size = sized(TEXT, LARGE, "causal_lm", WHOLE)
    assert (size.sequence_length, size.context_length, size.batch_size, size.log_every, size.lr) == (576, None, 4, 1, 5e-5)
    assert size.because.startswith(
        "about 352 rows of 576 tokens, as the texts, the memory and the time of a step allow; the model keeps its context of 8,192; "
    )
    rests = "(measured with SmolLM2-135M-Instruct; extrapolated to other sizes)"
    beside = "unless a trial of 1.7e-05 and 0.00015 shows a better one"
    assert size.because.endswith(f"; 4 per step, 88 steps per epoch, 2 epochs; rate 5e-05, for 135 million parameters {rests}, {beside}")
    assert size.trial_rates == [1.7e-5, 1.5e-4]
    size = sized(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 256}, training={"batch_size": 2})
    assert (size.sequence_length, size.context_length, size.batch_size, size.log_every) == (None, None, 2, None)
    assert sized(TEXT, LARGE, "causal_lm", WHOLE, training={"micro_batch_size": 3}).batch_size == 6  # in place of 4
    size = sized(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 256}, data={"sequence_length": 100})
    assert (size.sequence_length, size.context_length, "about 2,028 rows of 100 tokens; " in size.because) == (None, None, True)
    size = sized(TEXT, LARGE, "causal_lm", WHOLE, data={"sequence_length": None})
    assert (size.sequence_length, "about 25 rows of 8,192 tokens; " in size.because) == (None, True)
    assert sized(TEXT, LARGE, "causal_lm", WHOLE, model={"context_length": 0}).batch_size == 4  # the model refuses it later
    given = sized(TEXT, LARGE, "causal_lm", WHOLE, training={"steps": 9}, optimizer={"lr": 1.0})
    assert given.because.endswith("steps per epoch")  # what is given was not decided
    assert sized(TEXT, replace(LARGE, context_length=512), "causal_lm", WHOLE).sequence_length is None
    assert sized(TEXT, replace(LARGE, token_bytes=10**15), "causal_lm", WHOLE).sequence_length == 128
    small = sized(TEXT, replace(LARGE, parameters=4_000_000), "causal_lm", WHOLE)
    assert (small.sequence_length, small.batch_size, small.log_every) == (1024, 8, None)


def test_short_texts_need_no_long_rows() -> None:
    short = replace(TEXT, rows=10_000)
    assert sized(short, LARGE, "causal_lm", RowTokens(40, 150)).sequence_length == 192
    assert sized(short, LARGE, "causal_lm", RowTokens(20, 60)).sequence_length == 128


def test_long_conversations_make_small_steps() -> None:
    """All of them may be read, and none is cut."""
    rows = replace(TEXT, rows=1_000)
    sizes = [sized(rows, LARGE, "chat", RowTokens(mean, 10**5)) for mean in (60, 600)]
    assert [(size.batch_size, size.sequence_length, size.log_every) for size in sizes] == [(32, None, 1), (8, None, 1)]


def test_few_rows_hold_out_enough_to_choose_by() -> None:
    fractions = [sized(replace(TEXT, rows=rows), LARGE, "chat", RowTokens(60, 99)).held_out for rows in (10, 32, 100, 252, 10**4)]
    assert fractions == [0.3, 0.3, 0.2, 0.1, 0.1]
    assert sized(TEXT, LARGE, "causal_lm", WHOLE).held_out == 0.1  # of one text
    assert decide_size(TEXT, LARGE, "chat", {"data": {"validation": None}}, None).held_out is None


def test_relative_positions_read_rows_that_are_longer_than_the_context() -> None:
    t5 = ModelSummary("m", "t5", "both", "lm", 10**6, False, True, context_length=64, token_bytes=1000, reads_further=True)
    rows = replace(TEXT, rows=400)
    size = sized(rows, t5, "text_to_text", RowTokens(70, 130))
    assert (size.context_length, size.sequence_length) == (192, None)
    assert "192 tokens hold 95 % of the rows, so the model's context of 64 becomes that long" in size.because
    assert sized(rows, t5, "text_to_text", RowTokens(20, 60)).context_length is None
    assert sized(rows, replace(t5, reads_further=False), "text_to_text", RowTokens(70, 130)).context_length is None
    assert sized(rows, t5, "text_to_text", RowTokens(70, 10**6)).context_length == 1024


def test_many_classes_need_more_epochs() -> None:
    rows = replace(TEXT, rows=1_000, labels=Counter({f"class {number}": 3 for number in range(300)}))
    assert sized(rows, ENCODER, "classification", RowTokens(12, 20)).epochs == 10
    assert sized(replace(rows, labels={"a": 500, "b": 500}), ENCODER, "classification", RowTokens(12, 20)).epochs == 6  # 150 steps of 32


@pytest.mark.parametrize(("kind", "field"), [("classification", "labels"), ("tagging", "tags")])
def test_rare_classes_take_more_and_smaller_steps_at_a_fifth_of_the_rate(kind: str, field: str) -> None:
    rows = replace(TEXT, rows=10_000)
    common, rare = (
        sized(replace(rows, **{field: {"O": most, "B-x": 1000 - most}}), ENCODER, kind, RowTokens(12, 20)) for most in (890, 910)
    )
    assert (common.epochs, common.batch_size, common.lr) == (3, 32, 5e-4)
    assert (rare.epochs, rare.batch_size, rare.lr, rare.trial_rates) == (6, 16, 1e-4, [3.3e-5, 3e-4])
    why = "0.09 of the labels are not the most frequent one, so twice the epochs, half of the rows per step and a fifth of the rate"
    assert why in rare.because
    alone = sized(replace(rows, **{field: {"O": 1000}}), ENCODER, kind, RowTokens(12, 20))
    assert alone.epochs == 3  # there is nothing to learn


@pytest.mark.parametrize(("count", "positives", "held_out"), [(1_500, 34, 0.3), (3_000, 32, 0.21), (10_000, 90, 0.1), (1_500, 340, 0.1)])
def test_enough_rows_of_rare_classes_are_held_out(count: int, positives: int, held_out: float) -> None:
    """Of 1,500 rows with 34 of a thousand in the rarer classes, a tenth holds five."""
    rows = replace(TEXT, rows=count)
    labelled = replace(rows, labels={"other": 1000 - positives, "a": positives - 10, "b": 10})
    assert sized(labelled, ENCODER, "classification", RowTokens(12, 20)).held_out == held_out
    tagged = replace(rows, tags={"O": 1000 - positives, "B-x": positives})
    assert sized(tagged, ENCODER, "tagging", RowTokens(12, 20)).held_out == 0.1, "a row has many tags"


@pytest.mark.parametrize(("free", "adapter"), [(3_000_000_000, None), (2_000_000_000, LORA)])
def test_an_adapter_is_for_a_model_that_the_memory_cannot_train(monkeypatch: pytest.MonkeyPatch, free: int, adapter: Any) -> None:
    monkeypatch.setattr(decided_size, "available_bytes", lambda: free)
    rows = replace(TEXT, rows=200)
    size = sized(rows, LARGE, "chat", RowTokens(60, 99))
    assert size.adapter == adapter
    assert ("a training of all weights needs 2.43 GB, and 2 are free" in size.because) == (adapter is not None)
    assert size.lr == (5e-5 if adapter is None else 5e-4)
    assert ("for LoRA of 135 million parameters" in size.because) == (adapter is not None)
    own = sized(rows, LARGE, "chat", RowTokens(60, 99), training={"adapter": {"rank": 2}})
    assert (own.adapter, own.lr) == (None, 5e-4)
    assert sized(TEXT, LARGE, "causal_lm", WHOLE, training={"adapter": {"rank": 2}}).lr == 5e-4
    assert sized(rows, replace(LARGE, has_chat_tokens=False), "chat", RowTokens(60, 99)).adapter is None  # new tokens are trained


def test_tokens_are_counted_or_estimated() -> None:
    rows = [f"the {'cat sat on a mat ' * number}" for number in range(100)]
    codec = train_tokenizer(TokenizerSection(kind="byte_bpe", vocab_size=300), rows)
    counts = sorted(len(ids) for ids in codec.encode_texts(rows))
    assert row_tokens(rows, codec) == RowTokens(sum(counts) / 100, counts[94])
    found = row_tokens(["the cat " * 100_000, ""], codec)
    assert found.most == pytest.approx(len(codec.encode_texts(["the cat " * 100_000])[0]), rel=0.01)  # of the beginning
    assert row_tokens([], codec) is row_tokens(["a"], None) is None
    assert "about 225 rows of 1,000 tokens" in sized(TEXT, LARGE, "causal_lm", None, model={"context_length": 1000}).because
