"""Rendering of a checkpoint's chat template, which converts messages to the text format that the model was trained on.

The text equals that of transformers' `apply_chat_template(messages, tokenize=False)`. The template is rendered in a separate process
(template_worker.py), which is started at the first rendering, has limited resources, and is killed if it takes too long.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tfkit.errors import MachineError, ModelError, argument
from tfkit.recipe.reading.problems import cut
from tfkit.run.verified import find_named
from tfkit.tokenizer.tokenizer import Tokenizer, token_text
from tfkit.tokenizer.tokenizer_files import CONFIG, ROLES, TEMPLATE

SECONDS = 2.0  # the time limit for rendering one conversation
_START_SECONDS = 30.0  # the time limit for starting Python and jinja2, which usually takes 0.1 s, but more on a slow disk
_MAX_LENGTH = 1 << 20  # the most characters of a template; real ones have up to about 20,000
_MAX_REPLY = 8 << 20  # the most bytes of the worker's reply: enough for 1 MiB of text as JSON with every character escaped
_WORKER = Path(__file__).with_name("template_worker.py")
# The worker can import only from the standard library and from the folders that contain jinja2 and markupsafe: -I and -S exclude others.
_START = "import runpy, sys; worker = sys.argv.pop(1); sys.path += sys.argv[1:]; runpy.run_path(worker, run_name='__main__')"
# The environment variables that the worker gets: none with secrets, only the time zone, and those that some systems need to start Python.
_ENVIRONMENT = ("TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_MAX_ERROR = 300  # the most characters of the worker's error that a message shows
_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names under which data sets store the reasoning before an answer


class ChatTemplate:
    """A template and the process that renders it. As a context manager, it ends the process.

    `file`: the template's file, for error messages. `special_tokens`: the texts of bos_token, eos_token and so on, which the template may
    use. `date`: the date that the template takes for today (ISO 8601); None: today. Raises ModelError for a `text` of over 2^20 characters.
    """

    def __init__(self, text: str, file: Path, special_tokens: Mapping[str, str], date: str | None = None):
        if len(text) > _MAX_LENGTH:
            raise ModelError(f"{file}: the chat template has {len(text):,} characters, more than the limit of {_MAX_LENGTH:,}; {_remedy()}")
        self._text, self._file, self._special_tokens, self._date = text, file, dict(special_tokens), date
        self._worker: subprocess.Popen[bytes] | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
        place: str = "",
    ) -> str:
        """Return the text of a conversation with its special tokens. `add_generation_prompt`: append the beginning of the next answer.

        A message has "role" and "content", and any other fields that the template reads; fields that are None are left out. `tools`: the
        functions that may be called, as in transformers. `place`: the conversation's row, for errors. Raises ModelError, if possible
        with the template's line, if the template fails, rejects the conversation, takes over 2 s or renders over 1 MiB.
        """
        present = [_with_reasoning({name: value for name, value in message.items() if value is not None}) for message in messages]
        variables = {
            **self._special_tokens,
            "messages": present,
            "tools": [*tools] or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        if self._worker is None:
            self._start()
        request = {"template": self._text, "variables": variables, "date": self._date}
        # Rows of Parquet may have values that JSON lacks, such as dates. These become text; few templates read such fields.
        reply, late = self._exchange(json.dumps(request, default=str).encode() + b"\n", SECONDS)
        if reply is None:
            self.close()
            reply = {"error": f"it takes longer than {SECONDS:g} s" if late else "it crashes the process that renders it"}
        text = str(reply.get("text", ""))
        if not _is_valid_unicode(text):
            reply = {"error": "it writes half a character (a surrogate)"}
        if "error" in reply:
            where = f"{self._file}:{reply['line']}" if isinstance(reply.get("line"), int) else str(self._file)
            given = f", given {place}," if place else ""
            raise ModelError(f"{where}: the chat template{given} failed: {cut(str(reply['error']), _MAX_ERROR)}; {_remedy()}")
        return text

    def close(self) -> None:
        """End the process. The next call of `render` starts a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            with contextlib.suppress(BrokenPipeError), worker:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        specs = [find_spec(library) for library in ("jinja2", "markupsafe")]
        folders = dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin is not None)
        command = [sys.executable, "-I", "-S", "-B", "-c", _START, str(_WORKER), *folders]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        reply, pipe = None, subprocess.PIPE
        with contextlib.suppress(OSError):  # such as a lack of memory, or too many open files
            # The worker gets a session of its own, so that Ctrl-C in the terminal does not end it.
            self._worker = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            reply, _ = self._exchange(b"", _START_SECONDS)
        if reply is None:
            self.close()
            raise MachineError("the process that renders chat templates did not start: check the memory, and the installation of jinja2")

    def _exchange(self, line: bytes, seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """Send a line to the worker; return its reply (None: not valid), and whether the worker was killed at the time limit."""
        worker, late = self._worker, threading.Event()
        assert worker is not None
        assert worker.stdin is not None
        assert worker.stdout is not None

        def kill() -> None:
            late.set()
            worker.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            reply = worker.stdout.readline(_MAX_REPLY)
        except BrokenPipeError:
            reply = b""
        except BaseException:  # after an interruption, the worker's next reply would belong to this line
            self.close()
            raise
        finally:
            timer.cancel()
        timer.join()
        if late.is_set():
            self.close()
        return _parse_reply(reply), late.is_set()


def open_template(tokenizer: Tokenizer, folder: Path, date: str | None = None) -> ChatTemplate:
    """Open the chat template of a tokenizer that was loaded from `folder`. `date`: see ChatTemplate. Raises ModelError if there is none."""
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{folder}: this checkpoint has no chat template ({TEMPLATE}, or chat_template in {CONFIG}): it was not trained for "
            f"conversations; take one that was, or leave {argument('chat', True)} out"
        )
    special_tokens = {role: token_text(tokenizer.settings.get(role)) for role in ROLES}
    file = find_named(folder, TEMPLATE) or folder / CONFIG
    return ChatTemplate(tokenizer.chat_template, file, {role: text for role, text in special_tokens.items() if text is not None}, date)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with its reasoning, if it has any, also under the names `thinking` and `reasoning_content` that templates read."""
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def reads_reasoning(template: str | None) -> bool:
    """Whether a chat template mentions a name under which messages store the reasoning before an answer."""
    return template is not None and any(name in template for name in _REASONING)


def encode_rendered(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of rendered conversations. The ids that the post-processor adds are left out, since the template has written them."""
    before, after = len(tokenizer.prefix), len(tokenizer.suffix)
    return [ids[before : len(ids) - after] for ids in tokenizer.encode_texts(texts)]


def _parse_reply(reply: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; return None for anything else, since the worker may be compromised."""
    try:
        document = json.loads(reply)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_valid_unicode(text: str) -> bool:
    """Whether the text has no unpaired surrogate, which JSON and templates can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remedy() -> str:
    return f"take the template from the model's origin, or generate without {argument('chat', True)}"
