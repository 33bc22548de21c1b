"""Thousands of damaged model folders through tfkit generate and tfkit evaluate: a result or exit 3 or 4, in bounded time and memory."""

import io
import json
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from attacks.mutations import mutate
from test_untrusted_models import SENTENCES, limit_memory, write_model, write_shards
from tiny_runs import run_tfkit, write_corpus
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from tfkit.__main__ import main
from tfkit.run.manifest import write_manifest
from tfkit.tokenizer import Tokenizer, train_byte_bpe

TOGETHER = 30  # mutations in one process
SECONDS = 200  # for one of them, which takes a tenth of a second: a hang
MEMORY = 512 << 20
OFTEN = ("config.json", "tokenizer.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json")  # with the most that can be wrong


def foreign_tokenizer() -> Tokenizer:
    """One of another make than tfkit's own, with nearly all that a tokenizer.json can have."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}, "▁": 259, "t": 260, "h": 261, "▁t": 262}
    backend = Backend(models.BPE(vocab=vocab, merges=[("▁", "t")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("x", "y")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    backend.enable_truncation(7)
    return Tokenizer.from_json(backend.to_str(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family: gpt2 with tfkit's tokenizer, llama in two shards with a foreign one. And texts to score."""
    root = tmp_path_factory.mktemp("whole")
    write_corpus(root / "corpus", files=1)
    write_model(root / "gpt2", "gpt2", train_byte_bpe([SENTENCES], 280, add_bos=True))
    write_model(root / "llama", "llama-7b", foreign_tokenizer())
    write_shards(root / "llama")
    write_manifest(root / "llama")
    return root


def damage(whole: Path, family: str, seed: int, place: Path) -> tuple[list[str], str]:
    """Make the damaged folder of this seed; the command line that meets it, and what was done to it."""
    choose = random.Random(f"{family} {seed}")
    folder = place / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / family, folder)
    path = choose.choice([*sorted(folder.iterdir()), *(folder / name for name in OFTEN)])
    if path.name != "manifest.json" and choose.random() < 0.9:  # else a changed size is all that is seen
        (folder / "manifest.json").unlink()
    way = mutate(path, choose)
    command = ["generate", "--prompt", "the cat", "--max-new-tokens", "4"]
    if choose.random() < 0.4:
        command = ["evaluate", "--data", str(whole / "corpus"), "evaluation.max_tokens=40"]
    return [*command, "--from", str(folder), "--threads", "1", "carbon.enabled=false"], way


def run_all(whole: Path, family: str, seeds: range, place: Path) -> None:
    """In a process of its own: a line of JSON for each seed, written before it is met and after. A hang ends the process."""
    limit_memory(MEMORY)
    with (place / "results.jsonl").open("w", encoding="utf-8") as results:
        for seed in seeds:
            arguments, way = damage(whole, family, seed, place)
            outcome: dict[str, Any] = {"seed": seed, "way": way, "command": arguments[0], "code": None}
            print(json.dumps(outcome), file=results, flush=True)
            sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
            signal.alarm(SECONDS)
            began = time.monotonic()
            try:
                outcome["code"] = main(arguments)
            except BaseException:
                sys.stderr.write(traceback.format_exc())
            signal.alarm(0)
            outcome |= {"seconds": time.monotonic() - began, "error": sys.stderr.getvalue()}
            print(json.dumps(outcome), file=results, flush=True)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_f49_mutated_checkpoints_and_tokenizers(whole: Path, tmp_path: Path, family: str, request: pytest.FixtureRequest) -> None:
    draws = request.config.getoption("--draws")
    outcomes: dict[int, dict[str, Any]] = {}
    for first in range(0, draws, TOGETHER):
        seeds = range(first, min(first + TOGETHER, draws))
        run_tfkit(tmp_path, ["--version"], lambda seeds=seeds: run_all(whole, family, seeds, tmp_path))
        for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines():
            outcomes |= {json.loads(line)["seed"]: json.loads(line)}
    wrong = [outcome for outcome in outcomes.values() if outcome["code"] not in (0, 3, 4)]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(map(str, wrong[:20]))
    assert len(outcomes) == draws
    codes = [outcome["code"] for outcome in outcomes.values()]
    assert codes.count(0) > 0.05 * draws, "hardly any damage was small enough to pass, so it shows little"
    assert codes.count(4) > 0.2 * draws
