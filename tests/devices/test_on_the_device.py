"""The real engine on a device, beside plain loops and the CPU: on the CPU by `make test-all`, on a GPU by `make gpu` (--device)."""

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_cases import CASES, LENGTH, Task, codec, family_model
from device_runs import run, write_recipe
from tiny_examples import texts
from tiny_files import emissions_rows, receipt
from tiny_runs import assert_same_bits, records, write_corpus
from tiny_writers import PROMPTS, START, WRITERS, tiny_model

from tfkit.adapters.lora import add_lora
from tfkit.data import TokenStream
from tfkit.evaluation.likelihood import Ids, Question, score_questions
from tfkit.evaluation.row_scores import judge_rows
from tfkit.evaluation.text_scores import score_texts
from tfkit.generation.decoding import generate
from tfkit.generation.fill import fill
from tfkit.model.attention import attend
from tfkit.model.block_attention import attend_blocks, block_mask
from tfkit.model.masks import Mask, Positions
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamSection, AdamWSection, MuonSection, OptimizerSection
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.recipe.schema.sections import LoraSection
from tfkit.training.device import has_bf16
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
STEPS, ADAMW = 3, AdamWSection(lr=3e-3, eps=1e-3)  # with a tiny eps, a gradient that is all rounding moves a weight by a whole step
StepRecords = list[tuple[float, float]]  # of each step the loss and the gradient's norm
WITHIN = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.02, 0.1)}  # of losses, of norms


def plain_steps(model: Transformer, task: Task) -> StepRecords:
    """In float32, a whole batch at a time, with PyTorch's plainest optimizer, on the CPU."""
    decaying = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decaying, "weight_decay": ADAMW.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW.lr, betas=ADAMW.betas, eps=ADAMW.eps, foreach=False, fused=False)
    objective, reports = task.objective, []
    for step in range(STEPS):
        (batch,) = task.batches(step)
        counts, losses = objective.counts(batch), objective.loss(model.train(), batch)
        loss = sum(weight * losses[term] / counts[term] for term, weight in objective.terms.items())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW.clip_norm or math.inf)
        optimizer.step()
        reports.append((float(loss.detach()), float(norm)))
    return reports


def steps(
    model: Transformer, task: Task, device: torch.device, dtype: torch.dtype, section: OptimizerSection = ADAMW, compiled: bool = False
) -> StepRecords:
    """The same by the engine: in micro-batches, with what it keeps in which precision, and its kernels."""
    if teacher := getattr(task.objective, "teacher", None):
        teacher.model.to(device, dtype)
    weights = Weights(model.to(device), dtype)
    stepper = Stepper(LossModule(model, task.objective), weights, Optimizer(weights.trained, section), device=device, seed=1)
    for stack in model.stacks if compiled else ():
        stack.compile()
    reports = [stepper.take(step + 1, task.batches(step, 4), 1.0) for step in range(STEPS)]
    return [(report.loss, report.grad_norm) for report in reports]


def assert_near(found: StepRecords, expected: StepRecords, dtype: torch.dtype) -> None:
    for (loss, norm), (plain_loss, plain_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(plain_loss, rel=WITHIN[dtype][0])
        assert norm == pytest.approx(plain_norm, rel=WITHIN[dtype][1])


# ------------------------------------------------------------------------------------------------------------------ training


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_a_plain_loop_on_the_cpu(case: str, device: torch.device, tmp_path: Path) -> None:
    family, make = CASES[case]
    task = make(tmp_path)
    expected = plain_steps(family_model(family, task), task)
    assert expected[0][0] != pytest.approx(expected[-1][0], rel=1e-3), "the weights did move"
    for dtype in WITHIN:
        assert_near(steps(family_model(family, task), task, device, dtype), expected, dtype)


@pytest.mark.parametrize(
    "section",
    [
        *(AdafactorSection(kind="adafactor", lr=1e-2), MuonSection(kind="muon", lr=1e-2)),
        AdamSection(kind="adam", lr=1e-3, bias_correction=False),
    ],
    ids=lambda section: section.kind,
)
def test_each_optimizer_steps_as_on_the_cpu(section: OptimizerSection, device: torch.device, tmp_path: Path) -> None:
    family, make = CASES["llama-causal_lm"]
    task = make(tmp_path)
    expected = steps(family_model(family, task), task, CPU, torch.float32, section)
    found = steps(family_model(family, task), task, device, torch.float32, section)
    for (loss, _), (plain_loss, _) in zip(found, expected, strict=True):  # Muon computes in bf16
        assert loss == pytest.approx(plain_loss, rel=1e-2 if section.kind == "muon" else 1e-4)


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("how", ["activation checkpointing", "updates", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["llama-causal_lm", "gemma2-causal_lm", "t5-text_to_text"])
def test_another_way_to_compute_is_the_same_step(case: str, how: str, device: torch.device, tmp_path: Path) -> None:
    family, make = CASES[case]
    task = make(tmp_path)

    def model() -> Transformer:
        made = family_model(family, task)
        if how == "updates":
            add_lora(made, LoraSection(rank=2), seed=1)
        return made

    changed = model()
    if how == "activation checkpointing":
        for stack in changed.stacks:
            stack.activation_checkpointing = True
    expected = steps(model(), task, CPU, torch.float32)
    assert_near(steps(changed, task, device, torch.float32, compiled=how == "compiled"), expected, torch.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("device") / "corpus")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(precision: str, corpus: Path, device: torch.device, tmp_path: Path) -> None:
    """Dropout, drawn texts and scores are the same, too."""
    recipe = str(write_recipe(tmp_path, corpus))
    words = ["pretrain", recipe, f"training.precision={precision}"]
    run(device, tmp_path, *words, "--run", str(tmp_path / "whole")).exits(0)
    run(device, tmp_path, *words, "--run", str(tmp_path / "stopped"), fault=("stop", 4)).exits(143)
    run(device, tmp_path, *words, "--run", str(tmp_path / "stopped"), "--resume").exits(0)
    assert_same_bits(tmp_path / "stopped", tmp_path / "whole", 8)
    assert receipt(tmp_path / "whole")["device"] == str(device)


LARGER = ["model.dim=256", "model.num_heads=8", "model.decoder_layers=4", "model.context_length=512", "training.batch_size=64"]


def test_where_memory_ends_micro_batches_are_halved(corpus: Path, device: torch.device, tmp_path: Path) -> None:
    larger = LARGER if device.type == "cuda" else ["training.batch_size=8"]
    exact_words = ["training.precision=fp32", "training.steps=3", "evaluation.every=null", "model.dropout.residual=0.0"]
    words = ["pretrain", str(write_recipe(tmp_path, corpus)), *larger, *exact_words]
    run(device, tmp_path, *words, "--run", str(tmp_path / "roomy")).exits(0)
    if device.type not in ("cpu", "cuda"):
        pytest.skip("no limit can be set to the memory of this device")
    tight = run(device, tmp_path, *words, "--run", str(tmp_path / "tight"), fault=("little memory", 2)).exits(0)
    assert "out of memory in micro-batches of" in tight.err
    losses = [[record["loss"] for record in records(tmp_path / name) if "loss" in record] for name in ("roomy", "tight")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.thorough
def test_the_energy_of_the_device_is_in_the_ledger(corpus: Path, device: torch.device, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, corpus))
    words = ["carbon={country: FRA, every_seconds: 0.5}", "evaluation.every=null"]
    run(device, tmp_path, "pretrain", recipe, *words, "--run", str(tmp_path / "run"), fault=("busy", 0)).exits(0)
    rows = emissions_rows(tmp_path / "run")
    parts = {part: sum(float(row[f"{part}_energy"]) for row in rows) for part in ("cpu", "gpu", "ram")}
    assert sum(parts.values()) == pytest.approx(receipt(tmp_path / "run")["totals"]["energy_kwh"], rel=1e-6)
    assert min(parts["cpu"], parts["ram"]) > 0
    if device.type == "cuda":
        assert parts["gpu"] > 0
        assert {row["gpu_count"] for row in rows} != {"0"}


# ------------------------------------------------------------------------------------------------------- writing and judging

WRITTEN: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy without repetition": {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram": 2},
    "drawn": {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    "beams": {"num_beams": 3, "temperature": 0},
}
LABELLED = ("bert-classes", "bert-regression", "bert-tagging", "gpt-multiple_choice", "t5-text_to_text", "llama-chat")


def write(model: Transformer, how: str, *, alone: bool = False) -> list[list[int]]:
    """Continue prompts of unequal lengths, which need padding in one batch; the texts outgrow windows."""
    settings = GenerationSection(max_new_tokens=9, **WRITTEN[how])
    batches = enumerate([[prompt] for prompt in PROMPTS] if alone else [PROMPTS])
    found = (generate(model, batch, settings, eos_ids=(1,), start_id=START, first_row=first) for first, batch in batches)
    return [one.ids for written in found for one in written]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("family", "how"),
    [*((family, "drawn") for family in WRITERS), *(("mistral", how) for how in WRITTEN if how != "drawn"), ("t5", "beams")],
)
def test_a_batch_of_texts_is_each_text_alone_on_the_cpu(family: str, how: str, elsewhere: AbstractContextManager[torch.device]) -> None:
    expected = write(tiny_model(family), how, alone=True)
    with elsewhere as place:
        assert write(tiny_model(family).to(place), how) == expected


def text_losses(model: Transformer) -> np.ndarray[Any, Any]:
    """Return the loss of each of a few texts, some of them longer than the context."""
    random = np.random.default_rng(2)
    lengths = np.array([3, 70, 18, 41])
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = random.integers(2, model.config.vocab_size, lengths.sum()).astype(np.uint16)
    stream = TokenStream("made", tokens, starts, lengths, 0, model.config.vocab_size - 1, "made", True)
    return score_texts(model, stream, model.config.context_length, 3).losses


def answers(model: Transformer) -> list[float]:
    """Return the log-probabilities of a few continuations."""
    questions = [Ids(ids, max(1, len(ids) - 3), [9, 8, 7]) for ids in PROMPTS if len(ids) > 1]
    return [one.log_prob for one in score_questions(model, [Question("a", "b")] * len(questions), questions, 3)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", WRITERS)
def test_log_probabilities_are_those_of_the_cpu(family: str, elsewhere: AbstractContextManager[torch.device]) -> None:
    model = tiny_model(family)
    asked = (answers,) if model.encoder is not None else (answers, text_losses)
    expected = [ask(model) for ask in asked]
    with elsewhere as place:
        model.to(place)
        for ask, known in zip(asked, expected, strict=True):
            assert ask(model) == pytest.approx(known, rel=1e-4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", LABELLED)
def test_judgements_are_those_of_the_cpu(case: str, elsewhere: AbstractContextManager[torch.device], tmp_path: Path) -> None:
    family, make = CASES[case]
    task = make(tmp_path)

    def judged(model: Transformer) -> list[float]:
        return [total for one in judge_rows(model, task.objective, task.rows, 5) for total, _ in one.sums.values()]

    expected = judged(family_model(family, task))
    with elsewhere as place:
        assert judged(family_model(family, task).to(place)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_masks_are_filled_as_on_the_cpu(elsewhere: AbstractContextManager[torch.device], tmp_path: Path) -> None:
    family, make = CASES["bert-masked_lm"]
    model = family_model(family, make(tmp_path), std=0.4)
    masked = [f"{text} [MASK] cat" for text in texts(4, longest=LENGTH // 3)]
    expected = [one.text for one in fill(model, codec(), masked)]
    with elsewhere as place:
        assert [one.text for one in fill(model.to(place), codec(), masked)] == expected


def test_bf16_is_asked_of_the_device(device: torch.device) -> None:
    """The answer itself is the machine's; the products must work in either case."""
    assert has_bf16(device) in (True, False)
    there = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
    assert float((there @ there).sum()) == 512


@pytest.mark.parametrize("window", [None, 100])
def test_attention_in_blocks_is_that_of_a_dense_mask(device: torch.device, window: int | None) -> None:
    """Two packed rows, in bf16, forward and backward, by the kernel of each; and a step's gradients are the same bits again."""
    if device.type != "cuda":
        pytest.skip("the kernel in blocks is for CUDA")
    documents = torch.tensor([[0] * 300 + [1] * 84 + [2] * 128, [0] * 40 + [1] * 472], device=device)
    mask = Mask(Positions(512, 0, device, None, documents), True, window)
    random = torch.Generator(device).manual_seed(1)
    queries, keys, values = (torch.randn(2, heads, 512, 64, generator=random, device=device, dtype=torch.bfloat16) for heads in (6, 2, 2))
    inputs = [one.requires_grad_() for one in (queries, keys, values)]
    gradient = torch.randn(queries.shape, generator=random, device=device, dtype=torch.bfloat16)
    blocks = block_mask(mask)
    outputs = (attend_blocks(*inputs, blocks, None) for _ in range(2))
    found, again = ([out, *torch.autograd.grad(out, inputs, gradient)] for out in outputs)
    dense = attend(*(one.float() for one in inputs), mask.dense(), 0.0)
    expected = [dense, *torch.autograd.grad(dense, inputs, gradient.float())]
    for one, other, same in zip(found, expected, again, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=2e-2, atol=2e-2)
        assert torch.equal(one, same)
