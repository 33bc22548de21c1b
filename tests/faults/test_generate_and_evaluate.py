"""Faults of generate and evaluate while they work: signals, readers that leave, full disks, no memory; and the quality gate."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from tiny_chats import TEMPLATES, write_chat_checkpoint
from tiny_files import parse_rows, receipt, write_rows
from tiny_runs import Before, Done, Program, both, raising, run_tfkit

import tfkit.adapters
import tfkit.cli.evaluate
import tfkit.cli.generate
import tfkit.engine.request.evaluation_settings
import tfkit.evaluation.text_scores
import tfkit.generation.decoding
from tfkit.hub import load, save_model
from tfkit.model.mlp import Mlp
from tfkit.model.transformer import Transformer
from tfkit.tokenizer.template import ChatTemplate

PROMPTS = [f"{number}: the cat" for number in range(40)]  # two batches and a half
STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_chat_checkpoint(folder / "model", TEMPLATES["chatml"])
    write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    (folder / "text.txt").write_text("the cat sat on the mat. " * 200, encoding="utf-8")
    return folder


def line(base: Path, command: str, *words: str) -> list[str]:
    return [command, "--from", str(base / "model"), "--threads", "1", "carbon.enabled=false", *words]


def generate(base: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    words = ("--input", str(base / "prompts.jsonl"), "--max-new-tokens", "8", *words)
    return run_tfkit(base, line(base, "generate", *words), before)


def evaluate(base: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    words = ("--data", str(base / "text.txt"), "--json", "evaluation.batch_size=2", *words)
    return run_tfkit(base, line(base, "evaluate", *words), before)


def kill(number: int) -> Callable[..., None]:
    return lambda *_, **__: os.kill(os.getpid(), number)


def assert_stopped(done: Done, number: int) -> None:
    done.exits(STOPS[number], f"stopped by {signal.Signals(number).name}")


# -- signals


@pytest.fixture(scope="module")
def whole(base: Path) -> list[str]:
    """The lines of a command that was never stopped."""
    lines = generate(base).out
    assert [row["prompt"] for row in parse_rows(lines)] == PROMPTS
    return lines.splitlines()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", STOPS)
def test_f06_generate_leaves_whole_lines_in_order(base: Path, whole: list[str], number: int) -> None:
    """In the middle of the second batch: the lines of the first are there, and whatever began the second."""
    done = generate(base, before=Before(tfkit.generation.decoding, "_extend", kill(number), 11))
    assert_stopped(done, number)
    assert done.out == "".join(f"{line}\n" for line in whole[:16])
    assert "16 prompts continued" in done.err


def test_f06_generate_keeps_what_was_finished_in_a_batch(base: Path, whole: list[str]) -> None:
    """Rows that end early, and before the first that did not, are not lost with it."""
    stop = next(c for c in json.loads(whole[0])["completion"][1:] if c.isprintable() and c != "\ufffd")
    stopped = generate(base, "--stop", stop).out.splitlines()
    ended = [json.loads(line)["tokens"] < 7 for line in stopped]
    assert ended[0]
    done = generate(base, "--stop", stop, before=Before(tfkit.generation.decoding, "_extend", kill(signal.SIGINT), 7))
    assert_stopped(done, signal.SIGINT)
    assert done.out.splitlines() == stopped[: ended.index(False)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_f06_within_a_long_forward(base: Path, command: str, number: int) -> None:
    """A model whose layers take half a second each, and it has many: a batch of long texts, or a slow machine."""
    folder = write_chat_checkpoint(base / "deep" / "model", TEMPLATES["chatml"], decoder_layers=24).parent
    (folder / "text.txt").write_text("the cat", encoding="utf-8")
    begun = folder / f"{command}-{number}"  # a byte for each layer

    def slow(*_: object) -> None:
        with begun.open("ab") as file:
            file.write(b".")
        time.sleep(0.5)

    before = both(Before(Mlp, "forward", slow), Before(Mlp, "forward", kill(number), 2))
    words = ["--prompt", "Hello"] if command == "generate" else ["--data", str(folder / "text.txt")]
    done = run_tfkit(folder, line(folder, command, *words), before)
    assert_stopped(done, number)
    assert done.out == ""
    assert begun.stat().st_size < 24, "it did not wait for the last layer"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_f06_evaluate_gives_no_result(base: Path, tmp_path: Path, number: int) -> None:
    words = ["--predictions", str(tmp_path / "predictions.jsonl"), "--run", str(tmp_path / "run")]
    done = evaluate(base, *words, before=Before(tfkit.evaluation.text_scores, "_score", kill(number), 3))
    assert_stopped(done, number)
    assert done.document["error"]["kind"] == "stopped"
    assert "there is no result" in done.err
    assert not (tmp_path / "predictions.jsonl").exists()
    assert "result" not in receipt(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "result"), [(generate, "completion"), (evaluate, "metrics")])
def test_f06_while_the_model_is_loaded(base: Path, command: Callable[..., Done], result: str, number: int) -> None:
    done = command(base, before=Before(tfkit.adapters, "load", kill(number), 1))
    assert_stopped(done, number)
    assert result not in done.out


def test_f06_while_a_template_is_rendered(base: Path, tmp_path: Path) -> None:
    """An endless template, and Ctrl-C before its time is up."""
    write_chat_checkpoint(tmp_path / "model", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    later = Before(ChatTemplate, "_exchange", lambda *_: threading.Timer(0.2, kill(signal.SIGINT)).start(), 2)
    assert_stopped(run_tfkit(tmp_path, line(tmp_path, "generate", "--chat", "--prompt", "a"), later.__call__), signal.SIGINT)


# -- stdout


def assert_quiet_for(base: Path, words: list[str], lines: int, **options: Any) -> None:
    """Assert that generate says nothing when its reader leaves after this many lines."""
    with Program(line(base, "generate", "--quiet", *words), stdout=PIPE, stderr=PIPE, encoding="utf-8", **options) as program:
        for _ in range(lines):
            json.loads(program.stdout.readline())
        program.stdout.close()
        assert (program.wait(), program.stderr.read()) == (0, "")


@pytest.mark.parametrize("lines", [0, 1])
def test_f07_a_reader_that_leaves(base: Path, lines: int) -> None:
    assert_quiet_for(base, ["--input", str(base / "prompts.jsonl"), "--max-new-tokens", "8"], lines)


def test_f07_stdout_is_closed(base: Path) -> None:
    """Nobody reads, from the start: Python then has no stdout."""
    done = generate(base, "--quiet", before=lambda: (os.close(1), setattr(sys, "stdout", None)))
    assert (done.code, done.err) == (0, "")


# -- stdin


class Pipe(Program):
    """generate - with a pipe that stays open on stdin, and its lines as they come."""

    def __init__(self, base: Path, *words: str):
        words = ("-", "--max-new-tokens", "4", *words)
        super().__init__(line(base, "generate", *words), stdin=PIPE, stdout=PIPE, stderr=PIPE, encoding="utf-8")

    def give(self, text: str) -> None:
        self.stdin.write(text)
        self.stdin.flush()

    def line(self) -> Any:
        return json.loads(self.stdout.readline())

    def end(self) -> tuple[list[Any], Done]:
        with self:
            self.stdin.close()
            return parse_rows(self.stdout.read()), Done(self.wait(), "", self.stderr.read())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("words", [[], ["--num-beams", "2"], ["--chat", "--temperature", "0"]], ids=str)
def test_f07_a_line_is_answered_while_the_pipe_is_open(base: Path, words: list[str]) -> None:
    """Whatever comes at once; half a line waits for its end; and the answers are those of all lines given at once."""
    prompts = ["the cat", "a dog", "a", "the mat", "on"]
    pipe = Pipe(base, *words, "--quiet")
    pipe.give("the cat\n")
    found = [pipe.line()]
    pipe.give("a dog\na\n\nthe ")
    found += [pipe.line(), pipe.line()]
    pipe.give("mat\non")
    rest, done = pipe.end()
    assert (done.code, done.err) == (0, "")
    assert [row["prompt"] for row in found + rest] == prompts
    at_once = Pipe(base, *words)
    at_once.give("".join(f"{prompt}\n" for prompt in prompts))
    assert at_once.end()[0] == found + rest


def test_f06_a_signal_while_a_prompt_is_waited_for(base: Path) -> None:
    pipe = Pipe(base)
    pipe.give('{"prompt": "the cat"}\n')
    assert pipe.line()["prompt"] == "the cat"
    time.sleep(0.2)
    pipe.send_signal(signal.SIGTERM)
    rest, done = pipe.end()
    assert_stopped(done, signal.SIGTERM)
    assert rest == []
    assert "1 prompt continued" in done.err


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        (['{"prompt": "a"}', '{"prompt": "b"}', '{"text": "c"}', '{"prompt": "d"}'], [], "stdin:3: no text under"),
        (['{"prompt": "a"}', '{"prompt": "b"}', json.dumps({"prompt": "a " * 4000}), '{"prompt": "d"}'], [], "prompt 3 has "),
        (['{"prompt": "a"}', '{"prompt": "b"}', '{"messages": []}'], ["--chat"], 'stdin:3: "messages" holds no list of messages'),
    ],
    ids=["a row", "a length", "a conversation"],
)
def test_f07_an_error_in_a_line_comes_after_the_lines_before_it(base: Path, lines: list[str], words: list[str], message: str) -> None:
    pipe = Pipe(base, *words)
    pipe.give("".join(f"{line}\n" for line in lines))
    found, done = pipe.end()
    assert [row["prompt"] for row in found] == ["a", "b"]
    done.exits(3, message)


def test_f07_the_first_answers_to_an_endless_pipe(base: Path) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    with subprocess.Popen(["yes", "the cat"], stdout=PIPE) as endless:
        assert_quiet_for(base, ["-", "--max-new-tokens", "4"], 3, stdin=endless.stdout, before=limit)
        endless.kill()


# -- memory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("command", [generate, evaluate])
def test_f23_no_memory(base: Path, command: Callable[..., Done], error: BaseException) -> None:
    done = command(base, before=Before(Transformer, "forward", raising(error), 11 if command is generate else 3))
    lines = parse_rows(done.exits(5, "out of memory: ").out)
    if command is generate:
        assert [line["prompt"] for line in lines] == PROMPTS[:16]
    else:
        assert [line["error"]["kind"] for line in lines] == ["environment"]


# -- the gate


@pytest.mark.parametrize(
    ("gate", "code", "message"),
    [
        ("loss > 0", 8, "quality gate failed: loss > 0 (it is "),
        ("loss < 0", 0, ""),
        ("accuracy > 0", 2, "unknown metric 'accuracy'; the metrics are loss, perplexity"),
    ],
)
def test_f51_the_gate(base: Path, gate: str, code: int, message: str) -> None:
    """The result is written whatever the gate says; a gate that cannot be decided ends the command before it begins."""
    done = evaluate(base, "--fail-if", gate).exits(code, message)
    assert ("error" if code == 2 else "metrics") in done.document


def test_f51_a_metric_that_is_no_number_fails_every_gate(base: Path, tmp_path: Path) -> None:
    loaded = load(base / "model")
    tensors = loaded.model.state_dict()
    next(tensor for name, tensor in tensors.items() if name.endswith("norm.weight")).fill_(float("nan"))
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", loaded.config, tensors, loaded.codec)
    (tmp_path / "text.txt").write_text("the cat", encoding="utf-8")
    for gate in ("loss > 1000", "loss < 0", "perplexity == 3"):
        found = evaluate(tmp_path, "--fail-if", gate).exits(8, "(it is nan)").document
        assert (found["metrics"]["loss"], found["nonfinite"]["metrics.loss"]) == (None, "nan")
        assert found["gates"] == [{"gate": gate, "metric": gate.split()[0], "value": None, "failed": True}]
