"""The execution of a walk: each command is a fork of this process with a limit of time and memory, and its end is checked."""

import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tiny_runs import Done, run_tfkit, strike

from tfkit import console
from tfkit.adapters import load
from tfkit.run.checkpoints import checkpoints
from tfkit.run.manifest import write_manifest
from tfkit.training.free_memory import resident_bytes
from walks.recipes import CANARY
from walks.scenario import Command, Walk, write

CPU_SECONDS, SECONDS = 30, 240  # for one command, most of which take a fifth of a second; wall time for one that waits for ever
MOST_BYTES = 1_000_000_000  # resident, beyond this process's memory, with which a fork begins
ERROR = "error.txt"  # the last error's message, in the folder of the walk
MOST_NEW_BYTES = 4_000_000_000  # of address space

# The exit codes with which each command may end in a walk: all are documented, and a walk explains no other.
CODES = {
    "check": {0, 2},
    "inspect": {0, 2, 3, 4},
    "pretrain": {0, 2, 3, 4, 6},
    "finetune": {0, 2, 3, 4, 6},
    "evaluate": {0, 2, 3},
    "embed": {0, 3},
    "generate": {0, 2, 3},
    "average": {0, 4},  # 4: the factors of an adapter have no mean
    "verify": {0},
}
_BARE = re.compile(
    r"^(KeyError|IndexError|ValueError|TypeError|RuntimeError|AttributeError|Traceback)|Error\(s\) in loading state_dict|"
    r"NoneType|object has no attribute|PyObject|panicked at|Expected all tensors|size mismatch for"
)
# Nothing is damaged in a walk: tfkit can read its own files.
_DAMAGE = re.compile(r"[Cc]opy .*again|damaged|do not fit config|is not the one|sha256")
_PLACE = re.compile(r"[\w-]+[./][\w./-]*|--\w+|\w+:\d+|[a-z_]+=|objective|(row|prompt) \d+|the (model|checkpoint|tokenizer|prompt)")
_REMEDY = re.compile(
    r"[;:,] [^;]*\b(give|set|add|remove|use|raise|choose|name|say|check|repair|lower|leave|make|write|train|start|keep|state|delete|"
    r"mend|average|turn|shorten|correct|take|put|try|change|ask|resume|evaluate|lists|skip|restore|repeat)\b|did you mean|needs? |is no |"
    r"--resume|Give a recipe, or one of these:\n  "
)


@dataclass(frozen=True)
class Failure:
    """A violation: a signature, equal for the same mistake, and the observation."""

    signature: str
    detail: str


@dataclass
class Outcome:
    """The result of a walk: each command with its end (None: not run, since its input is missing), and the failures."""

    done: list[tuple[Command, Done | None]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def code(self, command: str) -> int | None:
        """Return the exit code of the last command of this name that ran."""
        return next((done.code for one, done in reversed(self.done) if one.name == command and done), None)


def run_walk(walk: Walk, folder: Path, before: Callable[[], object] | None = None) -> Outcome:
    """Run every command of the walk in `folder`; skip one that needs a failed run. `before` is called in each process."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in walk.files.items():
        write(folder, name, file)
    for name, recipe in walk.recipes.items():
        (folder / name).write_text(json.dumps(recipe, ensure_ascii=False, indent=1), encoding="utf-8")
    outcome = Outcome()
    missing: set[str] = set()
    for command in walk.commands:
        if missing & _named_by(command, walk):
            outcome.done.append((command, None))
            missing |= {command.run} if command.run else set()
            continue
        ran = _times_run(folder)
        done = run_command(command, folder, before)
        outcome.done.append((command, done))
        outcome.failures += judge(command, done, folder)
        if command.stranger and "--allow-code" not in command.words and _times_run(folder) > ran:
            outcome.failures.append(Failure(f"{command.name}: runs code that its user has not allowed", str(command)))
        if command.run and done.code not in (0, *_stopped(command)):
            missing.add(command.run)
        if command.name == "average" and done.code:
            missing.add(command.words[command.words.index("--out") + 1])
    return outcome


def _times_run(folder: Path) -> int:
    """Return how often the code of the walk's rules was run."""
    return (folder / CANARY).stat().st_size if (folder / CANARY).exists() else 0


def _named_by(command: Command, walk: Walk) -> set[str]:
    """Return a command's inputs: its words, of a stage its chain, and the runs that a recipe among them uses."""
    recipes = [walk.recipes[word] for word in command.words if word in walk.recipes]
    teachers = {recipe["objective"]["teacher"] for recipe in recipes if "teacher" in recipe.get("objective", {})}
    return {*command.words, *(word.partition("/")[0] for word in command.words)} | teachers


def run_command(command: Command, folder: Path, before: Callable[[], object] | None = None) -> Done:
    """Run one command, in a process of its own in `folder`."""

    def start() -> None:
        enter(folder)
        Path(ERROR).unlink(missing_ok=True)
        console.error = _recorded(console.error)
        if command.stranger:
            os.environ["XDG_STATE_HOME"] = str(folder / "state-of-a-stranger")
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else 0
        if size:
            resource.setrlimit(resource.RLIMIT_AS, (size + MOST_NEW_BYTES, size + MOST_NEW_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        faulthandler.register(signal.SIGXCPU, file=2, all_threads=False, chain=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=2)
        if command.signal:
            strike(getattr(signal, command.signal), command.micro_batch)()
        if command.cache_lost is not None:
            deletion = threading.Timer(command.cache_lost, shutil.rmtree, [folder / "cache"], {"ignore_errors": True})
            deletion.daemon = True
            deletion.start()
        if before is not None:
            before()

    done = run_tfkit(folder, command.words, start)
    if done.code == 0 and command.ends:
        for checkpoint in checkpoints(folder / str(command.run) / "checkpoints"):
            _state_ends(checkpoint, command.ends)
    return done


def enter(folder: Path) -> None:
    """Let this process work in a folder, with a cache and a state of its own."""
    os.chdir(folder)
    os.environ |= {"TFKIT_CACHE": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")}


def _state_ends(checkpoint: Path, ends: list[int]) -> None:
    """Let a checkpoint's config.json and generation_config.json state further ids that end a text."""
    loaded = load(checkpoint)
    loaded.special_ids["eos_token_id"] = [*dict.fromkeys([*loaded.eos_ids, *(end % loaded.config.vocab_size for end in ends)])]
    with tempfile.TemporaryDirectory() as saved:
        loaded.save(saved)
        for name in ("config.json", "generation_config.json"):
            shutil.copyfile(Path(saved, name), checkpoint / name)
    write_manifest(checkpoint)


def _recorded(error: Callable[[str], None]) -> Callable[[str], None]:
    """Return console.error with a copy of its text in a file, separate from progress and warnings."""

    def record(text: str) -> None:
        Path(ERROR).write_text(text, encoding="utf-8", errors="replace")
        error(text)

    return record


def judge(command: Command, done: Done, folder: Path) -> list[Failure]:
    """Return what is wrong with a command's end."""
    allowed = CODES[command.name] | _stopped(command) | ({5} if command.cache_lost is not None else set())
    if "--predictions" in command.words and "/" in command.words[command.words.index("--predictions") + 1]:
        allowed = {2}  # in a run folder
    if done.code == -signal.SIGXCPU or ("Timeout (" in done.err and done.code == 1):
        return [Failure(f"{command.name}: hangs in {_frame(done.err)}", done.err[-3000:])]
    if done.code == 1:
        trace = _trace(command, done, folder)
        return [Failure(f"{command.name}: {_plain(done.err)} in {_frame(trace)}", trace[-3000:])]
    if done.code not in allowed:
        return [Failure(f"{command.name}: ends with {done.code}: {_plain(done.err)}", done.err[-3000:])]
    found = []
    if done.peak_bytes > (before := resident_bytes() or done.peak_bytes) + MOST_BYTES:
        found.append(Failure(f"{command.name}: holds too much memory", f"{(done.peak_bytes - before) / 1e9:.1f} GB"))
    if done.code == 0 and "--json" in command.words:
        found += _judge_json(command, done)
    if done.code not in (0, *_stopped(command)):
        found += _judge_message(command, done, message_of(done, folder))
    return found


def _stopped(command: Command) -> set[int]:
    """Return the codes of a process that got the command's signal."""
    if command.signal is None:
        return set()
    number = getattr(signal, command.signal)
    return {-number} if number == signal.SIGKILL else {128 + number}


def _judge_json(command: Command, done: Done) -> list[Failure]:
    try:
        for line in done.out.splitlines() if command.name == "generate" else [done.out]:
            json.loads(line, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError) as error:
        return [Failure(f"{command.name}: --json gives no JSON", f"{error}: {done.out[:500]}")]
    return []


def _judge_message(command: Command, done: Done, text: str) -> list[Failure]:
    """Check that an error message is more than a library's exception: it names a place and a remedy."""
    lacks = [
        *(["a message"] if not text else []),
        *(["a reason, since nothing was damaged"] if _DAMAGE.search(text) else []),
        *(["words of its own"] if _BARE.search(text) else []),
        *(["a place"] if text and not _PLACE.search(text) else []),
        *(["a remedy"] if text and not _REMEDY.search(text) else []),
    ]
    return [Failure(f"{command.name}: a message lacks {', '.join(lacks)}: {_plain(text)}", done.err[-2000:])] if lacks else []


def message_of(done: Done, folder: Path) -> str:
    """Return the error of the last command; click's errors about a command line bypass tfkit's console."""
    record = folder / ERROR
    return record.read_text(encoding="utf-8") if record.exists() else done.err


def _trace(command: Command, done: Done, folder: Path) -> str:
    logs = [folder / command.run / "crash.log"] if command.run else []
    return "\n".join([*(log.read_text(encoding="utf-8") for log in logs if log.exists()), done.err])


def _frame(trace: str) -> str:
    """Return the innermost line of tfkit in a traceback, or in faulthandler's, whose innermost is first."""
    found = re.findall(r'File "[^"]*/(tfkit/[\w/]+\.py)", line \d+,? in (\w+)', trace)
    return ":".join(found[0] if "most recent call first" in trace else found[-1]) if found else "nowhere"


def _plain(text: str) -> str:
    """Return the last line of a message without numbers, names and paths that differ from walk to walk."""
    last = (text.strip().splitlines() or [""])[-1]
    return re.sub(r"\(the traceback is in .*|'[^']*'|\"[^\"]*\"|\S*/\S+|[\d.,e-]*\d", "*", last)[:200]
