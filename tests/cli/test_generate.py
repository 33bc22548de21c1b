"""tfkit generate on a tiny checkpoint: in this process where only the result matters, as a program where the process does."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_evaluate import NO_CARBON, RECIPE, write_checkpoint

from tfkit.__main__ import main
from tfkit.generation.complete import complete
from tfkit.hub import load
from tfkit.recipe.schema import GenerationSection
from tfkit.run.checkpoints import save_checkpoint

PROMPTS = ["the cat", "das Mädchen", "a", "the mat and the hat 🙂", "on"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("generate") / "model")


def run(*arguments: object) -> int:
    return main(["generate", *map(str, arguments), NO_CARBON])


def expected(folder, prompts=PROMPTS, **settings) -> list[dict[str, object]]:
    loaded = load(folder)
    made = complete(loaded.model, loaded.codec, prompts, GenerationSection(**settings), eos_ids=loaded.eos_ids)
    return [
        {"prompt": prompt, "completion": completion.text, "tokens": completion.tokens, "finish": completion.finish}
        for prompt, completion in zip(prompts, made, strict=True)
    ]


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_prompt_gives_its_text(capsys, folder):
    [row] = expected(folder, ["the cat"], temperature=0, max_new_tokens=9)
    assert run("--from", folder, "--prompt", "the cat", "--temperature", 0, "--max-new-tokens", 9) == 0
    assert capsys.readouterr().out == f"the cat{row['completion']}\n"
    assert run("--from", folder, "--prompt", "the cat", "--temperature", 0, "--max-new-tokens", 9, "--json") == 0
    assert lines(capsys.readouterr().out) == [row]


def test_json_lines_in_order(capsys, folder, tmp_path):
    prompts = PROMPTS * 4  # more than a batch
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(json.dumps({"id": i, "prompt": prompt}) for i, prompt in enumerate(prompts)), encoding="utf-8")
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 5, "max_new_tokens": 12}
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert run("--from", folder, "--input", path, *options) == 0
    found = lines(capsys.readouterr().out)
    assert found == expected(folder, prompts, **settings)
    assert found[0].keys() == {"prompt", "completion", "tokens", "finish"}


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b'{"prompt": "the cat"}\n{"prompt": "a"}\n', ["the cat", "a"]),
        (b"the cat\r\n\n  a  \n", ["the cat", "  a  "]),
        (b'\xef\xbb\xbf{"prompt": "a\\nb"}', ["a\nb"]),
        (b'not {"prompt": 3}\n"quoted"\n', ['not {"prompt": 3}', '"quoted"']),
    ],
)
@pytest.mark.parametrize("place", [["-"], ["--input", "-"]])
def test_prompts_from_stdin(capsys, monkeypatch, folder, content, prompts, place):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("--from", folder, *place, "--max-new-tokens", 2) == 0
    assert [row["prompt"] for row in lines(capsys.readouterr().out)] == prompts


def test_stop_strings(capsys, folder):
    [free] = expected(folder, ["the cat"], temperature=0, max_new_tokens=20)
    stop = free["completion"][3:5]
    assert run("--from", folder, "--prompt", "the cat", "--temperature", 0, "--stop", "never", "--stop", stop, "--json") == 0
    [row] = lines(capsys.readouterr().out)
    assert row["completion"] == free["completion"].partition(stop)[0]
    assert row["finish"] == "stop"


def test_settings_of_the_run_unless_given(capsys, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "run" / "checkpoints", 5, lambda path: write_checkpoint(path) and None)
    recipe = RECIPE.replace("PATH", "x.txt").replace("VALIDATION", "null") + "generation: {max_new_tokens: 3, temperature: 0}\n"
    (tmp_path / "run" / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for arguments, settings in [
        ([], {"max_new_tokens": 3, "temperature": 0}),
        (["--max-new-tokens", 5], {"max_new_tokens": 5, "temperature": 0}),
        (["generation.max_new_tokens=4", "generation.temperature=1"], {"max_new_tokens": 4, "temperature": 1}),
    ]:
        assert run("--from", tmp_path / "run", "--prompt", "the cat", "--json", *arguments) == 0
        assert lines(capsys.readouterr().out) == expected(checkpoint, ["the cat"], **settings)


@pytest.mark.parametrize(
    ("arguments", "content", "code", "message"),
    [
        ([], "", 2, "exactly one of --prompt TEXT, --input F, and - for stdin"),
        (["--prompt", "a", "-"], "", 2, "not --prompt and -"),
        (["hello"], "", 2, "does not know what 'hello' is: a prompt is given as --prompt TEXT"),
        (["-"], "", 3, "stdin: there is no prompt"),
        (["-"], '{"prompt": "a"}\nb\n', 3, "stdin:2: not a JSON object, as the first line is"),
        (["-"], '{"prompt": "a"}\n{"text": "b", "id": 3}\n', 3, 'stdin:2: no text under "prompt"; here are text, id'),
        (["-"], '{"prompt": "\\ud83d"}', 3, "stdin:1: character 1 of the prompt is half of one"),
        (["--input", "nowhere.jsonl"], "", 3, "nowhere.jsonl: cannot be read"),
        (["--prompt", "a " * 99], "", 3, "prompt 1 has"),
        (["--prompt", "a", "--temperature", -1], "", 2, "generation.temperature: must be at least 0"),
        (["--prompt", "a", "--top-p", 0], "", 2, "generation.top_p: must be greater than 0"),
        (["--prompt", "a", "evaluation.batch_size=3"], "", 2, "this command reads only the sections generation, carbon"),
    ],
)
def test_errors(capsys, monkeypatch, folder, arguments, content, code, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert run("--from", folder, *arguments) == code
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert "Traceback" not in err


def test_bytes_that_are_not_text(capsys, folder, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"good\n\nbad \xff\n")
    assert run("--from", folder, "--input", path) == 3
    assert "prompts.txt:3:5: not UTF-8" in capsys.readouterr().err


# -- the program


def command(folder: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "tfkit", "generate", "--from", str(folder), *map(str, arguments), NO_CARBON]


def write_prompts(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": "the cat"}) + "\n" for _ in range(count)), encoding="utf-8")
    return path


def test_a_reader_that_has_had_enough(folder, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", 400)
    program = subprocess.Popen(command(folder, "--input", prompts), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = program.stdout.readline()
    program.stdout.close()
    assert json.loads(first)["prompt"] == "the cat"
    assert program.stderr.read() == ""
    assert program.wait(60) == 0
    program.stderr.close()


def test_ctrl_c_leaves_whole_lines(folder, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", 20_000)
    program = subprocess.Popen(command(folder, "--input", prompts), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = program.stdout.readline()
    program.send_signal(signal.SIGINT)
    rest, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert len(lines(first + rest)) < 20_000
    assert "prompts were continued" in err
    assert "Traceback" not in err


def test_on_a_terminal_a_line_appears_when_it_is_whole(folder):
    """The continuation of a prompt with a newline: its first line is there before the program ends."""
    leader, follower = pty.openpty()
    arguments = command(folder, "--prompt", "one\ntwo", "--max-new-tokens", 5, "--temperature", 0)
    program = subprocess.Popen(arguments, stdout=follower, stderr=subprocess.PIPE, env=os.environ)
    os.close(follower)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    [row] = expected(folder, ["one\ntwo"], max_new_tokens=5, temperature=0)
    assert shown.decode().replace("\r\n", "\n") == f"one\ntwo{row['completion']}\n"
