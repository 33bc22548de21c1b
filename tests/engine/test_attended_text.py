"""The weights of the heads of a loaded model, and the rules that name heads."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_writers import TEXT, write_attended

import tfkit
from tfkit.engine.inference import attended_text
from tfkit.engine.inference.head_patterns import head_patterns
from tfkit.errors import DataError, ModelError, UsageError
from tfkit.model.config import ClassesHeadConfig

TRANSLATION = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "translation"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny T5."""
    return tfkit.load(write_attended(tmp_path_factory.mktemp("both"), "t5"))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mistral", "t5", "transformer_2017"])
def test_rows_sum_to_one_over_what_is_visible_and_are_zero_elsewhere(tmp_path: Path, family: str) -> None:
    loaded = tfkit.load(write_attended(tmp_path, family))
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    target = "a dog ran" if family in {"t5", "transformer_2017"} else None
    attended = loaded.attention(TEXT, target)
    assert attended.maps.keys() == attended.visible.keys() == ({"encoder", "decoder", "cross"} if target else {"decoder"})
    config = loaded.config
    for name, maps in attended.maps.items():
        queries, keys = attended.axes(name)
        assert (maps.dtype, maps.shape) == (np.float32, (2, config.num_heads, len(queries), len(keys)))
        visible = np.broadcast_to(attended.visible[name][:, None], maps.shape)
        assert np.allclose(maps.sum(-1), 1, atol=1e-6)
        assert not maps[~visible].any()
        places = np.arange(len(queries))[:, None] - np.arange(len(keys))[None, :]
        for layer in range(2):
            window = config.window(layer)
            expected = np.ones_like(places, bool) if name != "decoder" else (places >= 0) & (places < (window or len(queries)))
            assert (attended.visible[name][layer] == expected).all()
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_the_tokens_are_what_the_model_reads(both: Any) -> None:
    attended, tokenizer = both.attention(TEXT, "a dog ran"), both.require_tokenizer()
    assert len(attended.tokens) == len(tokenizer.encode_texts([TEXT])[0])
    assert attended.tokens[:2] == ["the", "Ġcat"]
    assert len(attended.target_tokens or []) == 1 + len(tokenizer.encode_bare(["a dog ran"])[0])


def test_a_notebook_shows_a_model_in_a_line(both: Any) -> None:
    count = sum(parameter.numel() for parameter in both.model.parameters())
    assert repr(both) == f"LoadedModel({str(both.folder)!r}, head {both.config.head.kind}, {count:,} parameters)"


def test_a_target_follows_the_token_that_the_decoder_is_forced_to_write_first(both: Any, tmp_path: Path) -> None:
    """As BART's decoder reads </s> <s> text."""
    plain = both.attention(TEXT, "a dog ran").target_tokens
    folder = Path(shutil.copytree(both.folder, tmp_path / "forced"))
    (folder / "generation_config.json").write_text(json.dumps({"forced_bos_token_id": 7}))
    loaded = tfkit.load(folder, verify=False)
    forced = loaded.attention(TEXT, "a dog ran").target_tokens or []
    assert (forced[:1], forced[2:]) == (plain[:1], plain[1:])
    assert len(loaded.attention(TEXT).target_tokens or []) >= 2


def test_without_a_target_an_encoder_decoder_reads_its_own_answer(both: Any) -> None:
    answer = both.generate(TEXT, {"generation.temperature": 0.0, "generation.max_new_tokens": 64})[0].completion
    alone, given = both.attention(TEXT), both.attention(TEXT, answer)
    assert alone.target_tokens == given.target_tokens
    assert len(alone.target_tokens or []) > 1
    assert np.array_equal(alone.maps["cross"], given.maps["cross"])


def test_the_own_answer_is_greedy_also_where_the_run_searches_by_beams(tmp_path: Path) -> None:
    shutil.copytree(TRANSLATION, tmp_path / "run")
    recipe = (tmp_path / "run/recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "run/recipe.yaml").write_text(recipe.replace("num_beams: 1", "num_beams: 4"), encoding="utf-8")
    loaded, random = tfkit.load(tmp_path / "run"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.normal_(0, 0.4, generator=random)
    settings = {"generation.temperature": 0.0, "generation.max_new_tokens": 64}
    [greedy] = loaded.generate("a dog sat", settings | {"generation.num_beams": 1})
    [searched] = loaded.generate("a dog sat", settings)
    assert greedy.completion != searched.completion
    assert loaded.attention("a dog sat").target_tokens == loaded.attention("a dog sat", greedy.completion).target_tokens


def test_rules_name_each_kind() -> None:
    tokens = list("abcabdefab")
    count = len(tokens)
    causal = np.tril(np.ones((count, count), bool))

    def of(weights: np.ndarray, visible: np.ndarray, cross: bool = False, keys: list[str] = tokens) -> str:
        made = (weights / weights.sum(1, keepdims=True)).astype(np.float32)[None, None]
        return head_patterns(made, visible[None], tokens, keys, cross=cross)[0].kind

    first, last = np.zeros((count, count)), np.zeros((count, count))
    first[:, 0], last[:, -1] = 1, 1
    same = np.array([[a == b and s != t for s, b in enumerate(tokens)] for t, a in enumerate(tokens)], float) + 0.01
    full = np.ones((count, count), bool)
    assert of(first, causal) == "first token"
    assert of(last, full) == "last token"
    assert of(np.eye(count), causal) == "itself"
    assert of(same, full) == "same token"
    assert of(causal.astype(float), causal) == "spread"
    assert of(np.eye(count, count + 3, 2) + 0.01, np.ones((count, count + 3), bool), cross=True, keys=list("xyzuvwxyzuvwx")) == "in order"
    assert of(np.eye(count)[::-1] * 0.4 + first * 0.3 + last * 0.3 + 0.0, full) == "mixed"


def test_the_probabilities_of_next_tokens_are_the_models(tmp_path: Path) -> None:
    loaded = tfkit.load(write_attended(tmp_path, "gpt2"))
    attended = loaded.attention(TEXT, next_tokens=3)
    ids = torch.tensor([loaded.require_tokenizer().encode_texts([TEXT])[0]])
    with torch.no_grad():
        probabilities = loaded.model(ids).logits[0].softmax(-1)
    assert len(attended.next_tokens) == len(attended.tokens)
    for place, one in enumerate(attended.next_tokens):
        assert [value for _, value in one.likeliest] == pytest.approx(probabilities[place].topk(3).values.tolist())
        if place + 1 < len(attended.tokens):
            assert one.actual == attended.tokens[place + 1]
            assert one.probability == pytest.approx(float(probabilities[place, ids[0, place + 1]]))
    assert (attended.next_tokens[-1].actual, attended.next_tokens[-1].probability) == (None, None)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        (TEXT, "a dog", "more than the 100 that are kept"),
        ("a\ud800", "a dog", "the text holds half a surrogate pair at character 1"),
        (TEXT, "\ud800", "the target holds half a surrogate pair at character 0"),
    ],
    ids=["large", "text", "target"],
)
def test_maps_that_would_fill_the_memory_and_half_characters_are_refused(
    both: Any, text: str, target: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attended_text, "_MOST_WEIGHTS", 100)
    with pytest.raises(DataError, match=message):
        both.attention(text, target)


def test_a_classifier_has_maps_but_no_next_token(tmp_path: Path) -> None:
    loaded = tfkit.load(write_attended(tmp_path, "gpt2"), head=ClassesHeadConfig(kind="classes", count=3, pool="last"))
    assert loaded.attention(TEXT).maps["decoder"].shape[:2] == (2, 3)
    with pytest.raises(ModelError, match="predicts no next token"):
        loaded.attention(TEXT, next_tokens=3)


@pytest.mark.parametrize(("layer", "head"), [(-1, None), (2, None), (None, 6), (0, -1), (-1, 0)])
def test_a_layer_or_a_head_that_the_model_does_not_have_is_refused(both: Any, layer: int | None, head: int | None) -> None:
    attended = both.attention(TEXT, "a dog")
    given = " ".join(f"`{name}` {number}" for name, number in (("layer", layer), ("head", head)) if number is not None)
    for ask in (attended.to_dict, attended.require_head):
        with pytest.raises(UsageError, match=f"^{given}: the model has 2 layers, 0 to 1"):
            ask(layer, head)
    with pytest.raises(UsageError, match="next_tokens=-1: a number of tokens is not negative"):
        both.attention(TEXT, "a dog", next_tokens=-1)
