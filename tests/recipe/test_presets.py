import pytest
from recipe_texts import errors, read

from tfkit.errors import UsageError
from tfkit.families import FAMILIES, MODEL_TYPES, PRESETS
from tfkit.model.config import LanguageModelHeadConfig, ModelConfig, Rotary
from tfkit.model.config.position_config import Learned
from tfkit.recipe import model_config
from tfkit.recipe.presets import merge, model_problems
from tfkit.recipe.reading.tree import Mapping, Place
from tfkit.recipe.schema.sections import ModelSection

REST = "\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 1}\n"


def config_of(size: int = 500, **changes: object) -> ModelConfig:
    """Return the model of a section for a tokenizer of so many entries."""
    return model_config(ModelSection.model_validate(changes), size)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_model(preset: str) -> None:
    config = config_of(preset=preset)
    assert (config.vocab_size, config.dim) == (500, PRESETS[preset][1]["dim"])


def test_a_preset_is_found_by_the_name_of_its_family() -> None:
    for family in FAMILIES.values():
        assert family.presets
        assert all(PRESETS[preset] == (family, values) for preset, values in family.presets.items())
    assert {kind: family.name for kind, family in MODEL_TYPES.items()} == {
        kind: family.name for family in reversed([*FAMILIES.values()]) for kind in (family.model_type, family.container) if kind is not None
    }
    assert not {"", "gpt2-", "llama", "elephant", "t5-small "} & PRESETS.keys()


def test_changes_go_into_the_preset_field_by_field_and_another_kind_replaces_the_section() -> None:
    config = config_of(preset="llama2-7b", dim=96, num_heads=6, mlp={"bias": True}, position={"theta": 5.0})
    assert (config.dim, config.head_dim, config.hidden_dim) == (96, 16, 256)
    assert (config.mlp.bias, config.mlp.gated) == (True, True)
    assert config.position == Rotary(kind="rotary", theta=5.0)
    # another kind replaces the section
    assert config_of(preset="llama2-7b", position={"kind": "learned"}).position == Learned(kind="learned")
    base = {"position": {"kind": "rotary", "theta": 3.0}}
    assert merge(base, {"position": {"kind": "rotary"}}) == base
    assert merge(base, {"position": {"kind": "learned"}}) == {"position": {"kind": "learned"}}
    assert base == {"position": {"kind": "rotary", "theta": 3.0}}


def test_the_output_scale_of_t5_follows_its_width() -> None:
    """Else a smaller T5 would be none, and no Hugging Face class would open it."""
    assert config_of(preset="t5-small", dim=64).head == LanguageModelHeadConfig(tied=True, scale=0.125)
    for head, scale in (({"kind": "lm", "bias": True}, 0.125), ({"scale": 1.0}, 1.0), ({"scale": None}, None)):
        assert config_of(preset="t5-small", dim=64, head=head).head.scale == scale
    assert config_of(preset="t5-v1.1-small", dim=64).head.scale is None


def test_a_stated_vocabulary_is_kept_and_must_hold_the_tokenizer() -> None:
    assert config_of(preset="gpt2", vocab_size=512).vocab_size == 512
    with pytest.raises(UsageError, match=r"model.vocab_size is 512, but the tokenizer has 600 entries"):
        config_of(600, preset="gpt2", vocab_size=512)


def test_a_full_description() -> None:
    full = "{context_length: 8, decoder_layers: 1, dim: 6, num_heads: 3, position: {kind: learned}, norm: {kind: rms}, "
    config = model_config(read(f"model: {full} mlp: {{activation: relu}}, head: {{tied: true}}}}{REST}").model, 300)
    assert (config.hidden_dim, config.head_dim, config.num_kv_heads) == (24, 2, 3)


ERRORS = {
    "{}": ["1:1: model: needs a preset, such as gpt2, or a full description"],
    "{preset: gtp2, dmi: 3}": [
        "1:17: model.preset: 'gtp2' is not a preset; did you mean gpt2? Presets are transformer-2017-base, gpt, ",
        "1:23: model.dmi: unknown, did you mean dim",
    ],
    "{preset: 3}": ["1:17: model.preset: must be text, not 3"],
    "gpt2": ["1:8: model: must be a section of fields, not the text 'gpt2'"],
    "{preset: gpt2, n_embd: 3}": ["1:23: model.n_embd: unknown, did you mean dim"],
    "{preset: gpt2, steps: 3}": ["1:23: model.steps: unknown here; it belongs to training"],
    "{preset: gpt2, dim: 100, num_heads: 7, layers: 3, norm: {eps: x}}": [
        "1:1: model: dim 100 is not divisible by num_heads 7",
        "1:47: model.layers: unknown, did you mean decoder_layers",
        "1:70: model.norm.eps: must be a number, not the text 'x'",
    ],
    "{preset: llama-7b, head_dim: 5}": ["1:1: model: head_dim 5 is odd"],
    "{preset: gpt2, position: {theta: 3}}": ["1:34: model.position.theta: unknown"],
    "{preset: gpt2, position: rotary}": ["1:33: model.position: "],
    "{preset: gpt2, dim: .nan}": ["1:28: model.dim: must be a whole number, not nan"],
    "{preset: gpt2, dropout: }": ["1:23: model.dropout: is empty"],
}


@pytest.mark.parametrize("model", ERRORS)
def test_errors_of_the_model_are_reported_where_they_are_written(model: str) -> None:
    for line, begin in zip(errors(f"model: {model}{REST}"), ERRORS[model], strict=True):
        assert line.startswith(f"r.yaml:{begin}")


def test_a_missing_width_is_said_once() -> None:
    paths = {problem.path[-1] for problem in model_problems({"num_heads": 3}, 300, Mapping(Place("f", 1, 1)))}
    assert "dim" in paths
    assert not paths & {"hidden_dim", "head_dim", "num_kv_heads"}
