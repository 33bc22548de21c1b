"""A tokenizer that does not fit the language of the texts is warned of, and no other."""

from pathlib import Path

import numpy as np
import pytest
from tiny_files import write_rows

from tfkit.data import trained_tokenizer
from tfkit.data.sources.open_sources import open_source
from tfkit.engine.assembly.preflight import misfit
from tfkit.recipe.schema.data_sections import SourceSection, TokenizerSection

SYLLABLES = {
    "latin": ["ta", "ren", "ko", "mi", "sul", "ba", "nor", "ve"],
    "cyrillic": ["та", "рен", "ко", "ми", "сул", "ба", "нор", "ве"],
    "han": ["山", "水", "火", "木", "金", "土", "日", "月"],
}


def source(folder: Path, script: str, words: int = 600, seed: int = 0):
    random, syllables = np.random.default_rng(seed), SYLLABLES[script]
    made = ["".join(random.choice(syllables, 4)) for _ in range(words)]
    write_rows(folder / f"{script}-{seed}.jsonl", [{"text": " ".join(made[first : first + 20])} for first in range(0, words, 20)])
    return open_source(SourceSection(path=str(folder / f"{script}-{seed}.jsonl")), "all", None)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece", "unigram", "bpe_byte_fallback"])
def test_a_misfit_is_of_another_script_than_the_tokenizer_was_trained_on(tmp_path: Path, kind: str) -> None:
    for script in SYLLABLES:
        section = TokenizerSection(kind=kind, vocab_size=500 if kind != "wordpiece" else 300)
        tokenizer = trained_tokenizer([source(tmp_path, script)], section, lambda _: None)
        for other in SYLLABLES:
            warning = misfit(source(tmp_path, other, seed=1), tokenizer, "encoder")
            assert (warning is not None) == (script != other), (script, other, warning)
            if warning is not None:
                assert "100%" in warning or "99%" in warning
                assert "such as hub:distilbert/distilbert-base-multilingual-cased" in warning
        assert misfit(source(tmp_path, "han" if script != "han" else "latin", 100), tokenizer, "encoder") is None, (
            "too few words to judge by"
        )
