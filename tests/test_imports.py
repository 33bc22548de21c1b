"""The import rules of docs/architecture.md, read off the code: imports inside functions and under TYPE_CHECKING count too."""

import ast
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tfkit import _SPIN_COUNT, _limit_spinning
from tfkit.families import FAMILIES

PACKAGE = Path(__file__).parent.parent / "tfkit"
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}

# What each room may import of ours, itself and the bare `tfkit` (its version) aside.
PURE = {"carbon.footprint", "errors", "durable", "network", "model.config", "families", "recipe", "regular_files", "units"}
# Of the room `run`: how a checkpoint lies on disk, without torch.
_CHECKPOINTS = "best_json checkpoints manifest model_files run_json safetensors_header state_json strict_json tfkit_json verified"
CHECKPOINTS = {f"run.{name}" for name in _CHECKPOINTS.split()}
TENSORS = {"tokenizer", "hub", "model"}
LEARNING = TENSORS | {"parallel", "evaluation", "generation", "objectives", "adapters", "data"}
MAY_IMPORT = {
    "errors": set(),
    "durable": set(),
    "network": {"durable"},
    "regular_files": set(),
    "units": set(),
    "model.config": set(),
    "model": {"model.config"},
    "families": {"errors", "model.config"},
    "recipe": {"errors", "model.config", "families"},
    "console": PURE,
    "run": PURE,
    "carbon": {"errors", "durable", "recipe", "regular_files", "units"},
    "reporting": PURE | {"run", "carbon"},
    "tokenizer": PURE | CHECKPOINTS,
    "data": PURE | {"tokenizer"},
    "hub": PURE | CHECKPOINTS | {"tokenizer", "model"},
    "adapters": PURE | CHECKPOINTS | TENSORS,
    "objectives": PURE | TENSORS | {"adapters", "data"},
    "generation": PURE | TENSORS | {"objectives", "data"},
    "evaluation": PURE | TENSORS | {"parallel", "generation", "objectives", "data"},
    "parallel": PURE,
    "training": PURE | CHECKPOINTS | LEARNING,
    "alignment": PURE | LEARNING,
    "engine": PURE | LEARNING | {"alignment", "training", "run", "carbon"},
    "cli": {"engine", "recipe", "console", "errors", "units", "network", "run", "carbon", "reporting"},
    "__main__": {"cli", "console", "errors", "run"},
    "__init__": {"engine", "adapters"},
}
# The inner packages of engine and its three flat files: each may import those of lower rows.
ENGINE = [{"api"}, {"chains", "tools"}, {"planning", "recognition"}, {"training_run", "inference"}, {"assembly"}, {"request"}]
ENGINE += [{"listener", "results"}]
STOPPED = str(Path(__file__).parent / "fixtures" / "v0.1.0" / "stopped")
HEAVY = {"torch", "datasets", "tokenizers", "transformers", "codecarbon"}


def room(module: str) -> str:
    """tfkit.model.attention -> model; tfkit.model.config -> model.config; tfkit.hub -> hub; tfkit -> __init__."""
    name = module.removeprefix("tfkit").strip(".")
    return "model.config" if name.startswith("model.config") else name.split(".")[0] or "__init__"


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"), str(MODULES[module]))


@cache
def nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(tree(module)))


@cache
def imported(module: str, *, at_run_time: bool = False) -> dict[str, int]:
    """Every module that one of ours imports, as an absolute dotted name, with its line; `from a import b` gives a.b if that is a module.

    `at_run_time`: without the imports under TYPE_CHECKING.
    """
    names: dict[str, int] = {}
    blocks = (
        [node for node in nodes(module) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"] if at_run_time else []
    )
    skipped = {inner for block in blocks for inner in ast.walk(block)}
    package = module.removesuffix(".__init__").split(".") if module.endswith(".__init__") else module.split(".")[:-1]
    for node in nodes(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            submodules = {name for name in inner if name in MODULES or f"{name}.__init__" in MODULES}
            names |= dict.fromkeys(submodules | ({base} if inner - submodules else set()), node.lineno)
    return names


@pytest.mark.parametrize("here", sorted({room(module) for module in MODULES}))
def test_a_room_imports_only_what_lies_below_it(here: str) -> None:
    assert here in MAY_IMPORT, f"{here} is a room that docs/architecture.md does not know: add it there and here"
    allowed = MAY_IMPORT[here] | {here, "__init__"}
    breaches = [
        f"{MODULES[module]}:{line} imports {name}"
        for module in MODULES
        if room(module) == here
        for name, line in imported(module).items()
        if name.split(".")[0] == "tfkit" and not allowed & {room(name), name.removeprefix("tfkit.")}
    ]
    assert not breaches, f"{here} may import {sorted(allowed)}:\n" + "\n".join(breaches)


def test_the_rooms_have_an_order() -> None:
    """No cycle in what is allowed, so none in what is done."""
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {name for name, below in MAY_IMPORT.items() if {room(f"tfkit.{module}") for module in below - {name}} <= done} - done
        assert ready, f"a cycle among {sorted(MAY_IMPORT.keys() - done)}"
        done |= ready


def floor(module: str) -> int:
    """The row of ENGINE in which a module of engine is; the package itself is below all."""
    inner = module.removeprefix("tfkit.engine").strip(".").split(".")[0]
    return next((row for row, packages in enumerate(ENGINE) if inner in packages), len(ENGINE) if inner in ("", "__init__") else -1)


def test_no_import_of_engine_runs_back_up() -> None:
    """Every file is on a floor that docs/architecture.md names, and imports only its own package or lower floors."""
    modules = [module for module in MODULES if room(module) == "engine"]
    assert all(floor(module) >= 0 for module in modules)
    inner = {module: module.split(".")[2] for module in modules}
    breaches = [
        f"{MODULES[module]}:{line} imports {name}"
        for module in modules
        for name, line in imported(module).items()
        if name.startswith("tfkit.engine.") and name.split(".")[2] != inner[module] and floor(name) <= floor(module)
    ]
    assert not breaches, "\n".join(breaches)


def test_no_circle_of_files() -> None:
    """Imports within functions count; those for types do not, nor that of the bare `tfkit`, which is of its version."""
    left = {
        module.removesuffix(".__init__"): {name for name in imported(module, at_run_time=True) if name.startswith("tfkit.")}
        for module in MODULES
        if module != "tfkit.__init__"
    }
    while free := {module for module, names in left.items() if not names & (left.keys() - {module})}:
        left = {module: names for module, names in left.items() if module not in free}
    assert not left, f"a circle is among {sorted(left)}"


def test_the_loop_knows_no_concrete_objective() -> None:
    for module in ("tfkit.training.loop", "tfkit.training.step"):
        objectives = {name for name in imported(module) if room(name) == "objectives"}
        assert objectives <= {"tfkit.objectives.objective"}, module


def test_rooms_beside_the_line_know_no_torch() -> None:
    for module in MODULES:
        if room(module) in PURE | {"console", "run", "carbon", "reporting"}:
            heavy = {name.split(".")[0] for name in imported(module)} & HEAVY
            assert heavy <= ({"codecarbon"} if room(module) == "carbon" else set()), module


ROOMS_OF_LIBRARIES = {"ruamel": {"recipe"}, "yaml": set(), "codecarbon": {"carbon"}, "datasets": {"data"}, "tokenizers": {"tokenizer"}}
ROOMS_OF_LIBRARIES |= {"jinja2": {"tokenizer", "reporting"}, "regex": {"alignment"}, "rich": {"console"}, "optuna": {"engine"}}
ROOMS_OF_LIBRARIES |= {"typer": {"cli", "__main__"}, "transformers": set(), "pickle": set()}


@pytest.mark.parametrize(("library", "rooms"), ROOMS_OF_LIBRARIES.items())
def test_a_library_is_imported_in_its_own_rooms_only(library: str, rooms: set[str]) -> None:
    found = {room(module) for module in MODULES for name in imported(module) if name.split(".")[0] == library}
    assert found <= rooms


def test_only_hub_brings_family_rules_and_tensors_together() -> None:
    for module in MODULES:
        names = imported(module)
        tensors = any(name.split(".")[0] in {"torch", "safetensors"} or room(name) == "model" for name in names)
        rules = any(room(name) == "families" for name in names)
        assert not (tensors and rules) or room(module) in {"hub", "engine"}, f"{module} imports both"


def test_only_console_prints() -> None:
    for module in {module for module in MODULES if room(module) != "console"}:
        for node in nodes(module):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                called = ast.unparse(node.func) if name in {"print", "echo", "secho", "write"} else name
                printers = {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
                assert called not in printers, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in {"model", "model.config"}])
def test_the_model_reads_no_family_name(module: str) -> None:
    """No identifier holds one, no string is one. Prose may cite: `(GPT-2)` says where a default comes from."""
    families = {family.name for family in FAMILIES.values()}
    names = families | {name.lower() for family in FAMILIES.values() for name in (*family.architectures, *family.presets)}
    for node in nodes(module):
        identifiers = {getattr(node, field, None) for field in ("id", "attr", "arg", "name")} - {None}
        assert not any(family in str(name).lower() for family in families for name in identifiers), f"{module}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value.lower() not in names, f"{module}:{node.lineno}: {node.value!r}"


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["pretrain", "--help"],
        ["recipes"],
        ["check", "gpt2-stdlib", "--ranks", "2"],
        ["check", "--schema"],
        ["runs", "."],
        ["report", STOPPED],
        ["verify", STOPPED],
    ],
)
def test_the_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tfkit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    lines = done.stderr.splitlines()
    assert done.returncode == 0, "\n".join(line for line in lines if not line.startswith("import time:"))
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in lines if line.startswith("import time:")}
    assert "tfkit" in loaded
    assert not loaded & {*HEAVY, "numpy", "rich"}
    if arguments in (["--help"], ["--version"]):
        assert not loaded & {"pydantic", "ruamel", "safetensors"}


# What torch, or a library that a few commands need, imports in a tenth of a second or more.
HEAVIER = ["torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "torch.distributed.tensor", "sympy"]
HEAVIER += ["datasets", "pandas", "pyarrow", "transformers", "codecarbon", "regex", "rich", "jinja2"]
RECIPE = """\
model: {preset: gpt2, decoder_layers: 1, dim: 16, num_heads: 2, context_length: 16}
tokenizer: {kind: byte_bpe, vocab_size: 270}
data: {train: [{path: text.txt}], validation: 0.5}
objective: {kind: causal_lm}
training: {steps: 2, batch_size: 2}
carbon: {enabled: false}
"""
COMMANDS = [
    ["pretrain", "r.yaml", "--run", "first", "carbon.budget_seconds=1e6"],  # which fills the cache, also with the speeds of this machine
    ["pretrain", "r.yaml", "--run", "adamw"],
    ["pretrain", "r.yaml", "--run", "muon", "optimizer.kind=muon"],
    ["pretrain", "r.yaml", "--run", "adafactor", "optimizer.kind=adafactor", "training.ema_decay=0.9"],
    ["resume", "adamw", "training.steps=3"],
    ["generate", "--from", "adamw", "--prompt", "a", "--max-new-tokens", "2"],
    ["evaluate", "--from", "adamw", "--data", "text.txt"],
    ["finetune", "--from", "adamw", "--data", "rows.jsonl", "--run", "classifier", "training.steps=2", "carbon.enabled=false"],
    ["predict", "--from", "classifier", "--data", "rows.jsonl"],
    ["finetune", "--from", "adamw", "--data", "preferences.jsonl", "--run", "reward", "training.steps=2", "carbon.enabled=false"],
]


@pytest.mark.thorough
def test_the_commands_that_compute_import_nothing_heavier_than_torch(tmp_path: Path) -> None:
    """Once the speed of the machine is known: torch.autograd.grad, which measures it, imports sympy."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "text.txt").write_text("some words, and some more\n" * 100)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "{i}", "label": "{i % 2}"}}\n' for i in range(20)))
    (tmp_path / "preferences.jsonl").write_text(
        '{"prompt": "a", "chosen": " b", "rejected": " c"}\n{"prompt": "d", "chosen": " b", "rejected": " e"}\n' * 9
    )
    code = f"""
import sys
from tfkit.__main__ import main
for words in {COMMANDS}[int(sys.argv[1]):int(sys.argv[2])]:
    assert main(words) == 0, words
    print(words[:1], [name for name in {HEAVIER} if name in sys.modules], "torch" in sys.modules, file=sys.stderr)
"""
    environment = {**os.environ, "TFKIT_CACHE": str(tmp_path / "cache")}
    for part in ("0", "1"), ("1", "99"):
        command = [sys.executable, "-c", code, *part]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("[")] == [f"{words[:1]} [] True" for words in COMMANDS[1:]]


COMPILER = {"torch._dynamo", "torch._inductor", "torch.distributed._tools"}


def reached(module: str) -> set[str]:
    """Every module of ours that is imported with one of ours, and what these import of torch's compiler."""
    found, left = set(), [module]
    while left:
        if (here := left.pop()) in found:
            continue
        found.add(here)
        for node in tree(here).body if here in MODULES else ():
            if isinstance(node, ast.ImportFrom):
                left += [node.module or "", *(f"{node.module}.{one.name}" for one in node.names if f"{node.module}.{one.name}" in MODULES)]
            elif isinstance(node, ast.Import):
                left += [one.name for one in node.names]
    return found


@pytest.mark.parametrize(
    "module",
    [
        "engine.tools.dry_run",
        "engine.chains.planned_chain",
        "engine.training_run.assembled_run",
        "engine.inference.by_row",
        "engine.inference.text_generator",
        "training.device",
    ],
)
def test_a_command_starts_without_the_compiler(module: str) -> None:
    """It takes a second to import, which torch does by itself where it needs it."""
    found = reached(f"tfkit.{module}")
    assert "torch" in found
    assert not {name for name in found if any(name == one or name.startswith(f"{one}.") for one in COMPILER)}


def test_a_traceback_names_one_file() -> None:
    """The files of the commands are named as these, and `__init__` is no name of its own."""
    names = Counter(path.name for module, path in MODULES.items() if room(module) != "cli" and path.name != "__init__.py")
    assert not {name for name, count in names.items() if count > 1}


# -- the bounded spin of idle threads: set before torch loads, and never over what the user set


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_library_of_torch_reads_it() -> None:
    """`import tfkit` is early enough: libgomp shows its settings as it loads."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    command = [sys.executable, "-c", "import tfkit, torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=settings | {"OMP_DISPLAY_ENV": "VERBOSE"})
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this build of torch has another OpenMP")
    assert f"GOMP_SPINCOUNT = '{_SPIN_COUNT}'" in done.stderr


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_a_user_s_own_setting_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(name, "7")
    _limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == ("7" if name == "GOMP_SPINCOUNT" else None)


def test_with_torch_loaded_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    _limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
