"""Training speed and peak memory of tfkit beside other trainers, on the same shape, in turns.

    python benchmarks/training_speed.py small gpt2 --rounds 3 --steps 6
    python benchmarks/training_speed.py llama --runners "Trainer, bf16" LitGPT tfkit
    python benchmarks/training_speed.py chat --model SMOLLM2    # a fine-tuning on conversations of 512 tokens, beside TRL's SFTTrainer

Each runner works in a process of its own, on random tokens or, with tfkit, on the text of the standard library; its steps are timed one by
one, without the first two. Read the ratios, not the times: the machine may be shared. Memory is the peak of the process. Needs
`pip install transformers accelerate`, for LitGPT `litgpt lightning`, for `chat` `trl`, all of which `--python` may have instead; nanoGPT is
a clone that `--nanogpt` names.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WARM_UP = 2
CHAT_LR = 1e-5
CASES: dict[str, dict[str, int]] = {
    "gpt2": {"vocab": 50257, "layers": 12, "dim": 768, "heads": 12, "length": 512, "rows": 2},
    "small": {"vocab": 8192, "layers": 6, "dim": 384, "heads": 6, "length": 256, "rows": 16},
    "llama": {"vocab": 8192, "layers": 8, "dim": 512, "heads": 8, "kv_heads": 2, "hidden": 1376, "length": 256, "rows": 8},
    "bert": {"vocab": 8192, "length": 128, "rows": 8},
    "t5": {"vocab": 8192, "length": 128, "targets": 29, "rows": 8},
    "chat": {"length": 512, "rows": 2},
}
_TRAINER = ("Trainer, bf16, no dropout", "Trainer, bf16", "Trainer, defaults")
RUNNERS = {  # the first is the base of the ratios
    "gpt2": (*_TRAINER, "nanoGPT, bf16", "tfkit"),
    "small": (*_TRAINER, "nanoGPT, bf16", "tfkit"),
    "llama": ("Trainer, bf16", "LitGPT, bf16", "tfkit"),  # it has no dropout
    "bert": (*_TRAINER, "tfkit"),
    "t5": (*_TRAINER, "tfkit"),
    "chat": ("SFTTrainer, bf16", "tfkit"),
}
Mark = Callable[[], None]  # called at the end of each step


def transformers_model(name: str, case: dict[str, int], dropout: bool) -> Any:
    """Return a model of transformers with random weights."""
    import transformers as hf

    none: dict[str, float] = {}
    if name in ("gpt2", "small"):
        none = {} if dropout else {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
        shape = {"n_positions": case["length"], "n_embd": case["dim"], "n_layer": case["layers"], "n_head": case["heads"]}
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=case["vocab"], **shape, **none))
    if name == "llama":
        shape = {"hidden_size": case["dim"], "intermediate_size": case["hidden"], "num_hidden_layers": case["layers"]}
        heads = {"num_attention_heads": case["heads"], "num_key_value_heads": case["kv_heads"]}
        return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=case["vocab"], max_position_embeddings=case["length"], **shape, **heads))
    if name == "bert":
        none = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return hf.BertForMaskedLM(hf.BertConfig(vocab_size=case["vocab"], **none))
    none = {} if dropout else {"dropout_rate": 0.0}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=case["vocab"], num_layers=6, num_heads=8, decoder_start_token_id=0, **none))


def train_with_transformers(name: str, case: dict[str, int], steps: int, mark: Mark, *, bf16: bool, dropout: bool) -> None:
    """Train with the Trainer on random ids."""
    import torch
    import transformers
    from datasets import Dataset

    torch.manual_seed(0)
    ids = torch.randint(case["vocab"], (case["rows"] * steps, case["length"])).tolist()
    labels = ids
    if name == "bert":  # every seventh token is predicted
        labels = [[token if place % 7 == 0 else -100 for place, token in enumerate(row)] for row in ids]
    elif name == "t5":
        labels = [row[: case["targets"]] for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        transformers.Trainer(
            model=transformers_model(name, case, dropout),
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=case["rows"],
                max_steps=steps,
                use_cpu=True,
                bf16=bf16,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
            data_collator=transformers.default_data_collator,
            callbacks=[_marker(mark)],
        ).train()


def _marker(mark: Mark) -> Any:
    import transformers

    class Marker(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            mark()

    return Marker()


def train_with_nanogpt(case: dict[str, int], steps: int, mark: Mark, source: str) -> None:
    """Train nanoGPT's model as its train.py does, in bf16, with the fused AdamW."""
    sys.path.insert(0, source)
    import torch

    nanogpt = importlib.import_module("model")
    torch.manual_seed(0)
    sizes = {"n_layer": case["layers"], "n_head": case["heads"], "n_embd": case["dim"]}
    config = nanogpt.GPTConfig(block_size=case["length"], vocab_size=case["vocab"], dropout=0.0, bias=False, **sizes)
    model = nanogpt.GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for _ in range(steps):
        ids = torch.randint(case["vocab"], (case["rows"], case["length"] + 1))
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        mark()


def train_with_litgpt(case: dict[str, int], steps: int, mark: Mark) -> None:
    """Train LitGPT's model as its pretraining loop does, in bf16-true, compiled as by default."""
    import torch

    litgpt, utils = importlib.import_module("litgpt"), importlib.import_module("litgpt.utils")
    fabric = importlib.import_module("lightning").Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    fabric.seed_everything(0)
    with fabric.init_module():
        model = litgpt.GPT(
            litgpt.Config(
                block_size=case["length"],
                vocab_size=case["vocab"],
                padded_vocab_size=case["vocab"],
                n_layer=case["layers"],
                n_head=case["heads"],
                n_embd=case["dim"],
                n_query_groups=case["kv_heads"],
                intermediate_size=case["hidden"],
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                mlp_class_name="LLaMAMLP",
            )
        )
    model.max_seq_length = case["length"]
    model = fabric.setup(torch.compile(model))
    optimizer = fabric.setup_optimizers(utils.instantiate_torch_optimizer("AdamW", model.parameters(), fused=True))
    for _ in range(steps):
        ids = torch.randint(case["vocab"], (case["rows"], case["length"] + 1))
        loss = utils.chunked_cross_entropy(model(ids[:, :-1].contiguous()), ids[:, 1:].contiguous())
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        mark()


def conversations(case: dict[str, int], checkpoint: str, count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Return conversations about the standard library, all of which are cut at the case's length of tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{checkpoint}/tokenizer.json")
    ids = tokenizer.encode(Path(argparse.__file__).read_text(encoding="utf-8")).ids
    texts = (tokenizer.decode(ids[number * 40 : number * 40 + case["length"]]) for number in range(count))
    pairs = ((text[:200], text[200:]) for text in texts)
    return [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]} for asked, said in pairs]


def train_with_trl(case: dict[str, int], steps: int, mark: Mark, checkpoint: str) -> None:
    """Fine-tune with TRL's SFTTrainer on the answers, without activation checkpointing, its default, which makes steps slower."""
    from datasets import Dataset

    trl = importlib.import_module("trl")
    with tempfile.TemporaryDirectory() as folder:
        trl.SFTTrainer(
            model=checkpoint,
            args=trl.SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=case["rows"],
                max_steps=steps,
                max_length=case["length"],
                use_cpu=True,
                bf16=True,
                learning_rate=CHAT_LR,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [
                    {"prompt": row["messages"][:1], "completion": row["messages"][1:]}
                    for row in conversations(case, checkpoint, case["rows"] * steps)
                ]
            ),
            callbacks=[_marker(mark)],
        ).train()


def chat_recipe(case: dict[str, int], checkpoint: str, steps: int, rows: Path) -> dict[str, Any]:
    """Return a recipe of tfkit with the settings of `train_with_trl`; writes its rows."""
    found = conversations(case, checkpoint, case["rows"] * steps)
    rows.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return {
        "model": {"from": checkpoint},
        "data": {"train": [{"path": str(rows)}], "sequence_length": case["length"]},
        "objective": {"kind": "chat"},
        "optimizer": {"kind": "adamw", "lr": CHAT_LR, "betas": [0.9, 0.999], "weight_decay": 0.0},
        "schedule": {"kind": "linear"},
        "training": {"steps": steps, "batch_size": case["rows"], "log_every": 1000000},
    }


def train_with_tfkit(name: str, case: dict[str, int], steps: int, mark: Mark, checkpoint: str | None) -> None:
    """Train with tfkit, as its commands do."""
    from where_time_goes import CASES as SHAPES
    from where_time_goes import recipe_of

    import tfkit
    from tfkit.training.step import Stepper

    take = Stepper.take

    def marked(*words: Any, **options: Any) -> Any:
        report = take(*words, **options)
        mark()
        return report

    Stepper.take = marked  # type: ignore[method-assign]
    more = {"training.steps": steps, "training.log_every": 1000000}
    with tempfile.TemporaryDirectory() as folder:
        if name == "chat":
            tfkit.finetune(chat_recipe(case, str(checkpoint), steps, Path(folder, "rows.jsonl")), run=f"{folder}/run")
            return
        file = HERE / "recipes" / f"{name}.yaml"
        tfkit.pretrain(file if file.exists() else recipe_of(SHAPES[name]), more, run=f"{folder}/run")


def train(runner: str, name: str, steps: int, nanogpt: str | None, checkpoint: str | None) -> None:
    """Train in a child; print the seconds of each step after the warm-up."""
    case, ends = CASES[name], list[float]()

    def mark() -> None:
        ends.append(time.perf_counter())

    steps += WARM_UP
    match runner.partition(",")[0]:
        case "Trainer":
            train_with_transformers(name, case, steps, mark, bf16="bf16" in runner, dropout="no dropout" not in runner)
        case "nanoGPT":
            train_with_nanogpt(case, steps, mark, str(nanogpt))
        case "LitGPT":
            train_with_litgpt(case, steps, mark)
        case "SFTTrainer":
            train_with_trl(case, steps, mark, str(checkpoint))
        case _:
            train_with_tfkit(name, case, steps, mark, checkpoint)
    print("SECONDS", json.dumps([after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]))


def sample(command: list[str]) -> tuple[list[float], float]:
    """Return the seconds of each step of a child, and its peak memory in MiB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0), errors.seek(0)
        if status:
            sys.exit(f"{' '.join(command)}: exit status {status}\n{errors.read()[-2000:]}")
        return json.loads(out.read().partition("SECONDS")[2].partition("\n")[0]), usage.ru_maxrss / 1024


def main() -> None:
    """Take turns, then print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runners", nargs="+", help="only these")
    parser.add_argument("--nanogpt", help="a clone of nanoGPT; without it, it has no turn")
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct, for chat")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the other trainers")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train(arguments.child, arguments.cases[0], arguments.steps, arguments.nanogpt, arguments.model)
        return
    for name in arguments.cases:
        runners = [runner for runner in RUNNERS[name] if arguments.runners is None or any(map(runner.startswith, arguments.runners))]
        runners = [runner for runner in runners if arguments.nanogpt or not runner.startswith("nanoGPT")]
        seconds: dict[str, list[float]] = {runner: [] for runner in runners}
        peaks = dict.fromkeys(runners, 0.0)
        for _ in range(arguments.rounds):
            for runner in runners:
                python = sys.executable if runner == "tfkit" else arguments.python
                command = [python, __file__, name, "--child", runner, "--steps", str(arguments.steps)]
                for option, value in (("--nanogpt", arguments.nanogpt), ("--model", arguments.model)):
                    command += [option, value] if value else []
                found, peak = sample(command)
                seconds[runner] += found
                peaks[runner] = max(peaks[runner], peak)
        tokens = CASES[name]["rows"] * CASES[name]["length"]
        base, base_peak = seconds[runners[0]], peaks[runners[0]]
        print(f"{name:8} {'runner':26} {'tokens/s':>9} {'ratio':>6} {'best':>6} {'peak MiB':>9} {'ratio':>6}")
        for runner in runners:
            ratio, best = statistics.median(base) / statistics.median(seconds[runner]), min(base) / min(seconds[runner])
            shown = f"{tokens / statistics.median(seconds[runner]):9.0f} {ratio:6.2f} {best:6.2f} {peaks[runner]:9.0f}"
            print(f"{name:8} {runner:26} {shown} {peaks[runner] / base_peak:6.2f}", flush=True)


if __name__ == "__main__":
    main()
