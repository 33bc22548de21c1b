"""Sources of a recipe that contradict themselves or the objective: said by `tfkit check`, without a look at any data."""

import json
from pathlib import Path

import pytest

from tfkit.errors import UsageError
from tfkit.recipe import dump_recipe, read_recipe

DECODER, ENCODER, BOTH = "{preset: gpt2}", "{preset: bert-base}", "{preset: t5-small}"
KINDS = {DECODER: "byte_bpe", ENCODER: "wordpiece", BOTH: "unigram"}
MODELS = {
    "causal_lm": DECODER,
    "masked_lm": ENCODER,
    "classification": ENCODER,
    "tagging": ENCODER,
    "text_to_text": BOTH,
    "chat": DECODER,
}


def recipe(folder: Path, objective: str, source: str, more: str = "") -> str:
    path = folder / "r.yaml"
    path.write_text(
        f"model: {MODELS[objective]}\ndata:\n  train: [{source}]\n  {more}\nobjective: {{kind: {objective}}}\n"
        f"tokenizer: {{kind: {KINDS[MODELS[objective]]}}}\ntraining: {{steps: 3}}\n",
        encoding="utf-8",
    )
    return str(path)


def problem(folder: Path, objective: str, source: str, more: str = "") -> str:
    with pytest.raises(UsageError) as error:
        read_recipe(recipe(folder, objective, source, more))
    return str(error.value).partition("r.yaml:")[2]


@pytest.mark.parametrize(
    ("objective", "source"),
    [
        ("causal_lm", "{stdlib: true}"),
        ("masked_lm", "{stdlib: packages}"),
        ("classification", "{stdlib: packages}"),
        ("tagging", "{stdlib: token_roles}"),
        ("text_to_text", "{stdlib: docstrings}"),
        ("text_to_text", "{stdlib: docstrings, columns: {source: 'Say what it does: {source}'}}"),
        ("causal_lm", "{stdlib: docstrings, text: '{source}\\n# {target}'}"),
        ("classification", "{stdlib: docstrings, columns: {text: target, label: name}}"),
        ("chat", "{stdlib: docstrings, columns: {instruction: 'What does it do? {source}', output: target}}"),
        ("causal_lm", "{hub: org/name, streamed: true}"),
        ("causal_lm", "{hub: org/name, streamed: true, rows: 1000}"),
    ],
)
def test_sources_that_fit(tmp_path: Path, objective: str, source: str) -> None:
    source = source.replace("'{source}\\n# {target}'", json.dumps("{source}\n# {target}"))
    read = read_recipe(recipe(tmp_path, objective, source)).recipe
    (tmp_path / "again.yaml").write_text(dump_recipe(read, None), encoding="utf-8")
    assert read_recipe(str(tmp_path / "again.yaml")).recipe == read


@pytest.mark.parametrize(
    ("objective", "source", "said"),
    [
        ("classification", "{stdlib: true}", "has no column but text, but the objective classification reads text, pair, label"),
        ("causal_lm", "{stdlib: docstrings}", "has the columns source, target, name, but the objective causal_lm reads text"),
        ("tagging", "{stdlib: packages}", "has the columns text, label, but the objective tagging reads tokens, tags"),
        ("text_to_text", "{stdlib: token_roles}", "has the columns tokens, tags, but the objective text_to_text reads source, target"),
        ("chat", "{stdlib: docstrings}", "has the columns source, target, name, but the objective chat reads messages, instruction,"),
        ("chat", "{stdlib: docstrings, columns: {output: target}}", "has the columns source, target, name, but the objective chat"),
    ],
)
def test_columns_of_the_standard_library_that_the_objective_does_not_read(tmp_path: Path, objective: str, source: str, said: str) -> None:
    assert problem(tmp_path, objective, source).startswith(f"3:20: data.train.0.stdlib: {said}")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("docstring", "'docstring' is none of false, true, docstrings, token_roles, packages; did you mean docstrings"),
        ("1", "1 is none of false, true, docstrings, token_roles, packages"),
        ("'true'", "'true' is none of false, true, docstrings, token_roles, packages"),
        ("null", "none of false, true, docstrings, token_roles, packages"),
        ("[docstrings]", "none of false, true, docstrings, token_roles, packages"),
    ],
)
def test_tasks_that_there_are_not(tmp_path: Path, value: str, said: str) -> None:
    assert said in problem(tmp_path, "causal_lm", f"{{stdlib: {value}}}")


@pytest.mark.parametrize(
    ("objective", "source", "said"),
    [
        ("causal_lm", "{stdlib: true, text: x}", "data.train.0.text: the files of the standard library have no columns; remove it"),
        ("causal_lm", "{path: a.txt, streamed: true}", "data.train.0.streamed: only a hub source reads it; remove it"),
        (
            "causal_lm",
            "{stdlib: true, rows: 5}",
            "data.train.0.rows: only a streamed hub source reads it: add streamed: true, or remove it",
        ),
        (
            "causal_lm",
            "{hub: org/name, rows: 5}",
            "data.train.0.rows: only a streamed hub source reads it: add streamed: true, or remove it",
        ),
        ("causal_lm", "{hub: org/name, streamed: true, rows: 0}", "data.train.0.rows: must be greater than 0, not 0"),
        (
            "causal_lm",
            "{stdlib: docstrings, path: a.txt}",
            "data.train.0: a source needs exactly one of stdlib, path, hub; here are stdlib and path",
        ),
        ("causal_lm", "{stdlib: false}", "data.train.0: a source needs exactly one of stdlib, path, hub"),
        ("causal_lm", "{path: a.lst, format: lines, header: [text, n]}", "data.train.0.header: a line has one column; remove the other"),
        (
            "causal_lm",
            "{path: a.jsonl, class_names: [a, b]}",
            "data.train.0.class_names: the objective causal_lm reads no classes; remove it",
        ),
        (
            "causal_lm",
            "{path: a.jsonl, text: '{a}', columns: {text: b}}",
            "data.train.0.text: is named in columns, too: remove one of the two",
        ),
        (
            "tagging",
            "{path: a.jsonl, text: '{a}'}",
            "data.train.0.text: the objective tagging reads no text; it reads tokens, tags: name them",
        ),
    ],
)
def test_fields_that_nothing_would_read(tmp_path: Path, objective: str, source: str, said: str) -> None:
    assert said in problem(tmp_path, objective, source)


@pytest.mark.parametrize(
    ("objective", "more", "said"),
    [
        ("causal_lm", "max_lost: 0.1", "no row is lost, since a bad row is an error, and causal_lm truncates none: remove it"),
        ("masked_lm", "max_lost: 0.1", "no row is lost, since a bad row is an error, and masked_lm truncates none: remove it"),
        ("classification", "max_lost: 1", "must be less than 1, not 1"),
        ("classification", "max_lost: -0.1", "must be at least 0, not -0.1"),
    ],
)
def test_limits_that_nothing_would_read(tmp_path: Path, objective: str, more: str, said: str) -> None:
    source = "{stdlib: packages}"
    assert said in problem(tmp_path, objective, source, more)
    assert read_recipe(recipe(tmp_path, objective, source, "max_lost: 0.1\n  on_bad_row: skip")).recipe.data.max_lost == 0.1


def test_the_error_for_a_model_of_other_stacks_says_what_to_change(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: {ENCODER}\ndata: {{train: [{{path: rows.jsonl}}]}}\ntraining: {{steps: 3}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="trains decoders; this model has an encoder: choose another model, or another objective"):
        read_recipe(str(path))
