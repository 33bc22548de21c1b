"""The tasks of decisions.py: their rows, the model that each starts from, and the plain recipes of the grid.

The grid's recipes write out all that a fine-tuning without a recipe would decide, so that they do not depend on tfkit's rules.
"""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_runs import write_rows

from tfkit.data.columns.rows import PartName, Row
from tfkit.data.sources.open_sources import open_source
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.objective_facts import SECTIONS

PIECE = 2000  # characters of a row that is cut from a text file
_LINEAR = "schedule={kind: linear, warmup_ratio: 0.1}"
_COSINE = "schedule={kind: cosine, warmup_ratio: 0.1}"
_ADAM = "kind: adamw, betas: [0.9, 0.999], weight_decay: 0.01"
ENCODER = (_LINEAR, f"optimizer={{{_ADAM}, lr: LR}}")
DECODER = (_COSINE, f"optimizer={{{_ADAM}, lr: LR}}")
BOTH = ("schedule={kind: constant}", "optimizer={kind: adafactor, lr: LR}")
LORA = "training.adapter={kind: lora, rank: 16, alpha: 32, targets: [q_proj, k_proj, v_proj, o_proj]}"
_LORA_RATES = (5e-5, 2e-4, 5e-4, 1e-3, 2e-3)


@dataclass(frozen=True)
class Task:
    """A fine-tuning on few rows; `plain`: the recipe of the grid, in which LR is the rate."""

    name: str
    group: str  # the kind of task, in words
    chosen_on: bool  # whether the rules may depend on it
    start: str  # minilm, smollm2, or the bundled recipe that pretrains the model
    kind: str
    train: Mapping[str, Any]  # a source; its path is inside the folder of data
    test: Mapping[str, Any] | None  # None: rows of the same source that are not trained on
    rows: tuple[int, int]  # to train on and to score, at most
    metric: str
    plain: tuple[str, ...]
    batch_size: int
    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    longest: int = 10_000  # characters of a row
    settings: tuple[str, ...] = ()  # of each cell of the grid beside these
    asked: tuple[str, ...] = ()  # settings of every cell
    seeds: tuple[int, ...] = ()  # beside the first, of the best rate and the two next to it
    kept: tuple[str, ...] = ()  # the classes or tags that stay; all others become one. (): all stay

    @property
    def is_text(self) -> bool:
        """Whether its rows are cut from a text, in order."""
        return self.kind in ("causal_lm", "masked_lm")

    def badness(self, score: float) -> float:
        """A number that is smaller for a better score."""
        return score if self.metric == "loss" else -score


TASKS = (
    Task(
        "ud_english_ewt",
        "tagging",
        True,
        "minilm",
        "tagging",
        {"path": "ud_english_ewt/en_ewt-ud-dev.conllu", "columns": {"tokens": "tokens", "tags": "upos"}},
        {"path": "ud_english_ewt/en_ewt-ud-test.conllu", "columns": {"tokens": "tokens", "tags": "upos"}},
        (250, 300),
        "accuracy",
        ENCODER,
        16,
        (1e-4, 2e-4, 5e-4, 1e-3),
        (2, 6),
    ),
    Task(
        "packages",
        "classification",
        True,
        "bert-stdlib",
        "classification",
        {"stdlib": "packages"},
        {"stdlib": "packages"},
        (500, 400),
        "accuracy",
        ENCODER,
        16,
        (2e-4, 5e-4, 1e-3, 2e-3),
        (2, 6),
    ),
    Task(
        "docstrings",
        "text to text",
        True,
        "t5-stdlib",
        "text_to_text",
        {"stdlib": "docstrings"},
        {"stdlib": "docstrings"},
        (400, 200),
        "loss",
        BOTH,
        16,
        (1e-3, 3e-3, 1e-2, 3e-2),
        (2, 6),
        600,
        ("model.context_length=256",),
    ),
    Task(
        "wikitext2",
        "language modelling",
        True,
        "smollm2-stdlib",
        "causal_lm",
        {"path": "wikitext2/valid.txt"},
        {"path": "wikitext2/test.txt"},
        (40, 15),
        "loss",
        DECODER,
        8,
        (1e-4, 3e-4, 1e-3, 3e-3),
        (2, 6),
    ),
    Task(
        "alpaca_en_demo",
        "chat",
        True,
        "smollm2",
        "chat",
        {"path": "chat_formats/alpaca_en_demo.json"},
        None,
        (32, 24),
        "loss",
        DECODER,
        8,
        (2e-5, 5e-5, 1.5e-4, 5e-4),
        (1, 3),
        220,
    ),
    Task(
        "banking77",
        "classification",
        False,
        "minilm",
        "classification",
        {"path": "banking77/train.csv"},
        {"path": "banking77/test.csv"},
        (300, 600),
        "accuracy",
        ENCODER,
        32,
        (1e-4, 2e-4, 5e-4, 1e-3),
        (3, 8),
    ),
    Task(
        "token_roles",
        "tagging",
        False,
        "bert-stdlib",
        "tagging",
        {"stdlib": "token_roles"},
        {"stdlib": "token_roles"},
        (500, 400),
        "accuracy",
        ENCODER,
        16,
        (2e-4, 5e-4, 1e-3, 2e-3),
        (2, 6),
    ),
    Task(
        "tinyshakespeare",
        "masked language modelling",
        False,
        "bert-stdlib",
        "masked_lm",
        {"path": "tinyshakespeare/input.txt"},
        None,
        (40, 20),
        "loss",
        ENCODER,
        16,
        (2e-4, 5e-4, 1e-3, 2e-3),
        (2, 6),
    ),
    Task(
        "python_docs_fr",
        "text to text",
        True,
        "t5-stdlib",
        "text_to_text",
        {"path": "python_docs_fr/train-1.jsonl"},
        {"path": "python_docs_fr/test.jsonl"},
        (600, 200),
        "loss",
        BOTH,
        16,
        (1e-3, 3e-3, 1e-2, 3e-2),
        (2, 6),
        300,
    ),
    Task(
        "wikisplit",
        "text to text",
        True,
        "t5-stdlib",
        "text_to_text",
        {"path": "wikisplit/validation.tsv", "columns": {"source": "0", "target": "1"}},
        {"path": "wikisplit/test.tsv", "columns": {"source": "0", "target": "1"}},
        (500, 200),
        "loss",
        BOTH,
        16,
        (1e-3, 3e-3, 1e-2, 3e-2),
        (2, 6),
        300,
    ),
    Task(
        "multi30k",
        "text to text",
        False,
        "t5-stdlib",
        "text_to_text",
        {"path": "multi30k/train.en.gz", "format": "lines", "beside": {"target": "multi30k/train.de.gz"}, "columns": {"source": "text"}},
        {
            "path": "multi30k/test_2016_flickr.en.gz",
            "format": "lines",
            "beside": {"target": "multi30k/test_2016_flickr.de.gz"},
            "columns": {"source": "text"},
        },
        (500, 200),
        "loss",
        BOTH,
        16,
        (1e-3, 3e-3, 1e-2, 3e-2),
        (2, 6),
        300,
    ),
    Task(
        "gsm8k",
        "chat",
        False,
        "smollm2",
        "chat",
        {"path": "gsm8k/train.jsonl"},
        {"path": "gsm8k/test.jsonl"},
        (32, 24),
        "loss",
        DECODER,
        8,
        (2e-5, 5e-5, 1.5e-4, 5e-4),
        (1, 3),
        300,
    ),
)
RARE_TASKS = (
    Task(
        "wnut17_names",
        "tagging, few positives",
        False,
        "minilm",
        "tagging",
        {"path": "wnut17/train.conll"},
        {"path": "wnut17/test.conll"},
        (600, 600),
        "f1",
        ENCODER,
        16,
        (1e-4, 2e-4, 5e-4, 1e-3),
        (3, 8),
        kept=("B-person", "I-person", "B-location", "I-location"),
    ),
    Task(
        "banking77_cards",
        "classification, few positives",
        True,
        "minilm",
        "classification",
        {"path": "banking77/train.csv"},
        {"path": "banking77/test.csv"},
        (1500, 1500),
        "f1_macro",
        ENCODER,
        16,
        (1e-4, 2e-4, 5e-4, 1e-3),
        (3, 8),
        kept=("card_arrival", "lost_or_stolen_card", "card_not_working"),
    ),
)
LORA_TASKS = (
    Task(
        "tinyshakespeare_lora",
        "LoRA on text",
        True,
        "smollm2",
        "causal_lm",
        {"path": "tinyshakespeare/input.txt"},
        None,
        (50, 10),
        "loss",
        DECODER,
        2,
        _LORA_RATES[:4],
        (1,),
        asked=(LORA, "data.sequence_length=256"),
        seeds=(2,),
    ),
    Task(
        "alpaca_en_demo_lora",
        "LoRA on chat",
        True,
        "smollm2",
        "chat",
        {"path": "chat_formats/alpaca_en_demo.json"},
        None,
        (120, 20),
        "loss",
        DECODER,
        2,
        _LORA_RATES[1:],
        (1,),
        400,
        asked=(LORA,),
        seeds=(2,),
    ),
    Task(
        "wikitext2_lora",
        "LoRA on text",
        False,
        "smollm2",
        "causal_lm",
        {"path": "wikitext2/valid.txt"},
        {"path": "wikitext2/test.txt"},
        (30, 6),
        "loss",
        DECODER,
        2,
        _LORA_RATES[2:4],
        (1,),
        asked=(LORA, "data.sequence_length=256"),
        seeds=(2,),
    ),
)


def write_task(task: Task, data: Path, folder: Path) -> tuple[Path, Path]:
    """Write the rows to train on and those to score as JSON lines; the same in each call."""
    random_rows = random.Random(1)
    train = list(_rows(task, task.train, data, "train"))
    if not task.is_text:
        random_rows.shuffle(train)
    if task.test is None:
        test = train[task.rows[0] :] if not task.is_text else train[-task.rows[1] :]
    else:
        test = list(_rows(task, task.test, data, "held_out"))
        if not task.is_text:
            random_rows.shuffle(test)
    chosen = train[: task.rows[0]], test[: task.rows[1]]
    first, second = (write_rows(rows, folder / f"{task.name}-{name}.jsonl") for rows, name in zip(chosen, ("train", "test"), strict=True))
    return first, second


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what `write_task` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rows(task: Task, source: Mapping[str, Any], data: Path, part: PartName) -> Iterator[Row]:
    """Yield the rows of a source that are short enough; of a text file pieces of about 2,000 characters."""
    if task.is_text:
        yield from (Row(piece, "", {"text": piece}) for piece in _pieces((data / source["path"]).read_text(encoding="utf-8")))
        return
    beside = {name: str(data / path) for name, path in source.get("beside", {}).items()}
    section = SourceSection(**source | ({"path": str(data / source["path"]), "beside": beside} if "path" in source else {}))
    for row in open_source(section, part if "stdlib" in source else "all", None, "skip", SECTIONS[task.kind].roles).rows():
        values = {name: value[0] if name in ("output", "target") else value for name, value in row.values.items() if value is not None}
        if task.kept:
            values = {name: _with_kept(value, task) if name in ("label", "tags") else value for name, value in values.items()}
        if len(json.dumps(values)) <= task.longest:
            yield row._replace(values=values)


def _with_kept(value: Any, task: Task) -> Any:
    """Return a class, or a list of tags, in which all that are not kept are one."""
    if isinstance(value, list):
        return [_with_kept(one, task) for one in value]
    return value if value in task.kept else "O" if task.kind == "tagging" else "another"


def _pieces(text: str) -> Iterator[str]:
    """Cut a text at the ends of lines."""
    piece = ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= PIECE:
            yield piece
            piece = ""
