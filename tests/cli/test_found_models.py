"""Models as they are found, tuned without a recipe: decided, trained, predicted, listed for the Hub; transformers answers the same.

And models of ours: from random weights to a task that is judged on rows that they never saw.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from answer_runs import BERT_WORDS, T5_WORDS
from tiny_files import parse_rows, write_rows
from tiny_runs import WORDS, Done, pretrain, run_here, write_corpus, write_recipe
from tokenizers import Tokenizer as TrainableTokenizer
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tfkit.hub import find_checkpoint
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import save_tokenizer, train_tokenizer

NOUNS = "book", "play", "night", "story"
TEXTS = [f"the film was {word} and the {noun}" for word in ("lovely", "warm", "dull", "cold") for noun in NOUNS]
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 60}
SIZES |= {"initializer_range": 0.2}


TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
FOUND: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # the class, changes to its config, and the tokenizer
    "roberta": ("Roberta", {"type_vocab_size": 1}, {"kind": "byte_bpe", "variant": "roberta"}),
    "modernbert": ("ModernBert", {"local_attention": 4}, {"kind": "wordpiece"}),  # which writes ids beyond this vocabulary
}


def tuned(place: Path, data: str, new: str, *changes: str) -> tuple[list[dict[str, Any]], Path]:
    """Return the answers to new rows of the model in the folder `found`, tuned without a recipe, and its checkpoint."""
    settings = ["carbon.enabled=false", "training.trial_rates=null", *changes]
    run_here(["finetune", "--from", "found", "--data", data, "--run", "run", *settings], place).exits(0)
    answers = run_here(["predict", "--from", "run", "--data", new, "carbon.enabled=false"], place).exits(0).out
    assert "model.safetensors" in run_here(["push", "run", "someone/name", "--dry-run"], place).exits(0).out
    return parse_rows(answers), find_checkpoint(place / "run")


@pytest.mark.thorough
def test_a_chat_file_tunes_qwen3(tmp_path: Path) -> None:
    """With the tokenizer of Qwen's class, and a template in a file of its own, as transformers writes them."""
    things = "car", "cup", "hat", "door", "tree"
    asked = [f"What colour is the {colour} {thing}?" for colour in ("red", "blue", "green") for thing in things]
    rows = [[{"role": "user", "content": one}, {"role": "assistant", "content": f"It is {one.split()[4]}."}] for one in asked]
    write_rows(tmp_path / "rows.jsonl", [{"messages": row} for row in rows * 4])
    write_rows(tmp_path / "new.jsonl", [{"messages": row[:1]} for row in rows])
    trained = TrainableTokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(asked, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    described = json.loads(trained.to_str())["model"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=described["vocab"], merges=[tuple(one) for one in described["merges"]], eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "found")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "tie_word_embeddings": True, "initializer_range": 0.1}
    config = transformers.Qwen3Config(vocab_size=320, intermediate_size=96, max_position_embeddings=64, **sizes, **ids)
    torch.manual_seed(1)
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "found")
    answers, checkpoint = tuned(tmp_path, "rows.jsonl", "new.jsonl", "training.epochs=4", "optimizer.lr=1e-2")
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert theirs.config.model_type == "qwen3"
    for row, answer in zip(rows, answers, strict=True):
        prompt = tokenizer.apply_chat_template(row[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        text = theirs.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(text, skip_special_tokens=True) == answer["prediction"]
    assert sum(answer["prediction"] == row[1]["content"] for row, answer in zip(rows, answers, strict=True)) > 5


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", FOUND)
def test_a_labelled_csv_tunes_it(tmp_path: Path, name: str) -> None:
    kind, changes, section = FOUND[name]
    codec = train_tokenizer(TokenizerSection(vocab_size=320, **section), TEXTS * 20)
    padded = {"pad_token_id": codec.pad_id} if name == "modernbert" else {}
    config = getattr(transformers, f"{kind}Config")(vocab_size=codec.size, **padded, **changes, **SIZES)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(tmp_path / "found")
    save_tokenizer(codec, tmp_path / "found")
    rows = [f"{text},{'good' if 'lovely' in text or 'warm' in text else 'bad'}" for text in TEXTS * 3]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    (tmp_path / "new.csv").write_text("\n".join(["text", *TEXTS, ""]), encoding="utf-8")
    answers, checkpoint = tuned(tmp_path, "rows.csv", "new.csv", "training.epochs=2")
    theirs, tokenizer = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval(), AutoTokenizer.from_pretrained(checkpoint)
    assert theirs.config.model_type == name
    with torch.no_grad():
        probabilities = theirs(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert [theirs.config.id2label[int(row.argmax())] for row in probabilities] == [answer["prediction"] for answer in answers]
    assert [answer["probability"] for answer in answers] == pytest.approx(probabilities.amax(-1).tolist(), abs=1e-4)


# -- from random weights


TASKS = {  # how the model is pretrained, what it learns then, and the metric that shows it
    "bert": ([*BERT_WORDS, "training.steps=12", "model.dim=32"], "classification", "accuracy"),
    "gpt2": (["model.dim=32"], "classification", "accuracy"),
    "t5": ([*T5_WORDS, "model.dim=32", "model.head_dim=16", "model.hidden_dim=64"], "text_to_text", "exact_match"),
}


def rows(seed: int, count: int) -> Iterator[dict[str, str]]:
    """Texts of a few words, and whether one of them is `cat`: as a class, and as a text."""
    random = np.random.default_rng(seed)
    for number in range(count):
        words = [str(word) for word in random.choice([word for word in WORDS[:15] if word != "cat"], int(random.integers(2, 7)))]
        if number % 2:
            words[int(random.integers(len(words)))] = "cat"
        answer = "big" if number % 2 else "small"
        yield {"text": " ".join(words), "label": answer, "target": answer}


def run(*words: str) -> Done:
    return run_here([*words, "--json", "carbon.enabled=false"])


@pytest.mark.thorough
@pytest.mark.parametrize("name", TASKS)
def test_what_was_pretrained_here_learns_a_task(name: str, tmp_path: Path, in_tmp_path: None) -> None:
    pretrained, kind, metric = TASKS[name]
    pretrain(tmp_path / "base", write_recipe(tmp_path, write_corpus(tmp_path / "corpus")), *pretrained).exits(0)
    write_rows(tmp_path / "train.jsonl", rows(1, 400))
    write_rows(tmp_path / "test.jsonl", rows(2, 60))
    settings = ["optimizer={kind: adamw, lr: 1e-2}", "training={steps: 100, batch_size: 16, precision: fp32}", "evaluation.every=50"]
    task = ["--data", "train.jsonl", "--run", "tuned", f"objective={{kind: {kind}}}"]
    tuned = run("finetune", "--from", "base", *task, *settings).exits(0).document
    assert (tuned["steps"], Path(tuned["checkpoint"]).parts[-3:]) == (100, ("tuned", "checkpoints", "step-000100"))
    assert metric not in tuned["evaluation"] or 0 <= tuned["evaluation"][metric] <= 1  # whole texts are written at the end alone
    judged = ["evaluate", "--from", "tuned", "--data", "test.jsonl", "--fail-if"]
    taught, untaught = run(*judged, f"{metric} < 0.95").exits(0), run(*judged, f"{metric} > 0.4").exits(8)
    assert untaught.document["metrics"] == taught.document["metrics"]
