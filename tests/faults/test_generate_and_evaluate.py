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
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_chats import TEMPLATES, write_chat_checkpoint
from tiny_files import parse_rows, receipt, write_rows
from tiny_runs import Before, Done, Process, both, raising

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


def start(base: Path, command: str, *words: str, before: Callable[[], object] | None = None) -> Process:
    fixed = ["--from", str(base / "model"), "--threads", "1", "carbon.enabled=false"]
    return Process(base, [command, *fixed, *words], before)


def generate(base: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    return start(base, "generate", "--input", str(base / "prompts.jsonl"), "--max-new-tokens", "8", *words, before=before).wait()


def evaluate(base: Path, *words: str, before: Callable[[], object] | None = None) -> Done:
    words = ("--data", str(base / "text.txt"), "--json", "evaluation.batch_size=2", *words)
    return start(base, "evaluate", *words, before=before).wait()


def kill(number: int) -> Callable[..., None]:
    return lambda *_, **__: os.kill(os.getpid(), number)


def assert_stopped(done: Done, number: int) -> None:
    done.exits(STOPS[number], f"stopped by {signal.Signals(number).name}")


# -- signals


@pytest.fixture(scope="module")
def whole(base: Path) -> list[str]:
    """The lines of a command that was never stopped."""
    lines = generate(base).out.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == PROMPTS
    return lines


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", STOPS)
def test_f06_generate_leaves_whole_lines_in_order(base: Path, whole: list[str], number: int) -> None:
    """In the middle of the second batch: the lines of the first are there, and whatever began the second."""
    done = generate(base, before=Before(tfkit.generation.decoding, "_choose", kill(number), 11))
    assert_stopped(done, number)
    assert done.out.endswith("\n")
    lines = done.out.splitlines()
    assert lines == whole[: len(lines)]
    assert len(lines) == 16
    assert "16 prompts were continued" in done.err


def test_f06_generate_keeps_what_was_finished_in_a_batch(base: Path, whole: list[str]) -> None:
    """Rows that end early, and before the first that did not, are not lost with it."""
    stop = next(c for c in json.loads(whole[0])["completion"][1:] if c.isprintable() and c != "\ufffd")
    stopped = generate(base, "--stop", stop).out.splitlines()
    ended = [json.loads(line)["tokens"] < 7 for line in stopped]
    assert ended[0]
    done = generate(base, "--stop", stop, before=Before(tfkit.generation.decoding, "_choose", kill(signal.SIGINT), 7))
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
    done = start(folder, command, *words, before=before).wait()
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
@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_f06_while_the_model_is_loaded(base: Path, command: str, number: int) -> None:
    done = {"generate": generate, "evaluate": evaluate}[command](base, before=Before(tfkit.adapters, "load", kill(number), 1))
    assert_stopped(done, number)
    assert "completion" not in done.out
    assert "metrics" not in done.out


def test_f06_while_a_template_is_rendered(base: Path, tmp_path: Path) -> None:
    """An endless template, and Ctrl-C before its time is up."""
    write_chat_checkpoint(tmp_path / "model", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")

    def later(*_: object) -> None:
        threading.Timer(0.2, kill(signal.SIGINT)).start()

    done = start(tmp_path, "generate", "--chat", "--prompt", "a", before=Before(ChatTemplate, "_exchange", later, 2)).wait()
    assert_stopped(done, signal.SIGINT)


# -- stdout


def pipe_to_head(base: Path, words: list[str], lines: int, before: Callable[[], object] = lambda: None) -> Done:
    """generate with a reader that leaves after this many lines."""
    reader, writer = os.pipe()

    def prepare() -> None:
        before()
        os.close(reader)
        os.dup2(writer, 1)
        os.close(writer)

    process = start(base, "generate", "--quiet", *words, before=prepare)
    os.close(writer)
    with open(reader, encoding="utf-8") as stream:
        for _ in range(lines):
            json.loads(stream.readline())
    return process.wait()


@pytest.mark.parametrize("lines", [0, 1])
def test_f07_a_reader_that_leaves(base: Path, lines: int) -> None:
    done = pipe_to_head(base, ["--input", str(base / "prompts.jsonl"), "--max-new-tokens", "8"], lines)
    assert (done.code, done.err) == (0, "")


def test_f07_stdout_is_closed(base: Path) -> None:
    """Nobody reads, from the start: Python then has no stdout."""
    done = generate(base, "--quiet", before=lambda: (os.close(1), setattr(sys, "stdout", None)))
    assert (done.code, done.err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
@pytest.mark.parametrize("command", [generate, evaluate])
def test_f07_a_full_disk_is_no_reader_that_left(base: Path, command: Callable[..., Done]) -> None:
    done = command(base, before=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1))
    done.exits(5, "the result cannot be written to stdout: No space left on device")


# -- stdin


class Pipe:
    """generate - with a pipe that stays open on stdin, and its lines as they come."""

    def __init__(self, base: Path, *words: str):
        (reading, self.into), (out, writing) = os.pipe(), os.pipe()

        def before() -> None:
            os.dup2(reading, 0)
            os.dup2(writing, 1)
            for descriptor in (reading, self.into, out, writing):
                os.close(descriptor)
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)

        self.process = start(base, "generate", "-", "--max-new-tokens", "4", *words, before=before)
        os.close(reading)
        os.close(writing)
        self.out = open(out, encoding="utf-8")  # noqa: SIM115

    def give(self, text: str) -> None:
        os.write(self.into, text.encode())

    def line(self) -> Any:
        return json.loads(self.out.readline())

    def end(self) -> tuple[list[Any], Done]:
        os.close(self.into)
        with self.out:
            rest = [json.loads(line) for line in self.out]
        return rest, self.process.wait()


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
    pipe.process.kill(signal.SIGTERM)
    rest, done = pipe.end()
    assert_stopped(done, signal.SIGTERM)
    assert rest == []
    assert "1 prompts were continued" in done.err


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
    with subprocess.Popen(["yes", "the cat"], stdout=subprocess.PIPE) as endless:
        stdin = endless.stdout.fileno()

        def before() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
            os.dup2(stdin, 0)
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)

        done = pipe_to_head(base, ["-", "--max-new-tokens", "4"], 3, before)
        endless.kill()
    assert (done.code, done.err) == (0, "")


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
    ("gates", "code", "message"),
    [
        (["loss > 0"], 8, "quality gate failed: loss > 0 (it is "),
        (["loss < 0"], 0, ""),
        (["accuracy > 0"], 2, "unknown metric 'accuracy'; the metrics are loss, perplexity"),
    ],
)
def test_f51_the_gate(base: Path, gates: list[str], code: int, message: str) -> None:
    """The result is written whatever the gate says; a gate that cannot be decided ends the command before it begins."""
    done = evaluate(base, *(word for gate in gates for word in ("--fail-if", gate))).exits(code, message)
    assert ("error" if code == 2 else "metrics") in done.document


@pytest.mark.parametrize("gate", ["loss > 1000", "loss < 0", "perplexity == 3"])
def test_f51_a_metric_that_is_no_number_fails_every_gate(base: Path, gate: str) -> None:
    folder = base / "nan"
    loaded = load(base / "model")
    tensors = loaded.model.state_dict()
    next(tensor for name, tensor in tensors.items() if name.endswith("norm.weight")).fill_(float("nan"))
    (folder / "model").mkdir(parents=True, exist_ok=True)
    save_model(folder / "model", loaded.config, tensors, loaded.codec)
    (folder / "text.txt").write_text("the cat", encoding="utf-8")
    assert evaluate(folder, "--fail-if", gate).exits(8, "(it is nan)").document["metrics"]["loss"] is None
