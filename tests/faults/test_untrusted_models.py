"""Model folders that come from anyone, damaged, hostile or of something else: exit 4, in little memory, and no code runs."""

import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks.hostile_files import PICKLES, SAFETENSORS
from attacks.mutations import damage
from safetensors.torch import load_file, save_file
from tiny_files import edit_config, edit_weights, read_json
from tiny_runs import Done, Fault, Main, Process, pretrain, run_here, run_tfkit, write_corpus, write_recipe
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tfkit.__main__ import main
from tfkit.families import PRESETS
from tfkit.hub import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.run.manifest import write_manifest
from tfkit.tokenizer import Tokenizer, train_byte_bpe

SENTENCES = "the cat sat on the mat. " * 40
FAMILIES = {"gpt2": "gpt2", "llama": "llama-7b"}
MEMORY = 200 << 20  # bytes that a refusal may take
SECONDS = 20.0  # of the processor; it takes some 0.1
TINY: dict[str, Any] = {"context_length": 32, "decoder_layers": 2, "dim": 16, "num_heads": 2, "hidden_dim": 24}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of each family, under the family's name."""
    root = tmp_path_factory.mktemp("models")
    for family, preset in FAMILIES.items():
        write_model(root / family, preset, train_byte_bpe([SENTENCES], 280, add_bos=True))
    return root


def write_model(folder: Path, preset: str, tokenizer: Tokenizer) -> None:
    """Write a complete checkpoint, tiny and random."""
    folder.mkdir()
    config = ModelConfig.model_validate(PRESETS[preset][1] | TINY | {"vocab_size": tokenizer.size, "init": {"std": 0.3}})
    save_model(folder, config, build(config, seed=1).state_dict(), tokenizer)
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    write_manifest(folder)


@pytest.fixture(params=FAMILIES)
def folder(models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of each family to damage, without a manifest: as if from elsewhere."""
    return copy(models, tmp_path, request.param)


@pytest.fixture
def gpt2(models: Path, tmp_path: Path) -> Path:
    """Such a folder of one family, where another would show the same."""
    return copy(models, tmp_path)


def copy(models: Path, place: Path, family: str = "gpt2") -> Path:
    path = Path(shutil.copytree(models / family, place / "model"))
    (path / "manifest.json").unlink()
    return path


def limit_memory(size: int = MEMORY) -> None:
    """From here on this process may allocate this many bytes more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    now = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def generate(folder: Path, before: Fault = limit_memory, program: Main = main, prompt: str = "the") -> Done:
    words = ["generate", "--from", str(folder), "--prompt", prompt, "--max-new-tokens", "4", "--threads", "1", "carbon.enabled=false"]
    if before is not limit_memory or program is not main:
        return Process(folder.parent, words, before, program).wait()
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        limit_memory()
        return run_here(words)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def assert_refused(folder: Path, *messages: str) -> str:
    """Exit 4 in little time and memory, with one message and nothing on stdout."""
    done = generate(folder).refuses(4, *messages)
    assert done.processor_seconds < SECONDS
    return done.err


def assert_all_refused(folder: Path, name: str, contents: list[str]) -> None:
    """As `assert_refused` with each content of a file, one after the other in one process: each within the bounds of a refusal."""

    def program(words: list[str]) -> int:
        for content in contents:
            (folder / name).write_text(content, encoding="utf-8")
            assert main(words) == 4, content
        return 4

    done = generate(folder, program=program).refuses(4)
    assert done.err.count(str(folder)) >= len(contents)
    assert done.processor_seconds < SECONDS


def write_shards(folder: Path) -> Path:
    """model.safetensors as two shards; gives the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, folder / shard, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return index


# -------------------------------------------------------------------------------------------------------------------- weights


def test_f12_f13_f14_what_is_whole_is_taken(folder: Path) -> None:
    """The refusals below are not for want of memory, or of something else."""
    generate(folder).exits(0)
    write_shards(folder)
    generate(folder).exits(0)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("attack", SAFETENSORS)
def test_f12_hostile_headers(gpt2: Path, attack: str) -> None:
    path = gpt2 / "model.safetensors"
    make, message = SAFETENSORS[attack]
    path.write_bytes(make())
    assert len(assert_refused(gpt2, str(path), message)) < 1000


def test_f12_a_header_of_100_mb_is_not_read(gpt2: Path) -> None:
    """Refused by its length alone: its bytes are not looked at."""
    (gpt2 / "model.safetensors").write_bytes(SAFETENSORS["100 MB of JSON"][0]())
    generate(gpt2, lambda: limit_memory(50 << 20)).exits(4)


@pytest.mark.parametrize("kind", PICKLES)
def test_f13_the_canaries_are_alive(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(PICKLES[kind](tmp_path / "canary"))
    if kind == "zip":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("model.safetensors", "pytorch_model.bin") for kind in PICKLES),
        # With the newest and the oldest form: a name is refused before its content is read.
        *((name, kind) for name in ("consolidated.pt", "model.pth", "last.ckpt") for kind in ("zip", "protocol 0")),
    ],
)
def test_f13_pickles_are_refused_and_their_code_does_not_run(gpt2: Path, tmp_path: Path, name: str, kind: str) -> None:
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / name).write_bytes(PICKLES[kind](tmp_path / "canary"))
    if name.endswith(".safetensors"):
        assert_refused(gpt2, str(gpt2 / name), "is not a readable safetensors file")
    else:
        (gpt2 / "optimizer.pt").touch()
        said = f"{name}: is a pickle, which can run code when it is opened, so tfkit never opens it: if you trust it, convert it"
        assert_refused(gpt2, said, "save_pretrained")
        assert_refused(gpt2 / name, said)
    assert not (tmp_path / "canary").exists()


def test_f13_a_training_state_that_is_a_pickle(tmp_path: Path) -> None:
    """Under a manifest that agrees with it, as whoever hands on a run can write one."""
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))
    words = ["training.steps=2", "checkpoint={every: 1, keep: 1}", "evaluation={every: 2}"]
    pretrain(run, recipe, *words).exits(0)
    checkpoint = run / "checkpoints" / "step-000002"
    (checkpoint / "training_state" / "optimizer.safetensors").write_bytes(PICKLES["zip"](tmp_path / "canary"))
    write_manifest(checkpoint)
    done = pretrain(run, recipe, *words, "training.steps=3", "--resume")
    done.exits(4, "optimizer.safetensors: is not a readable safetensors file: it is a zip file")
    assert not (tmp_path / "canary").exists()


def test_f14_every_difference_is_listed(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[names[1]]
        tensors["stranger"] = torch.zeros(3)
        tensors[names[2]] = torch.zeros(7, 7)
        tensors[names[3]] = tensors[names[3]].to(torch.int64)

    edit_weights(folder, change)
    said = [f"missing: {names[1]} (", "unexpected: stranger (3,)", f"misshapen: {names[2]} (7, 7)", f"mistyped: {names[3]} I64"]
    assert_refused(folder, *said)


def test_f14_another_familys_weights(models: Path, gpt2: Path) -> None:
    shutil.copy(models / "llama" / "model.safetensors", gpt2)
    assert_refused(gpt2, "missing: transformer.wpe.weight", "unexpected: model.norm.weight")


def test_f14_a_thousand_layers_of_which_the_header_names_one_tensor_each(gpt2: Path) -> None:
    """No block is built for them, and the differences are not listed one by one."""
    edit_config(gpt2, n_layer=1_000)
    bias = torch.zeros(0)
    edit_weights(gpt2, lambda tensors: tensors.update({f"transformer.h.{i}.ln_1.bias": bias for i in range(2, 1_000)}))
    said = ["missing: transformer.h.2.ln_1.weight (16,)", "and 10,958 more", "misshapen: transformer.h.2.ln_1.bias (0,)"]
    assert len(assert_refused(gpt2, *said).splitlines()) < 50


NO_FILE = "does not map each tensor to a file of this folder"


@pytest.mark.parametrize(
    ("tensor", "file", "message"),
    [
        ("the first", "../model.safetensors", NO_FILE),
        ("the first", "/etc/passwd", NO_FILE),
        ("the first", "pytorch_model.bin", NO_FILE),
        ("stranger", "model-.safetensors", "model-.safetensors: there is no such file"),
        ("the first", "model-1.safetensors", "but model.safetensors.index.json places it in"),
        ("the first", None, "but model.safetensors.index.json does not know it"),
        ("stranger", "model-1.safetensors", "model-1.safetensors: has no tensor 'stranger'"),
    ],
)
def test_f14_f34_an_index_that_disagrees_with_its_shards(folder: Path, tensor: str, file: str | None, message: str) -> None:
    index = write_shards(folder)
    files = read_json(index)["weight_map"]
    files[next(iter(files)) if tensor == "the first" else tensor] = file
    changed = {name: file for name, file in files.items() if file is not None}
    index.write_text(json.dumps({"metadata": {}, "weight_map": changed}), encoding="utf-8")
    assert_refused(folder, message)


def test_f14_a_tensor_in_two_shards(folder: Path) -> None:
    write_shards(folder)
    first, second = (load_file(folder / f"model-{i}.safetensors") for i in range(2))
    save_file(first | dict(list(second.items())[:1]), folder / "model-0.safetensors", {"format": "pt"})
    assert_refused(folder, "model-0.safetensors: holds the tensor", "places it in model-1.safetensors")


# ------------------------------------------------------------------------------------------------------- links and other files


@pytest.mark.parametrize("name", ["config.json", "tfkit.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["link out", "link to nothing", "link to itself", "folder", "pipe"])
def test_f34_files_that_are_links_folders_or_pipes(gpt2: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = gpt2 / name
    outside = shutil.move(path, tmp_path / "outside")
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to({"link out": outside, "link to nothing": tmp_path / "nothing", "link to itself": path}[kind])
    assert_refused(gpt2, name)


def test_f34_links_inside_the_folder_and_the_hubs_cache_are_followed(models: Path, gpt2: Path, tmp_path: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "weights")
    (gpt2 / "model.safetensors").symlink_to("weights")
    generate(gpt2).exits(0)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    shutil.copytree(models / "gpt2", blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    generate(snapshot).exits(0)


def test_f09_f11_generate_checks_sizes_against_the_manifest(models: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models / "gpt2", tmp_path / "model"))
    generate(folder).exits(0)
    template, weights = folder / "chat_template.jinja", folder / "model.safetensors"
    template.write_text("{{ messages }} ", encoding="utf-8")
    assert_refused(folder, f"{template}: 15 bytes, where the checkpoint had 14")
    template.unlink()
    assert_refused(folder, f"{template}: missing, but manifest.json names it")
    template.write_text("{{ messages }}", encoding="utf-8")
    os.truncate(weights, weights.stat().st_size - 1)
    assert_refused(folder, f"{weights}: ", "bytes, where the checkpoint had")


# ----------------------------------------------------------------------------------------------------------------------- JSON

ABSURD = [10**12, 10**30, -1, 0, 2.5, True, False, "x", "12", [], {}, None]
SIZES = {
    "gpt2": ["vocab_size", "n_positions", "n_layer", "n_embd", "n_head"],
    "llama": ["vocab_size", "max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"],
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_f10_absurd_sizes_in_config_json(folder: Path, value: object) -> None:
    whole = read_json(folder / "config.json")
    assert_all_refused(folder, "config.json", [json.dumps(whole | {field: value}) for field in SIZES[whole["model_type"]]])


@pytest.mark.parametrize("count", [10**3, 10**6, 10**9])
def test_f10_a_million_layers_are_not_built(folder: Path, count: int) -> None:
    edit_config(folder, n_layer=count, num_hidden_layers=count)
    too_many = f"num_hidden_layers {count} is not a whole number from 0 to 1,024"
    assert_refused(folder, f"it has {count:,} layers, the files hold" if count <= 1024 else too_many)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model_type": "gpt2", "n_layer": NaN}', "config.json: not strict JSON (NaN is not JSON)"),
        ("config.json", b'{"model_type": "gpt2", "model_type": "gpt2"}', "config.json: not strict JSON (a key occurs twice)"),
        ("config.json", b'{"model_type":\n x}', "config.json:2:2: not JSON"),
        ("config.json", b"[" * 100_000, "config.json: not strict JSON (nested too deeply)"),
        ("config.json", b" " * (5 << 20), "config.json: larger than 4 MiB"),
        ("tfkit.json", b'{"model": \xff}', "tfkit.json: byte 10 is not UTF-8"),
        ("tfkit.json", b" " * (5 << 20), "tfkit.json: larger than 4 MiB"),
        ("tokenizer.json", b" " * (65 << 20), "tokenizer.json: larger than 64 MiB"),
        ("tokenizer.json", b'{"version": "1.0",\n "model" }', "tokenizer.json:2:10: not JSON"),
        ("tokenizer.json", b'{"version": "1.0", "model": {}}', "tokenizer.json: not a usable tokenizer"),
        ("tokenizer_config.json", b'{"eos_token": "\\ud800"}', "tokenizer_config.json: a string holds half a character"),
        ("tokenizer_config.json", b'{"eos_token": {"content": [1]}}', "the eos_token is"),
        ("special_tokens_map.json", b"[]", "special_tokens_map.json: expected a JSON object"),
        ("chat_template.jinja", b"x" * (2 << 20), "chat_template.jinja: larger than 1 MiB"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: byte 0 is not UTF-8"),
    ],
)
def test_f10_f49_damaged_text_is_named_with_its_place(gpt2: Path, name: str, content: bytes, message: str) -> None:
    (gpt2 / name).write_bytes(content)
    assert_refused(gpt2, message)


@pytest.mark.parametrize("field", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", ["</s>", True, 1.0, [True], [[1]], {"id": 1}], ids=repr)
def test_f10_special_ids_that_are_no_numbers(gpt2: Path, field: str, value: object) -> None:
    edit_config(gpt2, **{field: value})
    assert_refused(gpt2, f"config.json: {field} is ")


# ------------------------------------------------------------------------------------------------------------------ tokenizers


def replacing(pattern: object, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


HOSTILE_TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "a text of one character grows to 10^9": (
        {"normalizer": {"type": "Sequence", "normalizers": [replacing({"String": "t"}, "t" * 1000)] * 3}},
        "makes over 1,000 characters of one",
    ),
    "and in 30 doublings": (
        {"decoder": {"type": "Sequence", "decoders": [replacing({"String": "t"}, "tt")] * 30}},
        "makes over 1,000 characters of one",
    ),
    "a pattern that takes for ever": (
        {"normalizer": replacing({"Regex": r"(\w+\s?)+$"}, "x")},
        "not a usable tokenizer (Onig: Regex search error: retry-limit-in-match over)",
    ),
    "no token for what it does not know": (
        dict.fromkeys(("pre_tokenizer", "post_processor"))
        | {"added_tokens": [], "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "<unk>"}},
        "not a usable tokenizer",
    ),
    "ids beyond the model's vocabulary": (
        {"post_processor": None, "model": {"type": "BPE", "vocab": {"t": 4_000_000_000, "h": 1, "e": 2}, "merges": []}},
        "tokenizer.json: 4,000,000,001 entries, but vocab_size in config.json is 269",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_TOKENIZERS)
def test_f49_hostile_tokenizers(gpt2: Path, name: str) -> None:
    changes, message = HOSTILE_TOKENIZERS[name]
    edit_tokenizer(gpt2, changes, has_special_tokens="model" not in changes)
    generate(gpt2, prompt="the cat sat on the mat and then the dog went away! " * 5).exits(4, message)


def edit_tokenizer(folder: Path, changes: dict[str, Any], *, has_special_tokens: bool) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")
    for name in () if has_special_tokens else ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}", encoding="utf-8")


def test_f49_a_tokenizer_that_drops_every_text(gpt2: Path, tmp_path: Path) -> None:
    edit_tokenizer(gpt2, {"normalizer": replacing({"Regex": "."}, ""), "post_processor": None}, has_special_tokens=False)
    generate(gpt2).exits(3, "has no tokens")
    (tmp_path / "text.txt").write_text("the cat", encoding="utf-8")
    run_here(["evaluate", "--from", gpt2, "--data", tmp_path / "text.txt", "--threads", "1", "carbon.enabled=false"]).exits(3)


# -- thousands of damaged model folders through tfkit generate and tfkit evaluate: a result or exit 3 or 4, in bounded time and memory


TOGETHER = 30  # mutations in one process
HANG_SECONDS = 200  # for one of them, which takes a tenth of a second: a hang
ROOM = 512 << 20
OFTEN = ("config.json", "tokenizer.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json")  # with the most that can be wrong


def foreign_tokenizer() -> Tokenizer:
    """One of another make than tfkit's own, with nearly all that a tokenizer.json can have."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}, "▁": 259, "t": 260, "h": 261, "▁t": 262}
    backend = Backend(BPE(vocab=vocab, merges=[("▁", "t")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
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


def damaged(whole: Path, family: str, seed: int, place: Path) -> tuple[list[str], str]:
    """Make the damaged folder of this seed; the command line that meets it, and the name of its damaged file."""
    choose = random.Random(f"{family} {seed}")
    folder = place / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / family, folder)
    path = choose.choice([*sorted(folder.iterdir()), *(folder / name for name in OFTEN)])
    if path.name != "manifest.json" and choose.random() < 0.9:  # else a changed size is all that is seen
        (folder / "manifest.json").unlink()
    damage(path, choose)
    command = ["generate", "--prompt", "the cat", "--max-new-tokens", "4"]
    if choose.random() < 0.4:
        command = ["evaluate", "--data", str(whole / "corpus"), "evaluation.max_tokens=40"]
    return [*command, "--from", str(folder), "--threads", "1", "carbon.enabled=false"], path.name


def run_all(whole: Path, family: str, seeds: range, place: Path) -> None:
    """In a process of its own: a line of JSON for each seed, written before it is met and after. A hang ends the process."""
    limit_memory(ROOM)
    with (place / "results.jsonl").open("w", encoding="utf-8") as results:
        for seed in seeds:
            arguments, file = damaged(whole, family, seed, place)
            outcome: dict[str, Any] = {"seed": seed, "file": file, "command": arguments[0], "code": None}
            print(json.dumps(outcome), file=results, flush=True)
            sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
            signal.alarm(HANG_SECONDS)
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
