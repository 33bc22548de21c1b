"""tfkit generate on encoders: a masked language model fills its masks, others say what they are for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_files import parse_rows, write_rows
from tiny_runs import Done, run_here
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tfkit.errors import DataError, ModelError
from tfkit.families import PRESETS
from tfkit.generation.fill import fill
from tfkit.hub import load, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "capital", "of", "france", "is", "paris", "play", "##ing", "##s", ".", "a"]
SETTINGS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
NO_CARBON = "carbon.enabled=false"


def wordpiece(**settings: Any) -> Tokenizer:
    backend = Backend(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer.from_json(backend.to_str(), SETTINGS | settings)


def write_checkpoint(folder: Path, head: dict[str, Any], likeliest: str = "paris", preset: str = "bert-tiny", **settings: Any) -> Path:
    """A model folder; where the head has a bias for each entry, it makes `likeliest` that at every mask."""
    tiny = {"vocab_size": len(WORDS), "context_length": 16, "encoder_layers": 2, "dim": 24, "num_heads": 3, "init": {"std": 0.3}}
    model = build(ModelConfig.model_validate(PRESETS[preset][1] | tiny | {"head": head}), seed=1)
    if head["kind"] == "masked_lm":
        model.head.bias.data[WORDS.index(likeliest)] = 99.0
    folder.mkdir(parents=True)
    save_model(folder, model.config, model.state_dict(), wordpiece(**settings))
    return folder


MASKED = {"kind": "masked_lm", "tied": True, "next_sentence": True}


def run(*arguments: object) -> Done:
    return run_here(["generate", *arguments, NO_CARBON])


@pytest.fixture(scope="module", params=[False, True], ids=["as transformers", "special tokens split"])
def folder(request, tmp_path_factory) -> Path:
    """With a tokenizer that finds [MASK] in a text, and one that reads it as plain text, as those that tfkit trains do."""
    return write_checkpoint(tmp_path_factory.mktemp("fill") / "model", MASKED, split_special_tokens=request.param)


@pytest.mark.parametrize(
    ("likeliest", "filled"),
    [
        ("##ing", {"He is play[MASK] a game": "He is playing a game"}),
        ("paris", {"[MASK]": "paris", "[MASK] is [MASK] [MASK]": "paris is paris paris", "the[MASK].": "the paris."}),
        ("##s", {"[MASK] play[MASK]": "s plays"}),
        (".", {"a [UNK] [MASK]": "a [UNK] ."}),
    ],
)
def test_the_place_of_a_token(tmp_path, likeliest, filled):
    loaded = load(write_checkpoint(tmp_path / "model", MASKED, likeliest))
    assert [one.text for one in fill(loaded.model, loaded.codec, [*filled])] == [*filled.values()]


def test_a_filled_text_and_json_lines_with_the_candidates(folder, tmp_path):
    done = run("--from", folder, "--prompt", "The  capital of France is [MASK].").exits(0)
    assert done.out == "The  capital of France is paris.\n"  # all but the mask as it was written
    prompts = ["a [MASK] is [MASK].", "France [MASK]", "[MASK] of"] * 7  # more than a batch, of several lengths
    path = write_rows(tmp_path / "prompts.jsonl", ({"prompt": prompt} for prompt in prompts))
    lines = parse_rows(run("--from", folder, "--input", path).exits(0).out)
    wanted = [("a paris is paris.", 2), ("France paris", 1), ("paris of", 1)] * 7
    assert [(line["prompt"], line["finish"]) for line in lines] == [(prompt, "stop") for prompt in prompts]
    assert [(line["completion"], line["tokens"]) for line in lines] == wanted
    assert [len(line["candidates"]) for line in lines] == [tokens for _, tokens in wanted]
    for candidates in (candidates for line in lines for candidates in line["candidates"]):
        shares = [candidate["probability"] for candidate in candidates]
        assert (len(shares), candidates[0]["token"]) == (5, "paris")
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) < 1 + 1e-6


@torch.no_grad()
def test_the_candidates_are_the_models_own(folder):
    """A batch with padding gives what the model gives for a text alone."""
    loaded = load(folder)
    loaded.model.head.bias.data.zero_()
    texts = ["the capital of france is [MASK] .", "play [MASK]", "[MASK] is a [MASK]"]
    for text, filling in zip(texts, fill(loaded.model, loaded.codec, texts, top=3), strict=True):
        ids = [2, *(WORDS.index(word) for word in text.split()), 3]
        logits = loaded.model(torch.tensor([ids])).logits[0]
        for place, candidates in zip([i for i, token in enumerate(ids) if token == 4], filling.candidates, strict=True):
            shares, tokens = logits[place].softmax(dim=-1).topk(3)
            assert [candidate.probability for candidate in candidates] == pytest.approx(shares.tolist(), abs=1e-6)
            assert [candidate.token.strip() for candidate in candidates] == [WORDS[token].removeprefix("##") for token in tokens]


def test_what_cannot_be_filled(folder):
    run("--from", folder, "--prompt", "the capital").exits(3, "prompt 1 has no [MASK]")
    run("--from", folder, "--prompt", "a [MASK]", "--chat").exits(2, "leave --chat out")
    for setting in (["--temperature", "0.5"], ["--num-beams", "3"], ["--stop", "x"], ["generation.top_k=3"], ["generation={top_k: 3}"]):
        run("--from", folder, "--prompt", "a [MASK]", *setting).exits(2, "would have no effect")
    loaded = load(folder)
    with pytest.raises(DataError, match="prompt 9 has 19 tokens, but the model's context holds 16"):
        fill(loaded.model, loaded.codec, ["[MASK]", "[MASK]" + " the" * 16], first_row=7)


def test_a_tokenizer_without_a_mask(tmp_path):
    loaded = load(write_checkpoint(tmp_path / "model", MASKED))
    assert fill(loaded.model, wordpiece(mask_token=None), ["a [MASK]"])[0].text == "a paris"  # [MASK] is the usual one
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="no mask token"):
        fill(loaded.model, Tokenizer.from_json(backend.to_str(), {}), ["a [MASK]"])


def test_an_encoder_says_what_it_is_for(tmp_path):
    for preset, head, said in (
        ("bert-tiny", {"kind": "none", "pooler": True}, "it gives hidden states"),
        ("distilbert-base", {"kind": "none"}, "it gives hidden states"),
        ("bert-tiny", {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh", "bias": True}, "gives the class of a text"),
        ("bert-tiny", {"kind": "tags", "count": 5}, "gives a tag for each token"),
    ):
        folder = write_checkpoint(tmp_path / preset / head["kind"], head, preset=preset)
        run("--from", folder, "--prompt", "a [MASK]").refuses(4, said, "fill each [MASK]")
