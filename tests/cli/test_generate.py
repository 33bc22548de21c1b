"""tfkit generate on a tiny checkpoint: in this process where only the result matters, as a program where the process does."""

import fcntl
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluate import NO_CARBON, RECIPE, write_checkpoint
from tiny_chats import TEMPLATES, write_chat_checkpoint
from tiny_files import parse_rows, read_json, write_rows
from tiny_runs import Done, Program, on_terminal, run_here
from tiny_writers import complete_texts
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import tfkit
from tfkit.console.characters import escaped
from tfkit.errors import DataError, ModelError
from tfkit.families import PRESETS
from tfkit.generation.fill import fill
from tfkit.hub import load, save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.run.checkpoints import save_checkpoint
from tfkit.tokenizer import Tokenizer, train_tokenizer
from tfkit.tokenizer.chat_formats import FORMATS
from tfkit.tokenizer.template import open_template

PROMPTS = ["the cat", "das Mädchen", "a", "the mat and the hat 🙂", "on"]
GREEDY = ["--temperature", 0, "--max-new-tokens", 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("generate") / "model")


def run(*arguments: object) -> Done:
    return run_here(["generate", *arguments, NO_CARBON])


def answered(*arguments: object) -> list[dict[str, object]]:
    return parse_rows(run(*arguments).exits(0).out)


def from_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def save_run(folder: Path, recipe: str) -> Path:
    """A run with this recipe, of which PATH and VALIDATION are replaced, and a checkpoint, which is returned."""
    checkpoint = save_checkpoint(folder / "checkpoints", 5, lambda path: write_checkpoint(path) and None)
    (folder / "recipe.yaml").write_text(recipe.replace("PATH", "x.txt").replace("VALIDATION", "null"), encoding="utf-8")
    return checkpoint


def expected(folder, prompts=PROMPTS, **settings) -> list[dict[str, object]]:
    loaded = load(folder)
    made = complete_texts(loaded.model, loaded.codec, prompts, GenerationSection(**settings), eos_ids=loaded.eos_ids)
    return [
        {"prompt": prompt, "completion": completion.text, "tokens": completion.tokens, "finish": completion.finish}
        for prompt, completion in zip(prompts, made, strict=True)
    ]


def test_one_prompt_gives_its_text(folder):
    [row] = expected(folder, ["the cat"], temperature=0, max_new_tokens=9)
    assert run("--from", folder, "--prompt", "the cat", *GREEDY).exits(0).out == f"the cat{row['completion']}\n"
    assert answered("--from", folder, "--prompt", "the cat", *GREEDY, "--json") == [row]


def test_json_lines_in_order(folder, tmp_path):
    prompts = [" ".join([PROMPTS[i % 5]] * (1 + 7 * i % 4)) for i in range(70)]  # of several lengths, and more than three batches
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(json.dumps({"id": i, "prompt": prompt}) for i, prompt in enumerate(prompts)), encoding="utf-8")
    settings = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 5, "max_new_tokens": 12}
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    found = answered("--from", folder, "--input", path, *options)
    assert found == [{"id": i, **row} for i, row in enumerate(expected(folder, prompts, **settings))]  # with every field of its line


@pytest.mark.parametrize("place", [["-"], ["--input", "-"]])
def test_prompts_from_stdin(monkeypatch, folder, place):
    for content, prompts in (
        (b'{"prompt": "the cat"}\n{"prompt": "a"}\n', ["the cat", "a"]),
        (b"the cat\r\n\n  a  \n", ["the cat", "  a  "]),
        (b'\xef\xbb\xbf{"prompt": "a\\nb"}', ["a\nb"]),
        (b'not {"prompt": 3}\n"quoted"\n', ['not {"prompt": 3}', '"quoted"']),
    ):
        from_stdin(monkeypatch, content)
        assert [row["prompt"] for row in answered("--from", folder, *place, "--max-new-tokens", 2)] == prompts


def test_stop_strings(folder):
    [free] = expected(folder, ["the cat"], temperature=0, max_new_tokens=20)
    stop = free["completion"][3:5]
    [row] = answered("--from", folder, "--prompt", "the cat", "--temperature", 0, "--stop", "never", "--stop", stop, "--json")
    assert (row["completion"], row["finish"]) == (free["completion"].partition(stop)[0], "stop")


def test_beam_search(folder):
    rows = expected(folder, ["the cat", "a"], num_beams=4, max_new_tokens=12)
    done = run("--from", folder, "--prompt", "the cat", "--num-beams", 4, "--max-new-tokens", 12, "--temperature", 2)
    done.exits(0, "beam search does not sample, so generation.temperature has no effect")
    assert done.out == f"the cat{rows[0]['completion']}\n"
    assert rows != expected(folder, ["the cat", "a"], temperature=0, max_new_tokens=12)
    assert answered("--from", folder, "--prompt", "a", "--json", "--max-new-tokens", 12, "generation.num_beams=4") == rows[1:]


def test_an_encoder_decoder_gives_its_own_text(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(TokenizerSection(kind="unigram", vocab_size=180), [*PROMPTS, "the cat sat on the mat"] * 3)
    config = PRESETS["t5-v1.1-small"][1] | {"vocab_size": tokenizer.size, "dim": 24, "num_heads": 3, "head_dim": None, "hidden_dim": 44}
    model = build(ModelConfig.model_validate(config | {"encoder_layers": 1, "decoder_layers": 1}), seed=3)
    save_model(tmp_path, model.config, model.state_dict(), tokenizer)
    loaded = load(tmp_path)
    assert (loaded.family, loaded.start_id, loaded.eos_ids) == ("t5", tokenizer.pad_id, [tokenizer.eos_id])
    settings = GenerationSection(max_new_tokens=9, num_beams=2, no_repeat_ngram=1)
    made = complete_texts(loaded.model, tokenizer, PROMPTS, settings, eos_ids=loaded.eos_ids, start_id=loaded.start_id)
    options = ["--max-new-tokens", 9, "--num-beams", 2, "generation.no_repeat_ngram=1"]
    assert run("--from", tmp_path, "--prompt", PROMPTS[0], *options).exits(0).out == f"{made[0].text}\n"
    from_stdin(monkeypatch, "\n".join(PROMPTS).encode())
    found = [(row["prompt"], row["completion"]) for row in answered("--from", tmp_path, "-", *options)]
    assert found == [(prompt, one.text) for prompt, one in zip(PROMPTS, made, strict=True)]


def test_settings_of_the_run_unless_given(tmp_path):
    checkpoint = save_run(tmp_path / "run", RECIPE + "generation: {max_new_tokens: 3, temperature: 0}\n")
    for arguments, settings in [
        ([], {"max_new_tokens": 3, "temperature": 0}),
        (["--max-new-tokens", 5], {"max_new_tokens": 5, "temperature": 0}),
        (["generation.max_new_tokens=4", "generation.temperature=1"], {"max_new_tokens": 4, "temperature": 1}),
    ]:
        found = answered("--from", tmp_path / "run", "--prompt", "the cat", "--json", *arguments)
        assert found == expected(checkpoint, ["the cat"], **settings)


def test_a_damaged_recipe_of_the_run_is_no_mistake_in_the_command(tmp_path):
    known = {"schema_version": 1, "run_id": "a", "status": "stopped", "attempts": []}
    for name, text, problem in (
        ("unreadable", "model: [", "recipe.yaml:1:"),
        ("unknown", RECIPE.replace("steps:", "stepz:"), "training.stepz: unknown"),
    ):
        folder = tmp_path / name
        save_run(folder, text)
        (folder / "run.json").write_text(json.dumps(known), encoding="utf-8")
        for words in (["generate", "--from", folder, "--prompt", "the"], ["resume", folder]):
            run_here(words).refuses(4, problem, f"This is the recipe of the run {folder}, as tfkit wrote it: restore the file")


def test_settings_of_generation_config(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    path = folder / "generation_config.json"
    stated = read_json(path) | {"do_sample": True, "temperature": 0.5, "top_k": 4, "max_new_tokens": 6}
    path.write_text(json.dumps(stated | {"diversity_penalty": 0.5}), encoding="utf-8")
    for arguments, settings in [
        ([], {"temperature": 0.5, "top_k": 4, "max_new_tokens": 6}),
        (["--temperature", 0, "generation.max_new_tokens=9"], {"temperature": 0, "max_new_tokens": 9}),
    ]:
        done = run("--from", folder, "--prompt", "the cat", "--json", *arguments).exits(0)
        assert parse_rows(done.out) == expected(folder, ["the cat"], **settings)
        assert done.err.count(": by the checkpoint's generation_config.json, unless options") == 1
        assert done.err.count("generation_config.json: not supported and ignored: diversity_penalty\n") == 1
    [free] = expected(folder, ["the cat"], temperature=0, max_new_tokens=6)
    [made] = load(folder).codec.encode_bare([free["completion"]])
    path.write_text(json.dumps(stated | {"bad_words_ids": [[token] for token in made.tolist()]}), encoding="utf-8")
    assert answered("--from", folder, "--prompt", "the cat", "--json", "--temperature", 0) != [free]
    path.write_text(json.dumps(stated | {"bad_words_ids": [[99999]]}), encoding="utf-8")
    run("--from", folder, "--prompt", "the cat").exits(4, "generation_config.json: bad_words_ids is 99999")


@pytest.mark.parametrize(
    ("arguments", "content", "code", "message"),
    [
        (["--prompt", "a", "-"], "", 2, "not --prompt and -"),
        (["hello"], "", 2, "does not know 'hello': give a prompt as --prompt TEXT"),
        (["-"], "", 3, "stdin: there is no prompt"),
        (["-"], '{"prompt": "a"}\nb\n', 3, "stdin:2: not a JSON object; write"),
        (["-"], '{"prompt": "a"}\n{"text": "b", "id": 3}\n', 3, 'stdin:2: no text under "prompt"; its fields are text, id'),
        (["-"], '{"prompt": 3}', 3, 'stdin:1: no text under "prompt"; it is 3'),
        (["-"], '{"prompt": "\\ud83d"}', 3, "stdin:1: character 1 of the prompt is half of one"),
        (["--prompt", "a " * 99], "", 3, "prompt 1 has"),
        (["--prompt", "a", "--temperature", -1], "", 2, "generation.temperature: must be at least 0"),
        (["--prompt", "a", "--top-p", 0], "", 2, "generation.top_p: must be greater than 0"),
        (["--prompt", "a", "evaluation.batch_size=3"], "", 2, "this command reads only the sections generation, carbon"),
        (["--prompt", "a", "--chat"], "", 4, "model: this checkpoint has no chat template"),
        (["--chat"], "", 2, "exactly one of --prompt TEXT, --input F, and - for stdin; on a terminal, --chat alone is a conversation"),
        (["-"], '{"messages": [{"role": "user", "content": "a"}]}', 3, "its fields are messages; messages are read with --chat"),
    ],
)
def test_errors(monkeypatch, folder, arguments, content, code, message):
    from_stdin(monkeypatch, content.encode())
    done = run("--from", folder, *arguments).exits(code, message)
    assert len(done.out.splitlines()) == ("stdin:2: " in message)  # the line before it is answered


def test_files_of_other_formats_are_not_lines_of_prompts(folder, tmp_path):
    for name, content, message in (
        ("a.csv", b"prompt,id\nthe cat,1\n", "a.csv: prompts are not read from a .csv file; write each as a line such as"),
        ("a.parquet", b"PAR1", "a.parquet: prompts are not read from a .parquet file"),
        ("a.json", b'[{"prompt": "the cat"}]', 'a.json:1: not a JSON object; write {"prompt": ...} in every line'),
        ("a.jsonl", b'{"prompt": "the cat"\n{"prompt": "a"}\n', "a.jsonl:1: not a JSON object"),
        ("a.jsonl", b"\n", "a.jsonl: there is no prompt"),
        ("a.txt", b"good\n\nbad \xff\n", "a.txt:3:5: not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        done = run("--from", folder, "--input", tmp_path / name).exits(3, message)
        assert len(done.out.splitlines()) == (name == "a.txt")  # whose first line is answered


# -- the program


def command(folder: Path, *arguments: object) -> list[str]:
    return ["generate", "--from", str(folder), *map(str, arguments), "--threads", "1", NO_CARBON]


def test_on_a_terminal_a_line_appears_when_it_is_whole(folder):
    """The continuation of a prompt with a newline: its first line is there before the program ends."""
    arguments = command(folder, "--prompt", "one\ntwo", "--max-new-tokens", 5, "--temperature", 0)
    code, shown = on_terminal(lambda end: Program(arguments, stdout=end, stderr=subprocess.DEVNULL))
    assert code == 0
    [row] = expected(folder, ["one\ntwo"], max_new_tokens=5, temperature=0)
    assert shown.replace("\r\n", "\n") == escaped(f"one\ntwo{row['completion']}\n")


# -- chat


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory) -> Path:
    return write_chat_checkpoint(tmp_path_factory.mktemp("chat") / "model", TEMPLATES["chatml"])


def answers(folder: Path, *conversations: list[dict[str, str]], **settings) -> list[str]:
    loaded = load(folder)
    with open_template(loaded.codec, folder) as template:
        texts = [template.render(messages, add_generation_prompt=True) for messages in conversations]
    settings = GenerationSection(temperature=0, **settings)
    return [row.text for row in complete_texts(loaded.model, loaded.codec, texts, settings, eos_ids=loaded.eos_ids, rendered=True)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_chat_answers_a_prompt(chat_folder):
    [answer] = answers(chat_folder, [user("Hello")], max_new_tokens=9)
    assert run("--from", chat_folder, "--chat", "--prompt", "Hello", *GREEDY).exits(0).out == f"{answer}\n"
    [row] = answered("--from", chat_folder, "--chat", "--prompt", "Hello", "--json", *GREEDY)
    assert (row["prompt"], row["completion"]) == ("Hello", answer)
    [plain] = expected(chat_folder, ["Hello"], temperature=0, max_new_tokens=9)
    assert plain["completion"] != answer


def test_chat_answers_lines_also_plain_ones(monkeypatch, chat_folder, tmp_path):
    talk = [{"role": "system", "content": "Be brief."}, user("Hi"), {"role": "assistant", "content": "Yes?"}, user("How are you?")]
    path = write_rows(tmp_path / "prompts.jsonl", [{"messages": talk}, {"prompt": "Hello", "id": 3}])
    found = answered("--from", chat_folder, "--chat", "--input", path, *GREEDY)
    assert [row["completion"] for row in found] == answers(chat_folder, talk, [user("Hello")], max_new_tokens=9)
    assert (found[0]["messages"], found[1]["prompt"]) == (talk, "Hello")
    from_stdin(monkeypatch, b"Hello\nHi\n")
    found = answered("--from", chat_folder, "--chat", "-", *GREEDY)
    assert [row["completion"] for row in found] == answers(chat_folder, [user("Hello")], [user("Hi")], max_new_tokens=9)


@pytest.mark.thorough
def test_chat_shows_the_tools_and_their_calls(tmp_path):
    folder = write_chat_checkpoint(tmp_path / "model", FORMATS["chatml_tools"].jinja())
    tools = [{"name": "add", "parameters": {"type": "object"}}]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [user("Hi"), {"role": "assistant", "tool_calls": [{"name": "add", "arguments": '{"a": 1}'}]}, {"role": "tool", "content": "3"}]
    plain = [talk[0], {"role": "assistant", "content": "", "tool_calls": [call]}, talk[2]]
    loaded = load(folder)
    with open_template(loaded.codec, folder) as template:
        shown = template.render(plain, tools=[{"type": "function", "function": tools[0]}], add_generation_prompt=True)
    assert '<tools>\n{"type": "function", "function": {"name": "add"' in shown
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in shown
    settings = GenerationSection(temperature=0, max_new_tokens=9)
    [wanted] = complete_texts(loaded.model, loaded.codec, [shown], settings, eos_ids=loaded.eos_ids, rendered=True)
    path = write_rows(tmp_path / "prompts.jsonl", [{"messages": talk, "tools": tools}])
    [row] = answered("--from", folder, "--chat", "--input", path, *GREEDY)
    assert (row["completion"], row["tools"], row["messages"]) == (wanted.text, tools, talk)
    given = [{"messages": talk, "tools": tools, "source": tmp_path}]  # a value that JSON lacks
    [same] = tfkit.generate(given, {"generation.temperature": 0, "generation.max_new_tokens": 9}, start=folder, chat=True)
    assert same.completion == wanted.text
    path = write_rows(tmp_path / "none.jsonl", [{"messages": talk, "tools": [3]}])
    run("--from", folder, "--chat", "--input", path, *GREEDY).exits(3, f"{path}:1: tools are a list of JSON Schemas of functions")


def test_chat_with_tools_needs_a_template_that_shows_them(chat_folder, tmp_path):
    path = write_rows(tmp_path / "prompts.jsonl", [{"messages": [user("Hi")], "tools": [{"name": "add"}]}])
    run("--from", chat_folder, "--chat", "--input", path, *GREEDY).exits(4, f"{chat_folder}: the chat template does not show tools")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("eos", ["token", "list"])
def test_an_answer_ends_where_generation_config_says(tmp_path, eos):
    folder = write_chat_checkpoint(tmp_path / "model", TEMPLATES["chatml"])
    loaded = load(folder)
    [answer] = answers(folder, [user("Hello")], max_new_tokens=9)
    end = loaded.codec.encode_texts([answer])[0][len(loaded.codec.prefix)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end if eos == "token" else [1, end]}), encoding="utf-8")
    [row] = answered("--from", folder, "--chat", "--prompt", "Hello", "--json", *GREEDY)
    assert (row["completion"], row["finish"]) == ("", "stop")


def test_chat_errors(monkeypatch, chat_folder):
    for content, message in (
        ('{"messages": []}', 'stdin:1: "messages" holds no list of messages'),
        ('{"messages": [{"role": "user", "content": "a"}, "b"]}', 'stdin:1: messages[1] has no text under "role"'),
        ('{"prompt": "a"}\n{"messages": [{"role": "user"}]}', 'stdin:2: messages[0] has no text under "content"'),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "stdin:1: character 1 of content in messages[0] is half"),
        ('{"text": "a"}', 'stdin:1: no text under "prompt"; its fields are text'),
    ):
        test_errors(monkeypatch, chat_folder, ["--chat", "-"], content, 3, message)


def test_a_conversation_that_the_template_refuses(tmp_path):
    folder = write_chat_checkpoint(tmp_path / "model", TEMPLATES["gemma"])
    path = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"messages": [{"role": "assistant", "content": "a"}]}])
    done = run("--from", folder, "--chat", "--input", path).exits(4)
    assert [row["prompt"] for row in parse_rows(done.out)] == ["a"]
    assert f"{folder}/chat_template.jinja:4: the chat template, given {path}:2, failed: Conversation roles must alternate" in done.err


def take_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """The program on a terminal of its own, whose Ctrl-C and Ctrl-D are the terminal's."""

    def __init__(self, arguments: list[str]):
        self.leader, follower = pty.openpty()
        self.shown = ""
        self.program = Program(arguments, take_the_terminal, stdin=follower, stdout=follower, stderr=follower)
        os.close(follower)

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def wait_for(self, text: str, seconds: float = 300) -> str:
        """Return the output up to and including this text."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self.leader], [], [], 0.1)[0]:
                self.shown += os.read(self.leader, 65536).decode(errors="replace").replace("\r\n", "\n")
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def close(self) -> int:
        code = self.program.wait(300)
        os.close(self.leader)
        return code


def test_a_conversation(tmp_path):
    folder = write_chat_checkpoint(tmp_path / "model", TEMPLATES["chatml"], context_length=4096)
    terminal = Terminal(command(folder, "--chat", "--temperature", 0, "--max-new-tokens", 7))
    [first] = answers(folder, [user("Hello")], max_new_tokens=7)
    [second] = answers(folder, [user("Hello"), {"role": "assistant", "content": first}, user("Why?")], max_new_tokens=7)
    terminal.wait_for("> ")
    terminal.type("\n")  # nothing was said
    terminal.wait_for("> ")
    for said, answer in [("Hello", first), ("Why?", second)]:
        terminal.type(f"{said}\n")
        assert terminal.wait_for("\n> ") == f"{said}\n{answer}\n> ".replace("\r\n", "\n")  # as a terminal's driver passes it on
    terminal.type("\x04")
    assert terminal.close() == 0


def test_ctrl_c_ends_an_answer_and_then_the_conversation(tmp_path):
    folder = write_chat_checkpoint(tmp_path / "model", TEMPLATES["chatml"], context_length=20_000)
    terminal = Terminal(command(folder, "--chat", "--max-new-tokens", 19_000))
    terminal.wait_for("> ")
    terminal.type("Tell me everything.\n")
    terminal.wait_for("everything.\n")
    time.sleep(1)
    terminal.type("\x03")
    terminal.wait_for("\n> ")
    terminal.type("\x03")
    assert "stopped by SIGINT: the conversation is over" in terminal.wait_for("over")
    assert terminal.close() == 130


# -- on encoders: a masked language model fills its masks, others say what they are for


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENTRIES = [*SPECIAL, "the", "capital", "of", "france", "is", "paris", "play", "##ing", "##s", ".", "a"]
SETTINGS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}


def wordpiece(**settings: Any) -> Tokenizer:
    backend = Backend(models.WordPiece({word: i for i, word in enumerate(ENTRIES)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer.from_json(backend.to_str(), SETTINGS | settings)


def write_encoder(folder: Path, head: dict[str, Any], likeliest: str = "paris", preset: str = "bert-tiny", **settings: Any) -> Path:
    """A model folder; where the head has a bias for each entry, it makes `likeliest` that at every mask."""
    tiny = {"vocab_size": len(ENTRIES), "context_length": 16, "encoder_layers": 2, "dim": 24, "num_heads": 3, "init": {"std": 0.3}}
    model = build(ModelConfig.model_validate(PRESETS[preset][1] | tiny | {"head": head}), seed=1)
    if head["kind"] == "masked_lm":
        model.head.bias.data[ENTRIES.index(likeliest)] = 99.0
    folder.mkdir(parents=True)
    save_model(folder, model.config, model.state_dict(), wordpiece(**settings))
    return folder


MASKED = {"kind": "masked_lm", "tied": True, "next_sentence": True}


@pytest.fixture(scope="module", params=[False, True], ids=["as transformers", "special tokens split"])
def filler(request, tmp_path_factory) -> Path:
    """With a tokenizer that finds [MASK] in a text, and one that reads it as plain text, as those that tfkit trains do."""
    return write_encoder(tmp_path_factory.mktemp("fill") / "model", MASKED, split_special_tokens=request.param)


@pytest.mark.parametrize(
    ("likeliest", "filled"),
    [
        ("##ing", {"He is play[MASK] a game": "He is playing a game"}),
        ("paris", {"[MASK]": "paris", "[MASK] is [MASK] [MASK]": "paris is paris paris", "the[MASK].": "the paris."}),
        ("##s", {"[MASK] play[MASK]": "s plays"}),
        (".", {"a [UNK] [MASK]": "a [UNK] ."}),
    ],
)
def test_the_place_of_a_token(tmp_path, likeliest, filled):
    loaded = load(write_encoder(tmp_path / "model", MASKED, likeliest))
    assert [one.text for one in fill(loaded.model, loaded.codec, [*filled])] == [*filled.values()]


def test_a_filled_text_and_json_lines_with_the_candidates(filler, tmp_path):
    done = run("--from", filler, "--prompt", "The  capital of France is [MASK].").exits(0)
    assert done.out == "The  capital of France is paris.\n"  # all but the mask as it was written
    prompts = ["a [MASK] is [MASK].", "France [MASK]", "[MASK] of"] * 7  # more than a batch, of several lengths
    path = write_rows(tmp_path / "prompts.jsonl", ({"prompt": prompt} for prompt in prompts))
    lines = parse_rows(run("--from", filler, "--input", path).exits(0).out)
    wanted = [("a paris is paris.", 2), ("France paris", 1), ("paris of", 1)] * 7
    assert [(line["prompt"], line["finish"]) for line in lines] == [(prompt, "stop") for prompt in prompts]
    assert [(line["completion"], line["tokens"]) for line in lines] == wanted
    assert [len(line["candidates"]) for line in lines] == [tokens for _, tokens in wanted]
    for candidates in (candidates for line in lines for candidates in line["candidates"]):
        shares = [candidate["probability"] for candidate in candidates]
        assert (len(shares), candidates[0]["token"]) == (5, "paris")
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) < 1 + 1e-6


@torch.no_grad()
def test_the_candidates_are_the_models_own(filler):
    """A batch with padding gives what the model gives for a text alone."""
    loaded = load(filler)
    loaded.model.head.bias.data.zero_()
    texts = ["the capital of france is [MASK] .", "play [MASK]", "[MASK] is a [MASK]"]
    for text, filling in zip(texts, fill(loaded.model, loaded.codec, texts, top=3), strict=True):
        ids = [2, *(ENTRIES.index(word) for word in text.split()), 3]
        logits = loaded.model(torch.tensor([ids])).logits[0]
        for place, candidates in zip([i for i, token in enumerate(ids) if token == 4], filling.candidates, strict=True):
            shares, tokens = logits[place].softmax(dim=-1).topk(3)
            assert [candidate.probability for candidate in candidates] == pytest.approx(shares.tolist(), abs=1e-6)
            assert [candidate.token.strip() for candidate in candidates] == [ENTRIES[token].removeprefix("##") for token in tokens]


def test_what_cannot_be_filled(filler):
    run("--from", filler, "--prompt", "the capital").exits(3, "prompt 1 has no [MASK]")
    run("--from", filler, "--prompt", "a [MASK]", "--chat").exits(2, "leave --chat out")
    for setting in (["--temperature", "0.5"], ["--num-beams", "3"], ["--stop", "x"], ["generation.top_k=3"], ["generation={top_k: 3}"]):
        run("--from", filler, "--prompt", "a [MASK]", *setting).exits(2, "would have no effect")
    loaded = load(filler)
    with pytest.raises(DataError, match="prompt 9 has 19 tokens, but the model's context holds 16"):
        fill(loaded.model, loaded.codec, ["[MASK]", "[MASK]" + " the" * 16], first_row=7)


def test_a_tokenizer_without_a_mask(tmp_path):
    loaded = load(write_encoder(tmp_path / "model", MASKED))
    assert fill(loaded.model, wordpiece(mask_token=None), ["a [MASK]"])[0].text == "a paris"  # [MASK] is the usual one
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match="no mask token"):
        fill(loaded.model, Tokenizer.from_json(backend.to_str(), {}), ["a [MASK]"])


def test_an_encoder_says_what_it_is_for(tmp_path):
    for preset, head, said in (
        ("bert-tiny", {"kind": "none", "pooler": True}, "it gives hidden states"),
        ("distilbert-base", {"kind": "none"}, "it gives hidden states"),
        ("bert-tiny", {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh", "bias": True}, "gives the class of a text"),
        ("bert-tiny", {"kind": "tags", "count": 5}, "gives a tag for each token"),
    ):
        folder = write_encoder(tmp_path / preset / head["kind"], head, preset=preset)
        run("--from", folder, "--prompt", "a [MASK]").refuses(4, said, "fill each [MASK]")
