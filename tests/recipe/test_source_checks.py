"""Sources of a recipe that contradict themselves or the objective: said by `tfkit check`, without a look at any data."""

import pytest
from recipe_texts import errors, read

from tfkit.recipe import dump_recipe

DECODER, ENCODER, BOTH = "{preset: gpt2}", "{preset: bert-base}", "{preset: t5-small}"
NONE_OF = "is none of false, true, docstrings, token_roles, packages"
KINDS = {DECODER: "byte_bpe", ENCODER: "wordpiece", BOTH: "unigram"}
MODELS = dict.fromkeys(("causal_lm", "chat"), DECODER) | dict.fromkeys(("masked_lm", "classification", "tagging"), ENCODER)
MODELS |= {"text_to_text": BOTH}


def recipe(objective: str, source: str, more: str = "") -> str:
    model = MODELS[objective]
    data = f"data:\n  train: [{source}]\n  {more}\n"
    return f"model: {model}\n{data}objective: {{kind: {objective}}}\ntokenizer: {{kind: {KINDS[model]}}}\ntraining: {{steps: 3}}\n"


def problem(objective: str, source: str, more: str = "") -> str:
    [found] = errors(recipe(objective, source, more))
    return found.removeprefix("r.yaml:")


@pytest.mark.parametrize(
    ("objective", "source"),
    [
        ("causal_lm", "{stdlib: true}"),
        ("masked_lm", "{stdlib: packages}"),
        ("classification", "{stdlib: packages}"),
        ("tagging", "{stdlib: token_roles}"),
        ("text_to_text", "{stdlib: docstrings}"),
        ("text_to_text", "{stdlib: docstrings, columns: {source: 'Say what it does: {source}'}}"),
        ("causal_lm", '{stdlib: docstrings, text: "{source}\\n# {target}"}'),
        ("classification", "{stdlib: docstrings, columns: {text: target, label: name}}"),
        ("chat", "{stdlib: docstrings, columns: {instruction: 'What does it do? {source}', output: target}}"),
        ("causal_lm", "{hub: org/name, streamed: true}"),
        ("causal_lm", "{hub: org/name, streamed: true, rows: 1000}"),
    ],
)
def test_sources_that_fit(objective: str, source: str) -> None:
    found = read(recipe(objective, source))
    assert read(dump_recipe(found, None)) == found


@pytest.mark.parametrize(
    ("objective", "source", "said"),
    [
        ("classification", "{stdlib: true}", "has no column but text, but the objective classification reads text, pair, label"),
        ("causal_lm", "{stdlib: docstrings}", "has the columns source, target, name, but the objective causal_lm reads text"),
        ("tagging", "{stdlib: packages}", "has the columns text, label, but the objective tagging reads tokens, tags"),
        ("text_to_text", "{stdlib: token_roles}", "has the columns tokens, tags, but the objective text_to_text reads source, target"),
        ("chat", "{stdlib: docstrings}", "has the columns source, target, name, but the objective chat reads messages, instruction,"),
        ("chat", "{stdlib: docstrings, columns: {output: target}}", "has the columns source, target, name, but the objective chat"),
        ("causal_lm", "{stdlib: docstring}", f"'docstring' {NONE_OF}; did you mean docstrings"),
        ("causal_lm", "{stdlib: 1}", f"1 {NONE_OF}"),
        ("causal_lm", "{stdlib: 'true'}", f"'true' {NONE_OF}"),
        ("causal_lm", "{stdlib: null}", f"None {NONE_OF}"),
    ],
)
def test_tasks_of_the_standard_library_that_there_are_not_or_are_not_read(objective: str, source: str, said: str) -> None:
    assert problem(objective, source).startswith(f"3:20: data.train.0.stdlib: {said}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{stdlib: true, text: x}", ".text: the files of the standard library have no columns; remove it"),
        ("{stdlib: [docstrings]}", f".stdlib: ['docstrings'] {NONE_OF}"),
        ("{path: a.txt, streamed: true}", ".streamed: only a hub source reads it; remove it"),
        ("{stdlib: true, split: test}", ".split: only a hub source reads it; remove it"),
        ("{stdlib: true, revision: main}", ".revision: only a hub source reads it; remove it"),
        ("{stdlib: true, config: en}", ".config: only a hub source reads it; remove it"),
        ("{stdlib: true, rows: 5}", ".rows: only a streamed hub source reads it: add streamed: true, or remove it"),
        ("{hub: org/name, rows: 5}", ".rows: only a streamed hub source reads it: add streamed: true, or remove it"),
        ("{hub: org/name, streamed: true, rows: 0}", ".rows: must be greater than 0, not 0"),
        ("{stdlib: docstrings, path: a.txt}", ": a source needs exactly one of stdlib, path, hub; here are stdlib and path"),
        ("{stdlib: false}", ": a source needs exactly one of stdlib, path, hub"),
        ("{stdlib: true, format: lines}", ".format: only a path source reads it; remove it"),
        ("{hub: org/name, header: [text]}", ".header: only a path source reads it; remove it"),
        ("{hub: org/name, beside: {a: b}}", ".beside: only a path source reads it; remove it"),
        ("{path: a.lst, format: lines, header: [text, n]}", ".header: a line has one column; remove the other"),
        ("{path: a, format: jsonl, header: [text]}", ".header: files of the format jsonl have none; remove it"),
        ("{path: a, header: [text, n, text]}", ".header: 'text' is given twice"),
        ("{path: a, header: [text, n], beside: {n: b}}", ".beside: 'n' is in header, too; give the parallel column another name"),
        ("{path: a, format: text, beside: {n: b}}", ".beside: a file that is one text has no lines for parallel files: set format: lines"),
        ("{path: a.jsonl, class_names: [a, b]}", ".class_names: the objective causal_lm reads no classes; remove it"),
        ("{path: a.jsonl, text: '{a}', columns: {text: b}}", ".text: is named in columns, too: remove one of the two"),
    ],
)
def test_fields_of_a_source_that_nothing_would_read(source: str, said: str) -> None:
    assert problem("causal_lm", source).partition(" data.train.0")[2].startswith(said)


@pytest.mark.parametrize(
    ("objective", "more", "said"),
    [
        ("causal_lm", "max_lost: 0.1", "no row is lost, since a bad row is an error, and causal_lm truncates none: remove it"),
        ("masked_lm", "max_lost: 0.1", "no row is lost, since a bad row is an error, and masked_lm truncates none: remove it"),
        ("classification", "max_lost: 1", "must be less than 1, not 1"),
        ("classification", "max_lost: -0.1", "must be at least 0, not -0.1"),
    ],
)
def test_limits_that_nothing_would_read(objective: str, more: str, said: str) -> None:
    assert problem(objective, "{stdlib: packages}", more) == f"4:13: data.max_lost: {said}"
    assert read(recipe(objective, "{stdlib: packages}", "max_lost: 0.1\n  on_bad_row: skip")).data.max_lost == 0.1


def test_what_an_objective_reads_and_trains_is_said() -> None:
    said = "data.train.0.text: the objective tagging reads no text; it reads tokens, tags: name them"
    assert said in problem("tagging", "{path: a.jsonl, text: '{a}'}")
    [found] = errors(f"model: {ENCODER}\ndata: {{train: [{{path: rows.jsonl}}]}}\ntraining: {{steps: 3}}\n")
    assert "trains decoders; this model has an encoder: choose another model, or another objective" in found
