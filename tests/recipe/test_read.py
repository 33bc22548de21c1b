import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recipe_texts import MINIMAL, errors, read

from tfkit.errors import UsageError
from tfkit.recipe import find_recipe, open_recipe, read_recipe
from tfkit.recipe.reading.overrides import scored_overrides, within_sections
from tfkit.recipe.reading.parse import parse, read_scalar
from tfkit.recipe.reading.tree import plain
from tfkit.recipe.reading.validate import section_types, tags
from tfkit.recipe.schema.optimizer_sections import AdamWSection, MuonSection
from tfkit.recipe.schema.sections import Recipe

SECTIONS = ", ".join(sorted(Recipe.model_fields))


def test_a_minimal_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(MINIMAL, encoding="utf-8")
    resolved = read_recipe(str(tmp_path / "r.yaml"))
    assert (resolved.name, resolved.path) == ("r", tmp_path / "r.yaml")
    assert (resolved.recipe.training.steps, resolved.recipe.optimizer) == (10, AdamWSection())


def test_a_union_without_its_kind_is_of_the_default_kind() -> None:
    text = MINIMAL + "optimizer: {lr: 1e-3, betas: [0.9, 0.99]}\n"
    assert read(text).optimizer == AdamWSection(lr=1e-3, betas=(0.9, 0.99))
    assert isinstance(read(text, "optimizer.kind=muon").optimizer, MuonSection)


def test_an_int_serves_as_a_float_and_nothing_else_is_converted() -> None:
    assert read(MINIMAL + "optimizer: {lr: 1}\n").optimizer.lr == 1.0
    wrong = "tokenizer: {vocab_size: '300', add_bos: 1}\nschedule: {warmup_steps: 1.0}\ngeneration: {stop: [3]}\ncarbon: {pue: yes}\n"
    assert errors(MINIMAL + wrong) == [
        "r.yaml:5:25: tokenizer.vocab_size: must be a whole number, not the text '300'; remove the quotes",
        "r.yaml:5:41: tokenizer.add_bos: must be true or false, not 1",
        "r.yaml:6:26: schedule.warmup_steps: must be a whole number, not 1.0; write 1",
        "r.yaml:7:21: generation.stop.0: must be text, not 3; put it in quotes",
        "r.yaml:8:15: carbon.pue: must be a number, not the text 'yes'",
    ]


def test_every_error_at_once_at_its_place() -> None:
    text = """\
# nested, listed, in flow style
model:
  preset: gpt2
  dmi: 64
  norm:
    epz: 1e-5
  position: {kind: rotery}
data:
  train:
    - stdlib: true
    - path: a.txt
      tekst: body
    - {path: b.txt, hub: o/n}
  validation: often
optimizer: {kind: adamw, lr: 0, betas: [0.9, 1.5], wait_decay: 1}
schedule:
  kind: cosin
training:
  learning_rate: 3
  seed: -1
evaluation:
fo: 1
tokenizer: {vocab_size: 1000000000}
"""
    assert errors(text) == [
        "r.yaml:4:3: model.dmi: unknown, did you mean dim",
        "r.yaml:6:5: model.norm.epz: unknown, did you mean eps",
        "r.yaml:7:20: model.position.kind: 'rotery' is none of learned, sinusoidal, rotary, relative, disentangled; did you mean rotary",
        "r.yaml:12:7: data.train.1.tekst: unknown, did you mean text",
        "r.yaml:13:7: data.train.2: a source needs exactly one of stdlib, path, hub; here are path and hub",
        "r.yaml:14:15: data.validation: must be a list or a number, not the text 'often'",
        "r.yaml:15:30: optimizer.lr: must be greater than 0, not 0",
        "r.yaml:15:46: optimizer.betas.1: must be less than 1, not 1.5",
        "r.yaml:15:52: optimizer.wait_decay: unknown, did you mean weight_decay",
        "r.yaml:17:9: schedule.kind: 'cosin' is none of constant, linear, cosine, inverse_sqrt, noam, wsd; did you mean cosine",
        "r.yaml:19:3: training.learning_rate: unknown here; it belongs to optimizer, as lr",
        "r.yaml:20:9: training.seed: must be at least 0, not -1",
        "r.yaml:21:1: evaluation: is empty: give it fields, or leave it out",
        f"r.yaml:22:1: fo: unknown; the fields here are {SECTIONS}",
        "r.yaml:23:25: tokenizer.vocab_size: must be at most 1,048,576, not 1000000000",
    ]


@pytest.mark.thorough
def test_a_field_of_another_kind_is_named_with_its_kinds() -> None:
    for section in ("objective", "optimizer"):
        kinds = {tag: types.model_fields for types in section_types(Recipe.model_fields[section].annotation) for tag in tags(types)}
        assert len(kinds) > 3
        for kind, own in kinds.items():
            for name in {name for fields in kinds.values() for name in fields} - own.keys():
                found = errors(MINIMAL, f"{section}={{kind: {kind}}}", f"{section}.{name}=1")
                (line,) = [line for line in found if f": {section}.{name}: " in line]
                having = [other for other, fields in kinds.items() if name in fields]
                words = f"it belongs to the kind{'s' * (len(having) > 1)} {', '.join(having)} of {section}"
                assert f"unknown here; {words}" in line or "did you mean" in line
                assert not line.endswith(f"to {section}")


def test_errors_of_overrides_name_the_command_line() -> None:
    found = errors(
        MINIMAL + "fo: 1\n",
        "model.dmi=3",
        "data.train.4.path=x",
        "data.train.0.weight=-1",
        "generation.top_k=0",
        "training.steps.more=1",
        "optimizer={kind: adamw, lrr: 1}",
    )
    assert found == [
        f"r.yaml:5:1: fo: unknown; the fields here are {SECTIONS}",
        "overrides: data.train.4: there is no such entry: data.train has only the entry 0",
        "overrides: training.steps: is 10, which has no part 'more'; give the whole: training.steps={...}",
        "overrides: data.train.0.weight: must be greater than 0, not -1",
        "overrides: generation.top_k: must be greater than 0, not 0; or write null",
        "overrides: optimizer.lrr: unknown, did you mean lr",
        "overrides: model.dmi: unknown, did you mean dim",
    ]
    assert errors(MINIMAL, "training.steps=3", "carbon.pue=[1", "generation.stop={a: 1, a: 2}", "steps", "a..b=1") == [
        "overrides: carbon.pue: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        "overrides: generation.stop.a: given twice, first at overrides; remove one",
        "overrides: 'steps' is not key=value, such as training.steps=100",
        "overrides: 'a..b=1' is not key=value, such as training.steps=100",
    ]


CONTRADICTIONS = {
    "schedule: {warmup_steps: 11}": "26: schedule.warmup_steps: 11 steps of warm-up, but training.steps is 10",
    "schedule: {kind: wsd, warmup_steps: 9, decay_ratio: 0.5}": "53: schedule.decay_ratio: warm-up and decay together are",
    "schedule: {kind: constant, final_ratio: 0.1}": "41: schedule.final_ratio: the constant schedule does not read it",
    "schedule: {decay_ratio: 0.1}": "25: schedule.decay_ratio: only the wsd schedule reads it",
    "evaluation: {every: 5}": "21: evaluation.every: there is nothing to evaluate",
    "tokenizer: {path: x, vocab_size: 300}": "1: tokenizer: path names a finished tokenizer, so vocab_size would not be",
    "tokenizer: {vocab_size: 2000} | model.vocab_size=1000": "25: tokenizer.vocab_size: 2000 entries are more than model.vocab_size, which "
    "is 1000",
}


@pytest.mark.parametrize("addition", CONTRADICTIONS)
def test_sections_that_contradict_each_other(addition: str) -> None:
    section, *words = addition.split(" | ")
    (found,) = errors(MINIMAL + section + "\n", *words)
    assert found.startswith(f"r.yaml:5:{CONTRADICTIONS[addition]}")


def test_an_option_is_not_lost_in_a_section_that_is_replaced() -> None:
    """Fields of the options come after the section, and before fields that are given themselves."""
    named = scored_overrides({"text": "body"}, {"data": {"train": []}, "seed": 1, "data.rows": 3}, 5)
    assert [*named.items()] == [("data", {"train": []}), ("data.validation.0.columns", {"text": "body"}), ("data.rows", 3), ("seed", 1)]
    named = within_sections({"data.train": "F", "data.train.0.columns": {}}, {"data.train": "mine"})
    assert [*named.items()] == [("data.train", "mine"), ("data.train.0.columns", {})]
    assert scored_overrides({}, {"data.rows": 7, "data": {"train": []}}, 5) == {"data": {"train": []}, "data.rows": 5}


def test_missing_sections_and_lengths() -> None:
    assert errors("model: {preset: gpt2}\n") == ["r.yaml:1:1: data: missing", "r.yaml:1:1: training: missing"]
    assert errors("# only a comment\n")[0].startswith("r.yaml:1:1: the recipe is empty")
    assert errors("a: b: c\n")[0].startswith("r.yaml:1:5: not YAML: mapping values are not allowed here")
    assert "r.yaml:1:11: s.a: given twice, first at r.yaml:1:5; remove one" in errors("s: {a: 1, a: 2}\n")
    length = "r.yaml:4:1: training: the length is exactly one of steps, epochs, tokens"
    found = errors(MINIMAL.replace("steps: 10", "steps: 10, epochs: 1"))
    assert found == [f"{length}; here are steps and epochs: remove one, or set it to null"]
    (found,) = errors(MINIMAL, "training.steps=null")
    assert found.startswith(length)


def test_the_length_of_the_command_line_wins_in_any_unit() -> None:
    for words in (["training.epochs=1"], ["training.tokens=9", "training.epochs=1"], ["training.epochs=1", "training.steps=null"]):
        training = read(MINIMAL, *words).training
        assert (training.steps, training.epochs, training.tokens) == (None, 1, None)


def test_overrides_apply_in_turn_and_the_last_wins() -> None:
    changes = ["training.steps=5", "training.steps=7", "data.train.0={path: a}", "data.train.0.text=body", "tokenizer.vocab_size=300"]
    recipe = read(MINIMAL, *changes, "generation.prompts=[no, '1']", "optimizer.clip_norm=", "model.position.kind=rotary")
    assert recipe.training.steps == 7
    assert (recipe.data.train[0].path, recipe.data.train[0].text) == ("a", "body")
    assert recipe.tokenizer.vocab_size == 300
    assert recipe.generation.prompts == ["no", "1"]
    assert recipe.optimizer.clip_norm is None
    assert recipe.model.changes == {"position": {"kind": "rotary"}}


@pytest.mark.parametrize("content", [b"A text: of a book: with colons\n", b"A text.\n", b"a,b\n1,2\n", b"caf\xe9\n", b"a\n" * 500_001])
def test_data_in_the_place_of_a_recipe_is_named_with_its_option(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"; if book.txt is data, name it with `data`$"):
        read_recipe(str(tmp_path / "book.txt"))
    (tmp_path / "book.txt").write_text("model: {preset: gpt2}\n")
    assert open_recipe(str(tmp_path / "book.txt")).fields() == {"model.preset": "gpt2"}


def test_finding_a_recipe(tmp_path: Path, in_tmp_path: None) -> None:
    (tmp_path / "gpt2-stdlib").mkdir()  # a folder does not hide a bundled recipe, a file does
    bundled = find_recipe("gpt2-stdlib")
    assert bundled == find_recipe("pretrain/gpt2-stdlib")
    assert bundled.parts[-3:] == ("recipes", "pretrain", "gpt2-stdlib.yaml")
    (tmp_path / "gpt2-stdlib").rmdir()
    (tmp_path / "gpt2-stdlib").write_text("x", encoding="utf-8")
    assert find_recipe("gpt2-stdlib") == Path("gpt2-stdlib")
    wrong = {".": "a folder, not a recipe", "gpt2-sdtlib": "did you mean gpt2-stdlib", "x\0y": "no such file", "n" * 5000: "no such file"}
    for name, expected in wrong.items():
        with pytest.raises(UsageError, match=expected):
            find_recipe(name)


START = "has neither bos nor pad as the start token of a decoder: use unigram or bpe_byte_fallback"


@pytest.mark.parametrize("preset", ["t5-small", "transformer-2017-base"])
@pytest.mark.parametrize(
    ("kind", "objective", "problem"),
    [
        ("bpe_eow", "classification", START),
        ("bpe_eow", "text_to_text", START),
        ("wordpiece", "text_to_text", "has no token that ends a target: use unigram or bpe_byte_fallback"),
        ("byte_bpe", "span_corruption", "has no sentinels (<extra_id_0>, ...) for the spans: use unigram"),
        ("unigram", "span_corruption", None),
        ("wordpiece", "classification", None),
        ("byte_bpe", "text_to_text", None),
    ],
)
def test_an_encoder_decoder_needs_a_tokenizer_with_its_special_tokens(preset: str, kind: str, objective: str, problem: str | None) -> None:
    sections = f"model: {{preset: {preset}}}\ntokenizer: {{kind: {kind}}}\nobjective: {{kind: {objective}}}\n"
    found = errors(sections + "data: {train: [{path: a.jsonl}]}\ntraining: {steps: 3}\n")
    assert found == ([f"r.yaml:2:19: tokenizer.kind: {kind} {problem}"] if problem else [])


# -- scalars of YAML 1.2, and bytes that are no recipe


def data(text: str) -> object:
    tree, problems = parse(text, "f.yaml")
    assert not problems
    return plain(tree)


def test_scalars_follow_the_core_schema_of_yaml_1_2() -> None:
    numbers = {"1e-4": 1e-4, "1E4": 1e4, "3e8": 3e8, ".5": 0.5, "-1.": -1.0, "+7": 7, "010": 10, "0o17": 15, "0xff": 255}
    others = {"True": True, "false": False, "~": None, "null": None, "": None, "-.inf": -math.inf, ".INF": math.inf}
    texts = ("no", "yes", "off", "y", "1_000", "12:30", "2001-01-01", "1e", "٣", "<<")  # "٣": a digit, but not one of YAML's
    for written, value in (numbers | others | dict(zip(texts, texts, strict=True))).items():
        read = read_scalar(written)
        assert (read, type(read)) == (value, type(value)), written
        assert not written or data(f"a: {written}") == {"a": value}


def test_nan_is_a_number_quotes_make_text_and_an_alias_is_a_value_of_its_own() -> None:
    nan = read_scalar(".NaN")
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert data("a: '1'\nb: \"true\"\nc: |\n  \t1\n") == {"a": "1", "b": "true", "c": "\t1\n"}
    tree, _ = parse("a: &x {b: 1}\nc: *x\n", "f.yaml")
    assert plain(tree) == {"a": {"b": 1}, "c": {"b": 1}}
    assert tree.values["a"] is not tree.values["c"]


@settings(max_examples=150, deadline=None)
@example(b'a: "\\UFFFFFFFF"\n')
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t1.?~<", max_size=30).map(str.encode))
def test_any_bytes_are_refused_as_a_recipe_and_nothing_else_happens(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Hostile files, whole random recipes and overrides are in tests/faults/test_hostile_recipes.py."""
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_recipe(str(path))
