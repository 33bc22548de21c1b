"""Tiny random models that generate: decoders of several shapes, windowed ones too, and encoder-decoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_layouts import GPT2_LAYOUT, LLAMA_LAYOUT

from tfkit.generation.complete import TextCompletion, complete, encode_prompts
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer import Tokenizer, train_byte_bpe

_LLAMA: dict[str, Any] = LLAMA_LAYOUT | {"num_heads": 6, "num_kv_heads": 2}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2_LAYOUT | {"num_heads": 3},
    "llama": _LLAMA,
    "mistral": _LLAMA | {"attention": {"windows": [5]}},
    "gemma2": _LLAMA
    | {
        "embedding": {"scale": True},
        "norm": {"kind": "rms", "placement": "sandwich", "unit_offset": True},
        "attention": {"windows": [5, None], "softcap": 2.0},
        "mlp": {"activation": "gelu_tanh", "gated": True},
        "head": {"tied": False, "softcap": 3.0},
    },
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {
        "encoder_layers": 2,
        "position": {"kind": "relative", "buckets": 8, "max_distance": 16},
        "norm": {"kind": "rms", "eps": 1e-6},
        "attention": {"scale": 1.0},
        "mlp": {"activation": "gelu_tanh", "gated": True},
        "head": {"tied": False},
        "num_heads": 3,
    },
    "transformer_2017": {
        "encoder_layers": 2,
        "embedding": {"scale": True},
        "position": {"kind": "sinusoidal"},
        "norm": {"kind": "layer", "placement": "post"},
        "attention": {"qkv_bias": True, "out_bias": True},
        "mlp": {"activation": "relu", "bias": True},
        "head": {"tied": True, "bias": True},
        "num_heads": 3,
    },
}
WRITERS = DECODERS | ENCODER_DECODERS
START = 0  # the first id of encoder-decoders' decoders
PROMPTS = [[5, 9, 2], [40], [7, 7, 7, 30, 1, 2, 3, 11, 19, 4, 6], [13, 40, 22, 8, 1, 36], [50, 49]]


def tiny_model(family: str, context_length: int = 40, seed: int = 3, vocab_size: int = 53) -> Transformer:
    """Build a model with weights of std 0.35, biases and norms off 0 and 1; an encoder's part is smaller, or texts would repeat a token."""
    sizes = {"vocab_size": vocab_size, "context_length": context_length, "decoder_layers": 2, "dim": 24, "hidden_dim": 44}
    model = build(ModelConfig.model_validate(WRITERS[family] | sizes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.3 * noise if parameter.dim() == 1 else 0.35 * noise)
        if model.encoder is not None and model.decoder is not None:
            for block in model.decoder.blocks:
                block.cross_attention.op.o_proj.weight.mul_(0.2)
    return model


def greedy(n: int = 20, **changes: Any) -> GenerationSection:
    return GenerationSection(temperature=0, max_new_tokens=n, **changes)


@torch.no_grad()
def next_log_probabilities(model: Transformer, prompt: list[int], made: list[int]) -> torch.Tensor:
    """Return (V,), from a forward over the whole text."""
    if model.encoder is None:
        logits = model(torch.tensor([prompt + made])).logits
    else:
        logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[START, *made]])).logits
    return logits[0, -1].log_softmax(dim=-1)


def without_cache(model: Transformer, prompt: list[int], n: int) -> list[int]:
    """Return the greedy continuation, up to the context length."""
    made: list[int] = []
    if model.config.position.kind != "relative":
        n = min(n, model.config.context_length - (1 if model.encoder is not None else len(prompt)))
    while len(made) < n:
        made.append(int(next_log_probabilities(model, prompt, made).argmax()))
    return made


def complete_texts(
    model: Transformer, tokenizer: Tokenizer, texts: list[str], settings: GenerationSection, *, rendered: bool = False, **how: Any
) -> list[TextCompletion]:
    """Continue texts; `rendered`: by a chat template."""
    return complete(model, tokenizer, encode_prompts(model, tokenizer, texts, rendered=rendered), settings, **how)


# -- models with a tokenizer whose attention can be looked at

ATTENDED = ["the cat sat on the mat and the dog ran to the cat", "a dog sat on a mat", "the mat is on the dog"] * 4
TEXT = "the cat sat on the mat and the dog"


def write_attended(folder: Path, family: str, change: Callable[[Transformer], object] = lambda _: None, context_length: int = 40) -> Path:
    """Save a tiny random model of a family, changed by `change`, with a tokenizer of its own; return the folder."""
    tokenizer = train_byte_bpe(ATTENDED, 300, add_bos=False)
    model = tiny_model(family, context_length, vocab_size=tokenizer.size)
    with torch.no_grad():
        change(model)
    folder.mkdir(parents=True, exist_ok=True)
    name = family if family in ("t5", "gemma2", "gpt2") else None
    ids = {"decoder_start_token_id": START, "eos_token_id": tokenizer.eos_id}
    save_model(folder, model.config, model.state_dict(), tokenizer, family=name, special_ids=ids if model.encoder is not None else {})
    return folder


def aim_heads(model: Transformer) -> None:
    """Make heads of a tiny T5 by its position bias: in the encoder head 0 attends to the token before, 1 to the one after, 2 to itself; in
    the decoder head 1 to the token before.
    """
    encoder, decoder = model.stacks
    for stack, head, bucket in ((encoder, 0, 1), (encoder, 1, 4 + 1), (encoder, 2, 0), (decoder, 1, 1)):
        stack.position_bias.weight[bucket, head] = 1000.0
