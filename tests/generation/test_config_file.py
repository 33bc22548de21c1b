"""generation_config.json of foreign checkpoints: beside transformers' own generate, under the command line, and kept on saving."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import their_writers
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, GPT2Config, LlamaConfig, MarianConfig, T5Config

from tfkit.errors import ModelError
from tfkit.generation.config_file import checkpoint_settings, stated_settings
from tfkit.generation.decoding import generate
from tfkit.hub import describe, load, save_model
from tfkit.recipe.schema.output_sections import GenerationSection

VOCABULARY, PAD, EOS = 41, 0, 3
SIZES = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 1}
MARIAN = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 3, "decoder_attention_heads": 3}
CONFIGS: dict[str, Any] = {
    "gpt2": GPT2Config(**SIZES, n_embd=24, n_layer=2, n_head=3, n_positions=64),
    "llama": LlamaConfig(**SIZES, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3),
    "t5": T5Config(**SIZES, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=PAD),
    "marian": MarianConfig(
        **SIZES | MARIAN, encoder_ffn_dim=40, decoder_ffn_dim=40, decoder_start_token_id=PAD, forced_eos_token_id=EOS,
        max_position_embeddings=64, scale_embedding=True,
    ),
}  # fmt: skip
PROMPTS = [[5, 9, 2], [40], [7, 7, 30, 1, 2, 11, 19]]
FILES: dict[str, dict[str, Any]] = {
    "bad words": {"bad_words_ids": [[PAD], [5], [7, 30], [9, 9, 9], [EOS]], "max_new_tokens": 12},
    "suppressed": {"suppress_tokens": [4, 6, 8, 10], "begin_suppress_tokens": [EOS, 12, 40], "max_new_tokens": 12},
    "forced": {"forced_bos_token_id": 8, "forced_eos_token_id": EOS, "begin_suppress_tokens": [9], "max_length": 9},
    "several forced": {"forced_eos_token_id": [EOS, 6], "eos_token_id": [EOS, 6, 7], "max_new_tokens": 6},
    "short": {"max_length": 12, "min_length": 9, "eos_token_id": [EOS, 5, 7, 9, 11, 13, 17, 19, 20, 21]},
    "new tokens": {"max_new_tokens": 11, "min_new_tokens": 6, "eos_token_id": [EOS, 5, 7, 9, 11, 13, 17, 19, 20, 21]},
    "against repetition": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "max_new_tokens": 14},
    "beams": {"num_beams": 3, "length_penalty": 0.6, "early_stopping": True, "max_length": 14, "bad_words_ids": [[PAD]]},
    "all": {
        "num_beams": 4, "early_stopping": "never", "max_length": 13, "min_length": 10, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2,
        "bad_words_ids": [[PAD], [4, 5]], "suppress_tokens": [10, 11], "begin_suppress_tokens": [12], "forced_eos_token_id": EOS,
    },
}  # fmt: skip


def write(folder: Path, kind: str, **stated: Any) -> Path:
    config = CONFIGS[kind]
    torch.manual_seed(5)
    model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:
                parameter.copy_(0.35 * torch.randn(parameter.shape))
        for name, parameter in model.named_parameters():
            if "encoder_attn.out_proj.weight" in name or "EncDecAttention.o.weight" in name:
                parameter.mul_(0.2)
    model.save_pretrained(folder)
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 1}
    if config.is_encoder_decoder:
        ids["decoder_start_token_id"] = PAD
    (folder / "generation_config.json").write_text(json.dumps(ids | stated), encoding="utf-8")
    return folder


def ours(folder: Path) -> list[list[int]]:
    loaded = load(folder)
    encodes, settings = loaded.model.encoder is not None, GenerationSection(temperature=0)
    decided = checkpoint_settings(loaded.generation, settings, (), encodes=encodes, vocab_size=VOCABULARY, folder=folder)
    made = generate(
        loaded.model, PROMPTS, decided.settings, eos_ids=loaded.eos_ids, start_id=loaded.start_id, constraints=decided.constraints
    )
    return [completion.ids for completion in made]


def theirs(folder: Path, kind: str) -> list[list[int]]:
    model = their_writers.opened(folder, encodes=CONFIGS[kind].is_encoder_decoder)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [list(takewhile(lambda token: token not in ends, their_writers.written(model, prompt))) for prompt in PROMPTS]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", CONFIGS)
def test_each_file_gives_what_it_gives_in_transformers(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind, max_new_tokens=12)
    plain, bites = ours(tmp_path), 0
    for name, stated in FILES.items():
        path = tmp_path / "generation_config.json"
        path.write_text(json.dumps({"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD} | stated), encoding="utf-8")
        made = ours(tmp_path)
        assert made == theirs(tmp_path, kind), name
        bites += made != plain
    assert bites >= len(FILES) - 2


def test_an_older_folder_states_it_in_config_json(tmp_path: Path) -> None:
    """As Marian's first folders do; without the key the pad token that begins a text may also be written."""
    write(tmp_path, "marian")
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {"bad_words_ids": [[PAD]], "num_beams": 2, "max_length": 12, "forced_eos_token_id": EOS}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ours(tmp_path) == theirs(tmp_path, "marian")


def decide(stated: dict[str, Any], *given: str, encodes: bool = False, **settings: Any) -> Any:
    section = GenerationSection(**settings)
    return checkpoint_settings(stated, section, given, encodes=encodes, vocab_size=VOCABULARY, folder=Path("folder"))


def test_the_command_line_wins() -> None:
    stated = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 50, "num_beams": None}
    assert decide(stated).taken == {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "max_new_tokens": 50}
    decided = decide(stated, "temperature", "max_new_tokens", temperature=0, max_new_tokens=5)
    assert decided.taken == {"top_k": 50, "top_p": 0.9}
    assert (decided.settings.temperature, decided.settings.max_new_tokens) == (0, 5)
    assert decide({"do_sample": False}).settings.temperature == 0
    assert decide({"do_sample": False}, "top_p", top_p=0.5).settings.temperature == 1
    assert decide({"temperature": 0.6, "top_p": 0.9}).taken == {"temperature": 0.0}  # transformers ignores them without do_sample, too
    assert decide({"num_beams": 4}, "temperature", temperature=0.5).settings.num_beams == 1
    assert decide({}, "temperature", "top_k", "num_beams", temperature=0.5, top_k=2, num_beams=4).unread == ["temperature", "top_k"]
    assert decide({}, "temperature", "num_beams", temperature=0, num_beams=4).unread == []
    limited = decide({"max_length": 30}, "max_new_tokens", max_new_tokens=100)
    assert limited.constraints.limit(25, limited.settings.max_new_tokens) == 100
    assert decide({"max_length": 30}).constraints.limit(25, 30) == 5


def test_without_do_sample_the_likeliest_token_is_taken_and_with_it_50_are_drawn_from() -> None:
    """As transformers does."""
    assert decide({}).settings.temperature == 0
    assert decide({"temperature": 0.6, "top_k": 5}).settings.temperature == 0
    assert decide({"do_sample": True}).settings.top_k == 50
    assert decide({"do_sample": True, "top_k": 0}).settings.top_k is None
    assert decide({}, "temperature", temperature=0.7).settings.top_k is None, "an option says all of it"


def test_a_single_stop_string_needs_no_list() -> None:
    """As in transformers."""
    assert decide({"stop_strings": "###"}).settings.stop == decide({"stop_strings": ["###"]}).settings.stop == ["###"]


SECTIONS = st.builds(
    GenerationSection,
    max_new_tokens=st.integers(1, 300),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.sampled_from([1.0, 0.9]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    no_repeat_ngram=st.none() | st.integers(1, 4),
    num_beams=st.integers(1, 3),
    length_penalty=st.sampled_from([1.0, 0.6]),
    early_stopping=st.sampled_from(["full", "likely", "never"]),
)


@given(SECTIONS, st.booleans())
def test_a_trained_model_writes_as_its_recipe_says_also_in_transformers(section: GenerationSection, tuned: bool) -> None:
    base = {"do_sample": True, "temperature": 0.31, "top_k": 7, "a key of tomorrow": 1} if tuned else None
    stated = stated_settings(section, base)
    theirs = GenerationConfig.from_dict(stated)
    assert bool(theirs.do_sample) == (section.num_beams == 1 and stated["do_sample"])
    read = checkpoint_settings(stated, GenerationSection(), (), encodes=False, vocab_size=VOCABULARY, folder=Path("folder")).settings
    sampling = {name: getattr(section, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    if tuned and sampling == {"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": 0.0}:
        sampling = {"temperature": 0.31, "top_k": 7}
    assert (stated.get("a key of tomorrow") == 1) == tuned
    if section.num_beams == 1:
        for name, value in sampling.items() if sampling["temperature"] else [("temperature", 0.0)]:
            assert getattr(read, name) == value, name
    for name in ("max_new_tokens", "repetition_penalty", "no_repeat_ngram", "num_beams", "length_penalty", "early_stopping"):
        assert getattr(read, name) == getattr(section, name)


def test_a_model_that_was_tuned_from_one_without_settings_is_greedy() -> None:
    assert stated_settings(GenerationSection(), {}) == {}
    assert stated_settings(GenerationSection(), None) == {"do_sample": True, "temperature": 1.0, "top_k": 0}
    assert stated_settings(GenerationSection(temperature=0), None) == {"do_sample": False}


def test_what_is_not_supported_is_named_where_it_matters() -> None:
    neutral = {"diversity_penalty": 0.0, "num_beam_groups": 1, "typical_p": 0.5, "guidance_scale": None, "encoder_no_repeat_ngram_size": 0}
    assert decide(neutral).unsupported == []
    assert decide(neutral | {"do_sample": True, "diversity_penalty": 0.5}).unsupported == ["diversity_penalty", "typical_p"]
    assert decide({"do_sample": True, "num_beams": 2}).unsupported == ["do_sample with num_beams"]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"bad_words_ids": [[VOCABULARY]]}, "bad_words_ids has 41, which is not a token of the 41"),
        ({"bad_words_ids": [[]]}, "bad_words_ids has an empty list"),
        ({"bad_words_ids": 3}, "bad_words_ids is 3, not a list"),
        ({"suppress_tokens": [-1]}, "suppress_tokens has -1"),
        ({"forced_bos_token_id": "a"}, "forced_bos_token_id has 'a'"),
        ({"min_length": -3}, "min_length is -3"),
        ({"num_beams": "many"}, "num_beams: Input should be a valid integer"),
        ({"early_stopping": []}, "early_stopping: Input should be 'full', 'likely' or 'never'"),
        ({"max_length": "9"}, "max_new_tokens: Input should be a valid integer"),
        ({"do_sample": True, "temperature": -1}, "temperature: Input should be greater than or equal to 0"),
    ],
)
def test_values_that_cannot_be(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=r"folder/generation_config\.json: ") as caught:
        decide(stated)
    assert message in str(caught.value)


def test_every_key_is_kept_on_saving(tmp_path: Path) -> None:
    stated = {"bad_words_ids": [[PAD]], "diversity_penalty": 0.5, "temperature": 0.6, "eos_token_id": [EOS, 9], "a key of tomorrow": [1]}
    folder = write(tmp_path / "theirs", "gpt2", **stated)
    loaded = load(folder)
    loaded.save(tmp_path / "ours")
    again = json.loads((tmp_path / "ours" / "generation_config.json").read_text(encoding="utf-8"))
    assert again.items() >= stated.items()
    tensors, ids = loaded.model.state_dict(), {"eos_token_id": EOS}
    (tmp_path / "tuned").mkdir()
    save_model(tmp_path / "tuned", loaded.config, tensors, None, special_ids=ids, generation=describe(folder).generation)
    again = json.loads((tmp_path / "tuned" / "generation_config.json").read_text(encoding="utf-8"))
    assert again.items() >= stated.items()
