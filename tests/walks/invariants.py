"""Invariants of every run that ended well, whatever its recipe. Each one yields or raises what is wrong."""

import contextlib
import hashlib
import io
import json
import math
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fake_codecarbon
import torch
from tiny_files import emissions_rows, read_json, receipt, write_rows
from tiny_runs import Done, evaluations, exact
from two_ranks import start_ranks

from tfkit.adapters import load
from tfkit.hub import find_checkpoint
from tfkit.hub.model_reading import Loaded
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.run.manifest import write_manifest
from walks.running import Failure, Outcome, enter, message_of, run_command, run_walk
from walks.scenario import Command, DataFile, Walk, write
from walks.workflow import COMMON, QUIET

TOLERANCE = 1e-4
_DROPOUT = json.dumps(dict.fromkeys(("embedding", "attention", "residual", "hidden", "final", "head"), 0.0))
# The words of a run that two ranks can share.
_FOR_TWO = [f"model.dropout={_DROPOUT}", "training.precision=fp32", "training.log_every=1", "training.micro_batch_size=1"]
_FOR_TWO += ["training.compile=false", "training.activation_checkpointing=false", "evaluation.every=null", "evaluation.metric=null"]
_FOR_TWO += ["training.patience=null", "training.trial_rates=null", "training.batch_ramp=null", "training.batch_size=4"]
_NOT_DEALT = "divided evenly among 2 ranks"  # of a run for which there is no such batch


class Run:
    """A finished run of a walk: the command that began it, its recipe, and the folder and files of the walk."""

    def __init__(self, folder: Path, command: Command, recipe: dict[str, Any], files: dict[str, DataFile]):
        self.folder, self.command, self.recipe, self.files = folder, command, recipe, files
        self.name = str(command.run)
        self.checkpoint = find_checkpoint(folder / self.name)

    @property
    def is_whole(self) -> bool:
        """Whether the checkpoint is a model, not an adapter."""
        return (self.checkpoint / "model.safetensors").exists()

    def again(self, name: str, *words: str, stop: str | None = None, may_diverge: bool = False, **options: Any) -> Path:
        """Run the same again in another folder, with further words; return that folder. `stop`: killed in the second step first.

        `may_diverge`: it is another run by its words, whose loss may end it (6).
        """
        words = self._words(name, *words)
        commands = [Command(words, ends=self.command.ends)]
        if stop:
            commands = [Command(words, stop, 2), Command([*words, "--resume"], ends=self.command.ends)]
        for command in commands:
            done = run_command(command, self.folder, **options)
        if done.code and not (may_diverge and done.code == 6):
            raise RuntimeError(f"{command}: {done.code}: {message_of(done, self.folder)}")
        return self.folder / name

    def on_two_ranks(self, name: str, *words: str, folders: Sequence[Path] = ()) -> list[Done]:
        """Run the same from its beginning on two ranks, in another run folder; `folders`: where each rank looks for its files."""
        within = [partial(enter, folder) for folder in folders or (self.folder, self.folder)]
        words = self._words(str(self.folder / name), *words, "--threads", "1")
        started = start_ranks(self.folder, words, dict(enumerate(within)))
        ended = [started[0].wait()]
        if ended[0].code == 2:  # it is refused before they meet, of which a launcher informs the other
            started[1].kill(signal.SIGKILL)
        return [*ended, started[1].wait()]

    def _words(self, name: str, *more: str) -> list[str]:
        plain = [word for word in self.command.words if word not in ("--resume", "--json")]
        plain[plain.index("--run") + 1] = name
        return [*plain, *more]

    def result(self, *words: str) -> str:
        """Return the output of a command that must end with 0."""
        done = run_command(Command([*words, *COMMON, *QUIET]), self.folder)
        if done.code:
            raise RuntimeError(f"{' '.join(words)}: {done.code}: {message_of(done, self.folder)}")
        return done.out


def judge_walk(walk: Walk, folder: Path, *, invariants: bool = False, before: Callable[[], object] | None = None) -> Outcome:
    """Return the outcome of a walk in a new folder, with the invariants or without; `before` is called in each of its processes."""
    outcome = run_walk(walk, folder, before)
    if invariants:
        outcome.failures += check(walk, folder, outcome)
    return outcome


def check(walk: Walk, folder: Path, outcome: Outcome) -> list[Failure]:
    """Return what is wrong with the finished runs of a walk."""
    found = []
    for run in finished_runs(walk, folder, outcome):
        for invariant in (*INVARIANTS, *(OF_A_RECIPE if run.recipe or run.command.name != "finetune" else ())):
            name = invariant.__name__.replace("_", " ")
            try:
                found += [
                    Failure(f"{run.command.name}: not true that {name}: {what.partition(':')[0]}", f"{run.name}: {what}")
                    for what in invariant(run)
                ]
            except Exception as error:
                message = str(error).partition("\n")[0][:300]
                found.append(Failure(f"{run.command.name}: not true that {name}: {type(error).__name__}", f"{run.name}: {message}"))
    return found


def finished_runs(walk: Walk, folder: Path, outcome: Outcome) -> Iterator[Run]:
    """Yield the runs of a walk whose last command ended with 0."""
    ended = {command.run: (command, done) for command, done in outcome.done if command.run and command.name in ("pretrain", "finetune")}
    for command, done in ended.values():
        if done is not None and done.code == 0:
            recipe = next((walk.recipes[word] for word in command.words if word in walk.recipes), {})
            if "stages" not in recipe:  # each of which is a run as any other, and none has a command of its own
                yield Run(folder, command, recipe, walk.files)


# -- the checkpoint


def it_opens_in_transformers(run: Run) -> Iterator[str]:
    """Compare the logits of tfkit with those of config.json's class of transformers."""
    if not run.is_whole:
        return
    config = read_json(run.checkpoint / "config.json")
    name = config.get("architectures", [""])[0]
    if config["model_type"] == "tfkit":
        return
    import transformers

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = getattr(transformers, name).from_pretrained(run.checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    ours = load(run.checkpoint)
    inputs = _inputs(ours, config.get("pad_token_id"))
    if name.endswith("ForSequenceClassification") and "decoder_input_ids" in inputs:
        return  # it reads the position of </s> in the input, and needs one
    with torch.no_grad():
        wanted = theirs(**inputs)
        ends = [wanted[key] for key in ("start_logits", "end_logits") if key in wanted]
        single = (wanted[key] for key in ("prediction_logits", "logits", "last_hidden_state") if key in wanted)
        expected = torch.stack(ends, -1) if ends else next(single)
        output = ours.model.eval()(**inputs)
        found = output.hidden if ours.config.head.kind == "none" else output.logits
    rounding = TOLERANCE * max(1.0, float(expected.abs().max()))  # weights may have grown to any size
    if found.shape[-1] != expected.shape[-1] or not torch.allclose(found.squeeze(), expected.squeeze(), atol=rounding, rtol=TOLERANCE):
        yield f"other logits in {name}: by up to {(found.squeeze() - expected.squeeze()).abs().max():.2e}"


def _inputs(ours: Loaded, pad: int | None) -> dict[str, torch.Tensor]:
    """Return token ids without padding; for an encoder-decoder the decoder's, too."""
    ids = torch.tensor([[id for id in range(5, 40) if id != pad][: min(12, ours.config.context_length)]]) % ours.config.vocab_size
    both = ours.config.encoder_layers and ours.config.decoder_layers
    return {"input_ids": ids} | ({"decoder_input_ids": ids[:, :7]} if both else {})


def saving_it_again_gives_the_same_bytes(run: Run) -> Iterator[str]:
    """Load, save, and compare the files."""
    if not run.is_whole:
        return
    loaded = load(run.checkpoint)
    loaded.save(run.folder / f"{run.name}-saved")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        before, after = run.checkpoint / name, run.folder / f"{run.name}-saved" / name
        if before.exists() != after.exists():
            yield f"{name} is there once only"
        elif before.exists() and before.read_bytes() != after.read_bytes():
            yield f"{name} differs"


# -- the run


def an_evaluation_afterwards_reports_the_same(run: Run) -> Iterator[str]:
    """Compare the last evaluation during training with `tfkit evaluate` of its checkpoint."""
    evaluated = evaluations(run.folder / run.name)
    if not evaluated or not _in_float32(run):
        return
    step, during = evaluated.popitem()
    folder = run.folder / run.name / "checkpoints" / f"step-{step:06d}"
    if not folder.exists() or during.get("loss") is None:
        return
    if run.recipe["objective"]["kind"] == "ai_feedback":  # whose rows are prompts, on which nothing can be scored
        return
    more = ["evaluation.text_metrics=[]"] if SECTIONS[run.recipe["objective"]["kind"]].answers_in_text else []
    more += [f"data.on_bad_row={found}"] if (found := run.recipe["data"].get("on_bad_row")) else []  # which is not inherited
    more += [f"data.sequence_length={found}"] if (found := run.recipe["data"].get("sequence_length")) else []  # texts are scored by another
    after = json.loads(run.result("evaluate", "--from", str(folder.relative_to(run.folder)), "--json", *more))["metrics"]
    for name in during.keys() & after.keys():
        if isinstance(during[name], float) and not math.isclose(during[name], after[name], rel_tol=1e-4, abs_tol=1e-5):
            yield f"{name} differs: {during[name]} in training, {after[name]} afterwards"


def _in_float32(run: Run) -> bool:
    """Whether rows are held out, and evaluated in float32 both times."""
    both = run.recipe.get("training", {}).get("precision"), run.recipe.get("evaluation", {}).get("precision", "float32")
    return run.recipe.get("data", {}).get("validation") is not None and both == ("fp32", "float32")


def another_micro_batch_or_more_threads_give_the_same_loss(run: Run) -> Iterator[str]:
    """Compare the first step's loss and gradient, without dropout and in float32."""
    words = [f"model.dropout={_DROPOUT}", "training.precision=fp32", "training.log_every=1", "training.activation_checkpointing=false"]
    size = run.recipe["training"].get("batch_ramp", None) or {}
    whole = f"training.micro_batch_size={size.get('start') or run.recipe['training']['batch_size']}"
    losses = {}
    for name, more in {"one": ["training.micro_batch_size=1"], "all": [whole], "threads": [whole, "--threads", "2"]}.items():
        folder = run.again(f"{run.name}-{name}", *words, *more, may_diverge=True)
        first = next(iter(exact(folder)))
        losses[name] = (first["loss"], first.get("grad_norm"))
    for name, found in losses.items():
        for ours, other in zip(losses["one"], found, strict=True):
            if ours is not None and not math.isclose(ours, other, rel_tol=1e-5, abs_tol=1e-6):
                yield f"{name} differs from one row at a time: {other} and {ours}"


def two_ranks_take_the_same_first_step(run: Run) -> Iterator[str]:
    """Compare loss and gradient with those of one process, without dropout and in float32: of replicas, and where ranks share weights.

    Not of a run whose rows cannot be dealt to two.
    """
    alone = next(iter(exact(run.again(f"{run.name}-alone", *_FOR_TWO, may_diverge=True))))
    for name, mesh in (("replicas", "parallel={shard: 1}"), ("shards", "parallel={shard: 2}")):
        ended = run.on_two_ranks(f"{run.name}-{name}", *_FOR_TWO, mesh)
        if _NOT_DEALT in ended[0].err:
            return
        if {done.code for done in ended} - {0, 6}:
            yield f"{name} end with {[done.code for done in ended]}: {ended[0].err[-500:]}"
            continue
        first = next(iter(exact(run.folder / f"{run.name}-{name}")))
        for key in ("tokens", "loss", "grad_norm"):
            if key in alone and alone[key] is not None and not math.isclose(alone[key], first[key], rel_tol=1e-4, abs_tol=1e-6):
                yield f"{name} differ in {key}: {first[key]} and {alone[key]}"


def a_rank_with_another_file_is_refused(run: Run) -> Iterator[str]:
    """Start two ranks, of which the second has another of the recipe's files, or starts from another model: both name it, and end."""
    sources = [source for part in ("train", "validation") if isinstance(listed := run.recipe["data"].get(part), list) for source in listed]
    inputs = [source["path"] for source in sources] + (["first"] if "--from" in run.command.words else [])
    changed = random.Random(f"{run.name} {inputs}").choice(inputs)
    other = run.folder / f"{run.name}-other-disk"
    shutil.copytree(run.folder, other, ignore=shutil.ignore_patterns("*-other-disk"))
    if changed == "first":
        checkpoint = other / find_checkpoint(run.folder / "first").relative_to(run.folder)
        loaded = load(checkpoint)
        next(loaded.model.parameters()).data += 1e-3
        loaded.save(checkpoint)
        write_manifest(checkpoint)
    elif changed.endswith("/"):
        (other / changed / "0.txt").write_text("another", encoding="utf-8")
    else:
        (other / changed).unlink()
        write(other, changed, DataFile(run.files[changed].rows[:-1], run.files[changed].header))
    ended = run.on_two_ranks(f"{run.name}-mixed", *_FOR_TWO, "parallel={shard: 1}", folders=(run.folder, other))
    if _NOT_DEALT not in ended[0].err and not all(done.code in (3, 4) and "on rank 1" in done.err for done in ended):
        yield f"another {changed} on rank 1 ends with {[done.code for done in ended]}: {[done.err[-500:] for done in ended]}"


def killed_and_resumed_it_is_the_same(run: Run) -> Iterator[str]:
    """Compare a run that was killed in its second step, one that was never stopped, and the walk's own."""
    folders = {"whole": run.again(f"{run.name}-whole"), "killed": run.again(f"{run.name}-killed", "checkpoint.every=1", stop="SIGKILL")}
    folders["of the walk"] = run.folder / run.name
    files = {name: _hashes(max(folder.glob("checkpoints/step-*"))) for name, folder in folders.items()}
    for name, found in files.items():
        if found != files["whole"]:
            differs = sorted(key for key in {*found, *files["whole"]} if found.get(key) != files["whole"].get(key))
            yield f"{name} has other files: {', '.join(differs)}"
    lines = {name: [{**line, "evaluation": line.get("evaluation")} for line in exact(folder)] for name, folder in folders.items()}
    for name, found_lines in lines.items():
        if found_lines != lines["whole"]:
            yield f"{name} has other metrics: {found_lines} for {lines['whole']}"


def _hashes(checkpoint: Path) -> dict[str, str]:
    """Return the SHA-256 of a run's results."""
    paths = [*checkpoint.rglob("*.safetensors"), checkpoint / "config.json", checkpoint / "tokenizer.json"]
    files = {str(path.relative_to(checkpoint)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}
    return {"step": checkpoint.name} | files


def its_emissions_sum_to_its_totals(run: Run) -> Iterator[str]:
    """Compare emissions.csv of a run with a constant power, stopped and resumed, with run.json."""
    fake_codecarbon.write(run.folder / "fake")
    carbon = "carbon={enabled: true, intensity_g_per_kwh: 100, every_seconds: 0.5}"
    folder = run.again(f"{run.name}-metered", carbon, stop="SIGTERM", before=fake_codecarbon.put_first(run.folder / "fake"))
    totals, rows = receipt(folder)["totals"], emissions_rows(folder)
    if not rows or totals.get("carbon_status") == "off":
        yield "nothing was measured"
    sums = [("energy_kwh", "energy_consumed", 1.0), ("emissions_g", "emissions", 1000.0)]
    sums += [("seconds", "duration", 1.0)] if "train_seconds" in totals else []
    for total, column, scale in sums:
        summed = sum(float(row[column]) for row in rows) * scale
        if not math.isclose(totals[total], summed, rel_tol=1e-6, abs_tol=1e-12):
            yield f"{total} differs: {totals[total]} in run.json, {summed} in emissions.csv"


# -- what it writes


def a_batch_writes_what_each_prompt_alone_gives(run: Run) -> Iterator[str]:
    """Compare greedy completions, in float32."""
    if load(run.checkpoint).config.head.kind != "lm":  # which continues no text
        return
    prompts = ["the cat", "a", "red dog", "o"]
    write_rows(run.folder / "batch.jsonl", [{"prompt": prompt} for prompt in prompts])
    words = ["generate", "--from", run.name, "--temperature", "0", "--num-beams", "1", "--max-new-tokens", "5", "--json"]
    together = [json.loads(line) for line in run.result(*words, "--input", "batch.jsonl").splitlines()]
    for prompt, found in zip(prompts, together, strict=True):
        alone = json.loads(run.result(*words, "--prompt", prompt))
        if alone["completion"] != found["completion"]:
            yield f"a completion differs: {prompt!r} gives {alone['completion']!r} alone, {found['completion']!r} among others"


INVARIANTS: list[Callable[[Run], Iterator[str]]] = [
    it_opens_in_transformers,
    saving_it_again_gives_the_same_bytes,
    an_evaluation_afterwards_reports_the_same,
    a_batch_writes_what_each_prompt_alone_gives,
]
OF_A_RECIPE: list[Callable[[Run], Iterator[str]]] = [
    another_micro_batch_or_more_threads_give_the_same_loss,
    two_ranks_take_the_same_first_step,
    a_rank_with_another_file_is_refused,
    killed_and_resumed_it_is_the_same,
    its_emissions_sum_to_its_totals,
]
