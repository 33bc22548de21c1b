"""Commands of several trainings on two ranks: stages and sweeps, by the same group of processes throughout."""

import json
import math
import signal
from pathlib import Path

import pytest
from tiny_files import receipt, write_rows
from tiny_runs import After, Before, Done, exact, hashes, raising, run_here, strike, write_corpus
from two_ranks import ended, start_ranks

from tfkit.engine.training_run.validator import Validator
from tfkit.objectives.causal_lm import CausalLM

pytestmark = pytest.mark.usefixtures("in_place")

SMALL = "model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16, dropout: {residual: 0.1}}"
CORPUS = "tokenizer: {vocab_size: 299}, data: {train: [{path: corpus}], validation: 0.3}"
ROWS = "model: {from: base}, objective: {kind: classification}, data: {train: [{path: rows.jsonl}], validation: 0.3}"
COMMON = "training: {STEPS, batch_size: 4, micro_batch_size: 2, precision: fp32}, evaluation: {max_tokens: 200}, carbon: {enabled: false}"
SIX = COMMON.replace("STEPS", "steps: 6, log_every: 2") + ", checkpoint: {every: 2}"
CHAIN = f"stages:\n  base: {{{SMALL}, {CORPUS}, {SIX}}}\n  tune: {{{ROWS}, {SIX}}}\n"
RECIPE = f"{{{SMALL}, {CORPUS}, {COMMON.replace('STEPS', 'steps: 3').replace('{max', '{every: null, max')}}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_corpus(folder / "corpus")
    rows = [{"text": f"the {animal} sat {number}", "label": animal} for number in range(20) for animal in ("cat", "dog")]
    write_rows(folder / "rows.jsonl", rows)
    (folder / "chain.yaml").write_text(CHAIN, encoding="utf-8")
    (folder / "one.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def ranks(*words: str, **faults: object) -> list[Done]:
    return [process.wait() for process in start_ranks(Path.cwd(), [*words, "--threads", "1"], **faults)]


@pytest.mark.thorough
def test_a_chain_is_that_of_one_process_also_stopped_in_its_second_stage() -> None:
    run_here(["pretrain", "chain.yaml", "--run", "alone", "--threads", "1"]).exits(0)
    stopped = ended(ranks("pretrain", "chain.yaml", "--run", "two", faults={1: strike(signal.SIGTERM, 6 + 3)}), 143)
    assert "tfkit resume two --threads 1 --ranks 2" in stopped[0].err
    ended(ranks("resume", "two"), 0)
    for stage in ("base", "tune"):
        assert hashes(Path("two", stage), 6) == hashes(Path("alone", stage), 6)
        assert exact(Path("two", stage)) == exact(Path("alone", stage))
        assert receipt(Path("two", stage))["ranks"] == 2


def test_a_sweep_goes_on_after_a_trial_that_fails_on_all_ranks() -> None:
    words = ["sweep", "one.yaml", "training.seed=1,2", "training.max_skipped_steps=0"]
    no_number = After(CausalLM, "loss", lambda losses, *_: {name: loss * math.nan for name, loss in losses.items()}, 1)
    done = ended(ranks(*words, "--run", "sweep", "--json", faults=dict.fromkeys((0, 1), no_number)), 0)
    result = json.loads(done[0].out)
    assert [trial["status"] for trial in result["trials"]] == ["failed", "finished"], result["trials"]
    run_here(["pretrain", "one.yaml", "training.seed=2", "--run", "seed-2", "--threads", "1"]).exits(0)
    assert hashes(Path("sweep", "trial-002"), 3) == hashes(Path("seed-2"), 3)


def test_a_sweep_ends_if_rank_0_has_no_memory_for_an_evaluation() -> None:
    """The other rank has ended by then, so the trial is not counted as failed, and is continued."""
    words = ["sweep", "one.yaml", "training.seed=1,2", "--run", "short"]
    done = ranks(*words, faults={0: Before(Validator, "_score", raising(MemoryError("no more")), 1)})
    assert [one.code for one in done] == [5, 9], done[0].err + done[1].err
    ended(ranks("resume", "short"), 0)
    assert [trial["status"] for trial in receipt(Path("short"))["trials"].values()] == ["finished"] * 2
