"""evaluate, predict and generate on two ranks give what one process gives; what ends one rank ends both, with the same code."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import fake_codecarbon
import pytest
from tiny_files import receipt, write_rows
from tiny_runs import WORDS, Before, Done, pretrain, raising, run_here
from two_ranks import ended, start_ranks

from tfkit.carbon.ledger import LedgerReader
from tfkit.errors import ModelError
from tfkit.evaluation import text_scores

LABELLED = """
model: {preset: bert-tiny, dim: 16, num_heads: 2, context_length: 32, init: {std: 0.3}}
tokenizer: {kind: wordpiece, vocab_size: 120}
data: {train: [{path: rows.jsonl}], validation: [{path: rows.jsonl}]}
objective: {kind: classification}
training: {steps: 3, batch_size: 4, precision: fp32}
evaluation: {every: null}
carbon: {enabled: false}
"""


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """A folder with a language model, a classifier, rows and prompts."""
    words = ("training.steps=4", "evaluation.every=null")
    assert pretrain(base / "lm", base / "tiny.yaml", *words).code == 0
    rows = [{"text": " ".join(WORDS[i % 5 : i % 7 + 6]), "label": "ab"[i % 2], "id": i} for i in range(23)]
    write_rows(base / "rows.jsonl", rows)
    (base / "classes.yaml").write_text(LABELLED.replace("rows.jsonl", str(base / "rows.jsonl")), encoding="utf-8")
    assert pretrain(base / "classes", base / "classes.yaml").code == 0
    prompts = [{"prompt": " ".join(WORDS[i % 3 : i % 3 + 2]), "id": i} for i in range(37)]  # three batches
    write_rows(base / "prompts.jsonl", prompts)
    return base


def together(folder: Path, *words: str, faults: Mapping[int, Callable[[], object]] | None = None) -> list[Done]:
    return [process.wait() for process in start_ranks(folder, [*words, "--threads", "1"], faults)]


def test_an_evaluation_has_the_same_digits(base: Path, tmp_path: Path) -> None:
    """Of texts and of rows, with its predictions, intervals and gates; rank 0 alone writes."""
    for name, size, gate in (("lm", "3", "loss > 1"), ("classes", "4", "accuracy < 2")):
        words = ["evaluate", "--from", str(base / name), f"evaluation.batch_size={size}", "carbon.enabled=false", "--json"]
        words += ["--fail-if", gate]
        one = run_here([*words, "--threads", "1", "--predictions", tmp_path / "one.jsonl"])
        first, second = together(tmp_path, *words, "--predictions", str(tmp_path / "two.jsonl"), "--run", str(tmp_path / name))
        assert (one.code, first.code, second.code) == (8, 8, 0), first.err + second.err
        assert json.loads(first.out) == json.loads(one.out)
        assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
        assert (second.out, "Traceback" in second.err) == ("", False)
        assert receipt(tmp_path / name)["status"] == "finished"


def test_predictions_and_texts_come_in_the_order_of_the_rows(base: Path, tmp_path: Path) -> None:
    predict = ["predict", "--from", str(base / "classes"), "--data", str(base / "rows.jsonl"), "--all", "evaluation.batch_size=4"]
    generate = ["generate", "--from", str(base / "lm"), "--input", str(base / "prompts.jsonl"), "--max-new-tokens", "3"]
    generate += ["--seed", "5", "--temperature", "1"]
    for words in (predict, generate):
        words += ["carbon.enabled=false"]
        one, (first, second) = run_here([*words, "--threads", "1"]), together(tmp_path, *words)
        assert (one.code, first.code, second.code) == (0, 0, 0), first.err + second.err
        assert (first.out, second.out) == (one.out, "")
        assert len(one.out.splitlines()) in (23, 37)


@pytest.mark.thorough
def test_vectors_are_the_same(base: Path, tmp_path: Path) -> None:
    """With every bit, in the order of the rows, though their batches have different lengths; rank 0 alone writes."""
    words = ["embed", "--from", str(base / "classes"), "--data", str(base / "rows.jsonl")]
    words += ["evaluation.batch_size=2", "carbon.enabled=false"]
    one = run_here([*words, "--threads", "1", "--out", tmp_path / "one.parquet"])
    first, second = together(tmp_path, *words, "--out", str(tmp_path / "two.parquet"))
    assert (one.code, first.code, second.code) == (0, 0, 0), first.err + second.err
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    first, second = together(tmp_path, *words)
    assert ([json.loads(line)["id"] for line in first.out.splitlines()], second.out) == ([*range(23)], "")


def test_a_bad_prompt_ends_both_after_the_lines_before_it(base: Path, tmp_path: Path) -> None:
    """Without a reader rank 0 ends quietly, and so does the other."""
    lines = (base / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:20], '{"text": 1}', *lines[20:]]), encoding="utf-8")
    words = ["generate", "--from", str(base / "lm"), "--max-new-tokens", "1", "--temperature", "0", "carbon.enabled=false", "--input"]
    first, _ = ended(together(tmp_path, *words, str(tmp_path / "bad.jsonl")), 3)
    assert len(first.out.splitlines()) == 20
    assert 'bad.jsonl:21: no text under "prompt"' in first.err

    def no_reader() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)

    done = together(tmp_path, *words, str(base / "prompts.jsonl"), faults={0: no_reader})
    assert [(one.code, "Traceback" in one.err) for one in done] == [(0, False), (0, False)], done[0].err + done[1].err


def test_what_ends_one_rank_ends_both_with_its_code_and_its_words(base: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--from", str(base / "lm"), "evaluation.batch_size=2", "carbon.enabled=false", "--json"]

    def in_batch(act: Callable[..., object]) -> Callable[[], None]:
        return Before(text_scores, "_score", act, 2)

    own = type("OddModelError", (ModelError,), {})("the model is odd; take another")  # a class that the other rank finds by its code only
    [first, _] = ended(together(tmp_path, *words, faults={1: in_batch(raising(own))}), 4)
    assert "rank 1: the model is odd; take another" in json.loads(first.out)["error"]["message"]
    ended(together(tmp_path, *words, faults={1: in_batch(raising(MemoryError("no more")))}), 5)
    for struck, codes in ((1, [9, -signal.SIGKILL]), (0, [-signal.SIGKILL, 9])):
        done = together(tmp_path, *words, faults={struck: in_batch(lambda *_: os.kill(os.getpid(), signal.SIGKILL))})
        assert [one.code for one in done] == codes, done[0].err + done[1].err
    for struck in (0, 1):
        done = ended(together(tmp_path, *words, faults={struck: in_batch(lambda *_: os.kill(os.getpid(), signal.SIGTERM))}), 143)
        assert all("stopped by SIGTERM: there is no result" in one.err for one in done)


def test_what_only_one_process_can_do_is_refused(base: Path) -> None:
    of_stdin = run_here(["predict", "--from", base / "classes", "--data", "-", "--ranks", "2"])
    of_stdin.exits(2, "--ranks 2: rows from stdin are answered by one process")
    run_here(["generate", "--from", base / "lm", "--prompt", "a", "--ranks", "2"]).exits(2, "give several prompts in a file, --input F")


@pytest.mark.thorough
def test_each_machine_measures_its_energy(base: Path, tmp_path: Path) -> None:
    """The second one uses 1,000 times the power of the first: what it has measured is in the result, with a run folder by its ledger."""
    measured = {}
    for rank, power in enumerate((fake_codecarbon.POWER_W, 1000 * fake_codecarbon.POWER_W)):
        package = fake_codecarbon.write(tmp_path / f"fake-{rank}", good=10**6, start=f"global POWER_W; POWER_W = {power}")
        measured[rank] = fake_codecarbon.put_first(package)
    command = ["evaluate", "--from", str(base / "lm"), "carbon.enabled=true", "--json", "--threads", "1"]
    for words in ([], ["--run", str(tmp_path / "run")]):
        first, second = (one.wait() for one in start_ranks(tmp_path, [*command, *words], measured, nodes=True))
        assert (first.code, second.code) == (0, 0), first.err + second.err
        result = json.loads(first.out)
        assert result["carbon_status"] == "ok"
        assert result["energy_kwh"] * 3.6e6 > 5 * fake_codecarbon.POWER_W  # for which the first would need five seconds
        assert result["emissions_g"] == pytest.approx(result["energy_kwh"] * fake_codecarbon.G_PER_KWH, rel=0.01)
    ledgers = LedgerReader(tmp_path / "run" / "carbon").attempts()
    assert [one.header["node"] for one in ledgers] == [0, 1]
    assert receipt(tmp_path / "run")["totals"]["energy_kwh"] == pytest.approx(sum(one.sums["energy_wh"] for one in ledgers) / 1000)
