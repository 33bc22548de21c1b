"""Conversations from the command line: training on them, packed or not, and answering by the template that the checkpoint gets."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_chats import TEMPLATES, write_chat_checkpoint
from tiny_files import write_rows
from tiny_runs import Process, pretrain, records, run_here
from transformers import AutoTokenizer, GenerationConfig

from tfkit.tokenizer import load_tokenizer
from tfkit.tokenizer.template import encode_rendered, open_template

ANSWERS = {"cat": "it sat", "dog": "it ran", "tree": "it grew", "hat": "red"}
RECIPE = """
model: {preset: llama2-7b, decoder_layers: 2, dim: 32, num_heads: 2, num_kv_heads: 1, hidden_dim: 64, context_length: 160, init: {std: 0.1}}
tokenizer: {variant: smollm2, vocab_size: 320}
data: {train: [{path: rows.jsonl}], validation: [{path: rows.jsonl, name: seen}]}
objective: {kind: chat}
optimizer: {lr: 2e-2, weight_decay: 0}
training: {steps: 40, batch_size: 6, precision: fp32, log_every: 20}
generation: {temperature: 0, max_new_tokens: 24, prompts: [the cat]}
carbon: {enabled: false}
"""


def rows() -> list[dict[str, Any]]:
    """A question and its answer, as an exchange and as a conversation, in which the second question is another's."""
    said = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    found: list[dict[str, Any]] = [{"instruction": "the", "input": name, "output": answer} for name, answer in ANSWERS.items()]
    found += [{"question": f"the {name}", "answer": answer} for name, answer in ANSWERS.items()]
    for (first, one), (second, other) in zip(ANSWERS.items(), reversed(ANSWERS.items()), strict=True):
        texts = (f"the {first}", one, f"the {second}", other)
        turns = zip([*said, *said], texts, strict=True)
        found.append({"messages": [message | {"content": text} for message, text in turns]})
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "rows.jsonl", rows())
    (tmp_path / "chat.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*words: str) -> Any:
    return run_here(["generate", "--from", "run", "--chat", "--json", *words, "carbon.enabled=false"]).exits(0).document


def write_tuning(recipe: str, model: str, system: str) -> None:
    """Write tune.yaml: the recipe, with a model that has a tokenizer, which ChatML is added to."""
    rest = re.sub("(?m)^(tokenizer|model|objective):.*", "", recipe)
    chat = f"model: {model}\nobjective: {{kind: chat, format: chatml, system: {system}}}"
    Path("tune.yaml").write_text(rest + chat, encoding="utf-8")


def checkpoint(place: Path) -> Path:
    (found,) = (place / "run" / "checkpoints").glob("step-*")
    return found


@pytest.mark.sampled(2)
@pytest.mark.parametrize("pack", ["false", "true"])
def test_what_was_learned_is_answered_and_the_answer_ends(place: Path, pack: str) -> None:
    done = pretrain(place / "run", place / "chat.yaml", f"objective.pack={pack}", "objective.system=Hi")
    done.exits(0, "rows.jsonl: 12 rows", "% of the training tokens are targets", "writes:\n    the cat\n    it sat\n")
    [*_, scores] = [record["evaluation"] for record in records(place / "run") if "evaluation" in record]
    assert (scores["token_accuracy"], scores["loss"] < 0.05) == (1.0, True)
    samples = [record["samples"] for record in records(place / "run") if "samples" in record]
    assert samples[-1] == [{"prompt": "the cat", "completion": "it sat"}]
    answer = asked("--prompt", "the dog")
    assert answer == {"prompt": "the dog", "completion": "it ran", "tokens": answer["tokens"], "finish": "stop"}
    messages = [{"role": "user", "content": "the hat"}, {"role": "assistant", "content": "red"}, {"role": "user", "content": "the cat"}]
    write_rows(place / "asked.jsonl", [{"messages": messages}])
    answer = asked("--input", "asked.jsonl")
    assert (answer["completion"], answer["finish"]) == ("it sat", "stop")


def test_the_checkpoint_asks_in_transformers_and_in_generate_what_was_trained_on(place: Path) -> None:
    pretrain(place / "run", place / "chat.yaml", "training.steps=1", "objective.system=Be short.", "generation.prompts=[]").exits(0)
    folder = checkpoint(place)
    codec, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    end = codec.convert_tokens_to_ids("<|im_end|>")
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [codec.eos_token_id, end]
    messages = [{"role": "user", "content": "the cat"}]
    theirs = codec.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with open_template(ours, folder) as template:
        text = template.render(messages, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert encode_rendered(ours, [text])[0] == theirs
    answer = [*codec.encode("it sat", add_special_tokens=False), end]
    words = ["inspect", "chat.yaml", "--json", "--show", "12", "training.batch_size=12", "objective.system=Be short."]
    rows = Process(place, words).wait().exits(0).document["rows"]
    trained = [[token["id"] for token in row["tokens"] if token["kind"] != "padding"] for row in rows]
    assert [*theirs, *answer] in [ids[: len(theirs) + len(answer)] for ids in trained]
    assert answer in [[token["id"] for token in row["tokens"] if token["kind"] == "loss"] for row in rows]


@pytest.mark.thorough
def test_a_finished_model_gets_entries_for_the_turns_and_learns_them(place: Path) -> None:
    """A model of plain text is asked in ChatML."""
    (place / "text.txt").write_text(" ".join(f"the {name} {answer}." for name, answer in ANSWERS.items()) * 20, encoding="utf-8")
    words = ["objective={kind: causal_lm}", "data={train: [{path: text.txt}]}", "tokenizer.variant=gpt2", "generation.prompts=[]"]
    pretrain(place / "plain", place / "chat.yaml", *words, "training.steps=5").exits(0)
    write_tuning(RECIPE, "{from: plain}", "Hi")
    run_here(["finetune", "tune.yaml", "--run", "run", "--threads", "1", "training.steps=60", "optimizer.lr=1e-2"]).exits(0)
    before, after = (load_tokenizer(next((place / run / "checkpoints").glob("step-*"))) for run in ("plain", "run"))
    assert after.size == before.size + 2
    assert after.encode_texts(["<|im_start|><|im_end|>"])[0][-2:] == [before.size, before.size + 1]
    answer = asked("--prompt", "the dog")
    assert (answer["completion"], answer["finish"]) == ("it ran", "stop")
    scored = run_here(["evaluate", "--from", "run", "--json", "--threads", "1", "carbon.enabled=false"]).exits(0).document
    assert scored["metrics"]["token_accuracy"] == 1.0


def test_a_run_goes_on_from_its_own_checkpoint_as_a_tokenizer(place: Path) -> None:
    """Its template is the format's own, so it is known again, and the ids are the same."""
    pretrain(place / "run", place / "chat.yaml", "training.steps=1").exits(0)
    pretrain(place / "second", place / "chat.yaml", "training.steps=1", f"tokenizer={{path: '{checkpoint(place)}'}}").exits(0)
    assert records(place / "second")[0]["loss"] == records(place / "run")[0]["loss"]


def test_the_template_that_a_tokenizer_has_is_trained_on_and_kept(place: Path) -> None:
    """Llama 3's, with the one date that training has; the tokenizer itself puts <s> and </s> around a text, which here it must not."""
    folder = write_chat_checkpoint(place / "origin", TEMPLATES["llama 3"])
    words = ["training.steps=2", "generation.prompts=[]", "tokenizer={path: origin}", "model.context_length=400"]
    pretrain(place / "run", place / "chat.yaml", *words).exits(0)
    assert (checkpoint(place) / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATES["llama 3"]
    codec = AutoTokenizer.from_pretrained(folder)
    end = codec.convert_tokens_to_ids("<|eot_id|>")
    assert GenerationConfig.from_pretrained(checkpoint(place)).eos_token_id == [codec.eos_token_id, end]
    shown = run_here(["inspect", "chat.yaml", "--json", "--show", "12", "training.batch_size=12", *words]).exits(0).document
    [found] = [row for row in shown["rows"] if row["place"] == "rows.jsonl:5"]
    tokens = [token for token in found["tokens"] if token["kind"] != "padding"]
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "it sat"}]
    of_today = codec.apply_chat_template(messages, tokenize=False)
    of_training = re.sub(r"\d\d [A-Z][a-z]{2} \d{4}", "26 Jul 2024", of_today)
    assert [token["id"] for token in tokens] == codec.encode(of_training, add_special_tokens=False)
    answer = [*codec.encode("it sat", add_special_tokens=False), end]
    assert [token["id"] for token in tokens if token["kind"] == "loss"] == answer  # though its tags are around the user's words, too


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tokenizer.variant=gpt2"], 2, "nor the special tokens of a format"),
        (["objective.format=gemma"], 2, 'tokenizer.special_tokens: ["<start_of_turn>", "<end_of_turn>"]'),
        (["objective.format=template"], 2, "the tokenizer has no chat template"),
        (["objective.format=mistral", "objective.system=Rhyme."], 2, "no system message: remove it"),
        (["objective.pack=true", "data.length_groups=false"], 2, "data.length_groups"),
        (["model.context_length=40"], 3, "rows.jsonl:1: "),
    ],
)
def test_mistakes_are_reported_before_the_first_step(place: Path, words: list[str], code: int, message: str) -> None:
    pretrain(place / "run", place / "chat.yaml", *words).refuses(code, message)
    assert not (place / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("words", [["training.adapter={rank: 2}"], ["training.frozen=[embedding.*, head.*]"], []])
def test_a_frozen_output_matrix_does_not_learn_the_tokens_of_a_format(place: Path, words: list[str]) -> None:
    write_rows(place / "text.jsonl", [{"text": f"the cat sat {number}"} for number in range(40)])
    base = RECIPE.replace("{variant: smollm2, vocab_size: 320}", "{vocab_size: 300}").replace("model: {", "model: {vocab_size: 320, ")
    (place / "base.yaml").write_text(base.replace("[the cat]", "[]"), encoding="utf-8")  # with spare rows, so that an adapter fits
    text = ["objective={kind: causal_lm}", "data={train: [{path: text.jsonl}]}", "training.steps=1", "data.sequence_length=32"]
    pretrain(place / "base", place / "base.yaml", *text).exits(0)
    write_tuning(base.replace("[the cat]", "[]"), "{from: base}", "brief")
    done = run_here(["finetune", "tune.yaml", "--run", "tuned", "--threads", "1", "training.steps=1", *words]).exits(0)
    assert ("<|im_start|>, <|im_end|>: new in the vocabulary, and their vectors are not trained" in done.err) is bool(words)
