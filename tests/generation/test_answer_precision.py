"""The arithmetic of generate, predict and embed: what auto decides, and that each is used, named and refused where it must be."""

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from tiny_files import parse_rows, read_rows
from tiny_runs import run_here
from tiny_writers import tiny_model

import tfkit
from tfkit import adapters
from tfkit.errors import MachineError, ModelError, UsageError
from tfkit.generation import answer_precision
from tfkit.generation.answer_precision import open_in_precision
from tfkit.model import answering_linear
from tfkit.model.answering_linear import can_pack, has_int8
from tfkit.model.config import ClassesHeadConfig, NoHeadConfig
from tfkit.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent.parent / "fixtures" / "v0.1.0"
WRITER, CLASSIFIER = FIXTURES / "finished", FIXTURES / "classes"
NO_LETTERS = tokenizers.Tokenizer(tokenizers.models.BPE({"\u20ac": 0}, []))  # it drops all characters of the sample texts
int8 = pytest.mark.skipif(not has_int8(torch.device("cpu")), reason="this processor has no products of 8 bits")


def opened(folder: Path, wanted="auto", *, has_bf16=True, agree=bool, change=lambda loaded: loaded):
    def load(dtype):
        return change(adapters.load(folder, dtype=dtype))

    return open_in_precision(load, wanted, torch.device("cpu"), agree, has_bf16=has_bf16)


def with_head(head):
    """A change of what was loaded, to a model whose config has this head."""
    return {"change": lambda loaded: replace(loaded, config=loaded.config.model_copy(update={"head": head}))}


@pytest.fixture
def any_size(monkeypatch):
    monkeypatch.setattr(answer_precision, "_FEW_PARAMETERS", 0)


@pytest.mark.parametrize("folder", [WRITER, CLASSIFIER, FIXTURES / "translation"])
def test_auto_is_bf16_where_answers_stay(any_size, folder):
    one = opened(folder)
    assert one.precision == "bf16"
    assert one.answers > 0
    assert one.changed <= 0.1 * one.answers
    assert {tensor.dtype for tensor in one.loaded.model.parameters()} == {torch.bfloat16}
    assert "precision=float32 is exact" in one.described()


def test_auto_is_float32_where_answers_change(any_size):
    def flatten(loaded):
        """Make all logits equal but for differences that bf16 does not have."""
        head = loaded.model.head
        with torch.no_grad():
            head.weight.copy_(1 + 1e-4 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)))
        return loaded

    one, exact = opened(WRITER, change=flatten), opened(WRITER, "float32", change=flatten)
    assert one.precision == "float32"
    assert one.changed > 0.1 * one.answers
    assert f"{one.changed:,} of {one.answers:,} answers" in one.described()
    for ours, theirs in zip(one.loaded.model.parameters(), exact.loaded.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_auto_is_float32_without_hardware_agreement_texts_or_choices(any_size):
    heads = NoHeadConfig(kind="none"), ClassesHeadConfig(kind="classes", count=1, pool="first")
    without_tokens = Tokenizer.from_backend(NO_LETTERS, NO_LETTERS.to_str(), {})
    without_texts = [{"change": lambda loaded, codec=codec: replace(loaded, codec=codec)} for codec in (None, without_tokens)]
    for how in ({"has_bf16": False}, {"agree": lambda allowed: False}, *without_texts, *map(with_head, heads)):
        one = opened(CLASSIFIER, **how)
        assert (one.precision, one.answers, one.described()) == ("float32", 0, "")


def test_auto_is_float32_for_small_models():
    assert opened(WRITER).precision == "float32"


@pytest.mark.parametrize("wanted", ["float32", "bf16", pytest.param("int8", marks=int8)])
def test_each_precision_is_used_by_the_library(wanted):
    loaded = tfkit.load(WRITER, precision=wanted)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.bfloat16 if wanted == "bf16" else torch.float32}
    settings = {"generation.max_new_tokens": 4, "generation.temperature": 0}
    [made], [again] = loaded.generate("the cat", settings), tfkit.generate("the cat", settings, start=WRITER, precision=wanted)
    assert made.completion == again.completion
    exact = tfkit.load(WRITER).embed(["the cat", "a dog"])
    assert torch.nn.functional.cosine_similarity(loaded.embed(["the cat", "a dog"]), exact).min() > 0.99


def test_each_precision_is_used_by_the_commands(tmp_path):
    predict = ["predict", "--from", CLASSIFIER, "--data", FIXTURES / "rows.jsonl", "--json", "--out"]
    for wanted, named in (("auto", "float32"), ("float32", "float32"), ("bf16", "bfloat16")):
        done = run_here([*predict, tmp_path / f"{wanted}.jsonl", "--precision", wanted])
        assert done.document["precision"] == named
    exact, rounded = (read_rows(tmp_path / f"{name}.jsonl") for name in ("float32", "bf16"))
    assert [row["prediction"] for row in exact] == [row["prediction"] for row in rounded]
    assert [row["probability"] for row in exact] != [row["probability"] for row in rounded]
    assert run_here([*predict, tmp_path / "x.csv", "evaluation.precision=bfloat16"]).document["precision"] == "bfloat16"


@int8
def test_int8_is_used_by_the_commands(tmp_path):
    words = ["predict", "--from", CLASSIFIER, "--data", FIXTURES / "rows.jsonl", "--out", tmp_path / "rows.jsonl"]
    assert run_here([*words, "--precision", "int8", "--json"]).document["precision"] == "int8"
    done = run_here(["generate", "--from", WRITER, "--prompt", "the cat", "--precision", "int8", "--max-new-tokens", "3"]).exits(0)
    assert done.out.startswith("the cat")
    with pytest.raises(ModelError, match="weights have 8 bits"):
        tfkit.load(WRITER, precision="int8").save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


PROMPT = ["--prompt", "the cat", "--temperature", "0"]
COMMANDS = [["generate", "--from", WRITER, *PROMPT], ["generate", "--from", FIXTURES / "translation", *PROMPT]]
COMMANDS += [["predict", "--from", CLASSIFIER, "--data", FIXTURES / "rows.jsonl"]]
COMMANDS += [["predict", "--from", FIXTURES / "translation", "--data", FIXTURES / "pairs.jsonl"]]


@pytest.mark.parametrize("words", COMMANDS)
def test_the_answers_of_a_large_model_are_those_of_a_small_one(words, monkeypatch):
    """The weights of a large one are laid out for the processor."""
    packed = []
    monkeypatch.setattr(answering_linear, "pack", lambda model, inner=answering_linear.pack: packed.append(model) or inner(model))
    small = run_here([*words, "--precision", "float32"])
    assert (small.code, packed) == (0, [])
    monkeypatch.setattr(answer_precision, "_FEW_PARAMETERS", 0)
    large = run_here([*words, "--precision", "float32"])
    assert len(packed) == can_pack(torch.device("cpu"))
    assert run_here([*words, "--precision", "bf16"]).code == 0
    assert len(packed) == can_pack(torch.device("cpu")) + can_pack(torch.device("cpu"), torch.bfloat16)
    rows, others = (parse_rows(done.out) if words[0] == "predict" else [done.out] for done in (large, small))
    for row, other in zip(rows, others, strict=True):
        numbers = {"probability": pytest.approx(other["probability"], abs=1e-4)} if "probability" in other else {}
        assert row == (other | numbers if numbers else other)


def test_a_tokenizer_of_another_model_is_an_error_of_the_checkpoint(any_size):
    small = tiny_model("gpt2", 40, vocab_size=50)
    with pytest.raises(ModelError, match="they do not belong together"):
        opened(WRITER, change=lambda loaded: replace(loaded, model=small, config=small.config))


def test_what_cannot_be_is_refused():
    assert run_here(["generate", "--from", WRITER, "--prompt", "the cat", "--precision", "int4"]).code == 2
    with pytest.raises(UsageError, match=r"precision.*int4.*auto, float32, bf16, int8"):
        tfkit.generate("the cat", start=WRITER, precision="int4")
    with pytest.raises(MachineError, match=r"precision=int8: needs a processor"):
        tfkit.load(WRITER, precision="int8", device="meta")
    with pytest.raises(UsageError, match=r"device=x: not a device; use cpu"):
        tfkit.load(WRITER, device="x")
    assert tfkit.load(WRITER, device="auto").config == tfkit.load(WRITER).config
