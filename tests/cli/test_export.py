"""tfkit export --gguf: the file's tokens and logits as other readers have them, and what llama.cpp would compute otherwise."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_files import read_json
from tiny_runs import Done, run_here

from tfkit.engine.tools.gguf_export import TYPES
from tfkit.families import GGUF_ARCHITECTURES, PRESETS
from tfkit.hub import load, save_model
from tfkit.model.transformer import Transformer
from tfkit.recipe.presets import model_config
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.sections import ModelSection
from tfkit.tokenizer import Tokenizer, save_tokenizer, train_tokenizer

SIZES = {"decoder_layers": 2, "dim": 64, "hidden_dim": 96, "num_heads": 4, "context_length": 64}
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 16}
SHARED: dict[str, Any] = {"num_kv_heads": 2}
WIDE: dict[str, Any] = {"num_kv_heads": 2, "head_dim": 32}


def experts(**settings: Any) -> dict[str, Any]:
    return {"mlp": {"experts": settings}}


def rotary(**settings: Any) -> dict[str, Any]:
    return {"position": {"kind": "rotary", **settings}}


MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("gpt2", {"hidden_dim": None}, "gpt2"),
    "llama": ("llama2-7b", SHARED, "gpt2"),
    "llama 3.1, whose frequencies are scaled": ("llama3-8b", SHARED | rotary(theta=5e5, scaling=SCALING), "llama3"),
    "mistral": ("mistral-7b-v0.3", SHARED, "gpt2"),
    "smollm2": ("smollm2-135m", SHARED, "smollm2"),
    "qwen2": ("qwen2.5-0.5b", SHARED, "gpt2"),
    "qwen3": ("qwen3-0.6b", {"num_kv_heads": 4, "head_dim": 32}, "qwen"),
    "gemma": ("gemma-2b", WIDE, "gpt2"),
    "gemma3": ("gemma3-4b", WIDE | {"decoder_layers": 7, "attention": {"windows": [16, 16, 16, 16, 16, None]}}, "gpt2"),
    "smollm3": ("smollm3-3b", SHARED | {"decoder_layers": 5}, "llama3"),
    "olmo2": ("olmo2-1b", SHARED, "gpt2"),
    "mixtral": ("mixtral-8x7b", SHARED | experts(count=5), "gpt2"),
    "olmoe": ("olmoe-1b-7b", experts(count=7, active=3), "gpt2"),
    "qwen3moe": ("qwen3-moe-30b-a3b", SHARED | experts(count=6, active=2, hidden_dim=32), "qwen"),
    "gemma2": ("gemma2-2b", WIDE | {"attention": {"softcap": 50.0, "windows": [16, None]}}, "gpt2"),
}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = "The cats, 12 of them, sat on 3,456 mats; it's naïve 🙂\n\n  def f(x):\treturn x\n"
CORPUS = [TEXT, "a cat and a dog sat on the mat and the hat", "it's 1999 and they're here: we'll go on"] * 3


@functools.cache
def tokenizer(variant: str, kind: str = "byte_bpe") -> Tokenizer:
    if variant == "qwen":  # with Llama 3's entries
        document = json.loads(tokenizer("llama3").tokenizer_json)
        document["normalizer"] = {"type": "NFC"}
        document["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": QWEN}
        document["model"]["ignore_merges"] = False
        return Tokenizer.from_json(json.dumps(document), tokenizer("llama3").settings)
    return train_tokenizer(TokenizerSection(kind=kind, variant=variant, vocab_size=600), [*CORPUS, Path(__file__).read_text()])


def make(folder: Path, preset: str, changes: dict[str, Any], codec: Tokenizer, **more: Any) -> Path:
    torch.manual_seed(3)
    config = model_config(ModelSection(preset=preset, **{**SIZES, **changes}), codec.size)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    folder.mkdir()
    save_model(folder, config, model.state_dict(), codec, family=None if preset.startswith("bert") else PRESETS[preset][0].name, **more)
    return folder


NOT_READ = ("gemma", "smollm3", "olmo2", "olmoe", "mixtral")  # by transformers


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "f16") for name in MODELS if name not in NOT_READ), ("llama", "q8_0"), ("qwen3moe", "q8_0")]
)
def test_transformers_reads_the_same_model(tmp_path: Path, name: str, kind: str) -> None:
    preset, changes, variant = MODELS[name]
    folder = make(tmp_path / "model", preset, changes, tokenizer(variant))
    document = run_here(["export", folder, "--gguf", tmp_path / "m.gguf", "--type", kind, "--json"]).exits(0).document
    llamas = ("llama", "mistral", "smollm2")
    assert document["architecture"] == ("llama" if name.partition(" ")[0] in llamas else name)
    assert document["bytes"] == (tmp_path / "m.gguf").stat().st_size
    (tmp_path / "m.gguf").rename(folder / "m.gguf")  # where transformers looks for it
    # transformers does not read all of a file's fields, and knows no file of Mistral, which is as Llama's
    config = {} if name == "mistral" else {"config": transformers.AutoConfig.from_pretrained(folder)}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, **config, gguf_file="m.gguf", dtype=torch.float32).eval()
    ours = load(folder)
    ids = torch.randint(0, ours.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = ours.model(ids).logits, theirs(ids).logits
    assert (wanted - found).abs().max() < {"f16": 0.02, "q8_0": 0.4}[kind] * wanted.std()
    codec = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
    if variant == "gpt2":  # transformers takes this splitter for all
        assert codec(TEXT)["input_ids"] == ours.codec.encode_texts([TEXT])[0]


def fields(path: Path) -> dict[str, Any]:
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_special_tokens_template_and_ends_are_in_the_file(tmp_path: Path) -> None:
    codec = tokenizer("smollm2").with_special_tokens(["<|im_start|>", "<|im_end|>"])
    settings = {**codec.settings, "eos_token": "<|im_end|>"}
    codec = Tokenizer.from_json(codec.tokenizer_json, settings, "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    end, text_end = (codec.backend.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>"))
    folder = make(tmp_path / "model", "smollm2-135m", {"num_kv_heads": 2}, codec, end_ids=[end, text_end])
    run_here(["export", folder, "--gguf", tmp_path / "m.gguf"]).exits(0)
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.chat_template"] == codec.chat_template
    assert (found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.eot_token_id"]) == (end, text_end)
    assert found["tokenizer.ggml.tokens"] == [codec.backend.id_to_token(number) for number in range(codec.size)]
    assert found["tokenizer.ggml.token_type"][end] == 3
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "smollm")


def test_a_bpe_of_characters_with_all_its_merges_has_scores(tmp_path: Path) -> None:
    codec = tokenizer("llama", "bpe_byte_fallback")
    document = json.loads(codec.tokenizer_json)
    vocab, known = document["model"]["vocab"], {tuple(merge) for merge in document["model"]["merges"]}
    made = ["".join(merge) for merge in document["model"]["merges"]]
    document["model"]["merges"] = [
        [piece[:at], piece[at:]] for piece in made for at in range(1, len(piece)) if piece[:at] in vocab and piece[at:] in vocab
    ]
    folder = make(tmp_path / "model", "llama2-7b", {}, Tokenizer.from_json(json.dumps(document), codec.settings))
    run_here(["export", folder, "--gguf", tmp_path / "m.gguf"]).exits(0)
    found = fields(tmp_path / "m.gguf")
    scores = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"], strict=True))
    assert sorted(made, key=lambda piece: -scores[piece]) == made
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert {found["tokenizer.ggml.token_type"][vocab[f"<0x{byte:02X}>"]] for byte in range(256)} == {6}
    assert known <= {tuple(merge) for merge in document["model"]["merges"]}


CLASSES = {"kind": "classes", "count": 2, "pool": "last", "bias": False}
EXPERTS = {"count": 4, "active": 2, "hidden_dim": 32}
YARN = {"kind": "yarn", "factor": 2.0, "original_context_length": 32}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "layers without experts": ("qwen3-moe-30b-a3b", SHARED | experts(**EXPERTS, layers=[True, False]), "some of its layers"),
    "experts weighted otherwise": ("qwen3-moe-30b-a3b", SHARED | experts(**EXPERTS, normalized=False), "not divided by their sum"),
    "shared heads in olmoe": ("olmoe-1b-7b", SHARED | experts(**EXPERTS), "its heads share keys"),
    "an encoder": ("bert-tiny", {}, "of the family"),
    "a window": ("mistral-7b-v0.3", SHARED | {"attention": {"windows": [8]}}, "a window of 8 tokens"),
    "windows in another order": ("gemma2-2b", {"head_dim": 16, "attention": {"windows": [None, 8]}}, "llama.cpp gives all layers"),
    "Gemma 3 without windows": ("gemma3-1b", {"head_dim": 16, "attention": {"windows": [None]}}, "llama.cpp gives all layers"),
    "a cap that Gemma 3 has no field for": ("gemma3-1b", {"head_dim": 16, "head": {"tied": True, "softcap": 3.0}}, "a soft cap"),
    "scores without a cap": ("gemma2-2b", {"head_dim": 16, "attention": {"softcap": None}}, "attention scores have no soft cap"),
    "logits without a cap": ("gemma2-2b", {"head_dim": 16, "head": {"tied": True, "softcap": None}}, "logits have no soft cap"),
    "as many layers as 27B, whose scale differs": ("gemma2-2b", {"head_dim": 32, "decoder_layers": 46}, "have the scale"),
    "yarn": ("qwen3-0.6b", SHARED | rotary(scaling=YARN), "a scaling of kind yarn"),
    "layers that do not rotate": ("smollm3-3b", SHARED | rotary(layers=[True, False]), "not every fourth layer"),
    "wavelengths of windows": (
        "gemma3-1b",
        {"head_dim": 16} | rotary(theta=1e6, local_theta=500.0),
        "have the theta 500, whereas llama.cpp uses 10000",
    ),
    "another activation": ("llama2-7b", {"mlp": {"activation": "relu"}}, "its activation is relu"),
    "biases": ("gemma2-2b", {"head_dim": 16, "attention": {"qkv_bias": True, "out_bias": True}}, "its projections have biases"),
    "another scale": ("gemma2-2b", {"head_dim": 16, "attention": {"scale": 0.5, "windows": [8, None]}}, "have the scale 0.5"),
    "a head of classes": ("gpt2", {"head": CLASSES}, "head of kind classes"),
    "merges that lack": ("llama2-7b", {}, "has no merge of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, name: str) -> None:
    preset, changes, text = REFUSED[name]
    codec = tokenizer("llama", "bpe_byte_fallback") if name == "merges that lack" else tokenizer("gpt2")
    run_here(["export", make(tmp_path / "model", preset, changes, codec), "--gguf", tmp_path / "m.gguf"]).exits(4, text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"], "nothing is left"


def test_wrong_words_and_unknown_splitters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(folder: Path, gguf: str = "m.gguf", *words: str) -> Done:
        return run_here(["export", folder, "--gguf", tmp_path / gguf, *words])

    folder = make(tmp_path / "model", "gpt2", {}, tokenizer("gpt2"))
    (tmp_path / "there.gguf").write_text("mine")
    export(folder, "there.gguf").exits(2)
    assert (tmp_path / "there.gguf").read_text() == "mine"
    export(folder, "m.gguf", "--type", "q4").exits(2)
    export(tmp_path / "none").exits(4)
    export(folder, "none/m.gguf").exits(5)
    monkeypatch.setitem(TYPES, "q8_0", 0.0)
    export(folder, "m.gguf", "--type", "q8_0").exits(8, "its predictions differ by")
    weights = load_file(folder / "model.safetensors")
    for factor, code, said in (
        (1e6, 4, "has numbers beyond 65,504, the largest of f16"),
        (math.nan, 8, "a mean KL divergence of nan nats"),
    ):
        save_file({name: factor * tensor for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
        export(folder).exits(code, said)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(read_json(path) | {"normalizer": {"type": "Lowercase"}}))
    export(folder).exits(4, "splits texts in a way")
    path.unlink()
    export(folder).exits(4, "has no tokenizer, without which llama.cpp opens no model")


def test_the_help_names_every_family_that_is_written_and_each_is_written_here() -> None:
    assert {PRESETS[preset][0].name for preset, *_ in MODELS.values()} == {*GGUF_ARCHITECTURES}
    assert f"Its family: {', '.join(GGUF_ARCHITECTURES)}." in " ".join(run_here(["export", "--help"]).exits(0).out.split())


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_writes_the_same(tmp_path: Path, name: str) -> None:
    """Against llama.cpp itself, where its binding xllamacpp is installed."""
    llama_cpp = pytest.importorskip("xllamacpp")
    preset, changes, variant = MODELS[name]
    folder = make(tmp_path / "model", preset, changes, tokenizer(variant))
    run_here(["export", folder, "--gguf", tmp_path / "m.gguf"]).exits(0)
    params = llama_cpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = str(tmp_path / "m.gguf"), 64, False
    ours = load(folder)
    ids = torch.tensor(ours.codec.encode_texts([TEXT]))
    server = llama_cpp.Server(params)

    def answer(prompt: Any) -> Any:
        return server.handle_completions({"prompt": prompt, "n_predict": 1, "temperature": 0, "logprobs": 5})

    assert answer(TEXT)["usage"]["prompt_tokens"] == ids.shape[1]
    compared = 0
    for _ in range(12):
        first = answer(ids[0].tolist())["choices"][0]["logprobs"]
        with torch.inference_mode():
            wanted = ours.model(ids).logits[0, -1].log_softmax(-1)
        if first is not None:  # the server has none for a part of a character
            step = first["content"][0]
            found = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
            assert found == pytest.approx({one: float(wanted[one]) for one in found}, abs=0.05)
            assert float(wanted[step["id"]]) == pytest.approx(float(wanted.max()), abs=0.05)
            compared += 1
        ids = torch.cat((ids, wanted.argmax().view(1, 1)), dim=1)
    assert compared


REFUSAL = """
import sys
from tfkit.errors import ModelError
from tfkit.tokenizer import load_tokenizer
from tfkit.tokenizer.gguf_vocabulary import gguf_vocabulary
try:
    gguf_vocabulary(load_tokenizer(sys.argv[1]), 600)
except ModelError as error:
    print(error)
"""


@pytest.mark.thorough
def test_a_refused_tokenizer_is_refused_in_the_same_words_each_time(tmp_path: Path) -> None:
    """Several merges are lacking: the order of a set, which the seed of Python's hashes decides, does not choose the one that is named."""
    save_tokenizer(tokenizer("llama", "bpe_byte_fallback"), tmp_path)
    words = [sys.executable, "-c", REFUSAL, tmp_path]
    environments = ({**os.environ, "PYTHONHASHSEED": seed} for seed in "0123")
    [said] = {subprocess.run(words, env=one, capture_output=True, text=True, check=True).stdout for one in environments}
    assert "has no merge of" in said
