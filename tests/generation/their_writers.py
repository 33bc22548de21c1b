"""Tiny models as transformers reads them, and what it writes with them."""

from pathlib import Path
from typing import Any

import torch
from tiny_writers import START, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tfkit.hub import save_model
from tfkit.model.transformer import Transformer


def opened(folder: Path, *, encodes: bool) -> Any:
    kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def saved(folder: Path, family: str, seed: int = 3) -> tuple[Transformer, Any]:
    """Save a tiny model of ours; return it, and transformers' of the folder."""
    ours = tiny_model(family, seed=seed)
    folder.mkdir(exist_ok=True)
    ids = {"pad_token_id": START, "decoder_start_token_id": START}
    save_model(folder, ours.config, ours.state_dict(), None, family=family, special_ids=ids)
    theirs = opened(folder, encodes=ours.encoder is not None)
    theirs.generation_config.forced_eos_token_id = None
    return ours, theirs


def written(theirs: Any, prompt: list[int], **options: Any) -> list[int]:
    """Return the ids that transformers writes after the prompt."""
    ids = torch.tensor([prompt])
    made = theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return made[0, 1 if theirs.config.is_encoder_decoder else len(prompt) :].tolist()
