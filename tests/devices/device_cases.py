"""Every family and every objective, tiny, with synthetic rows: the computations of the device tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tiny_chats import chat_codec
from tiny_encoder_decoders import ENCODER_DECODERS
from tiny_examples import examples, texts, tokenizer

from tfkit.data import ExampleRows, FramedRows, Loader, PackedRows, Rows, SentencePairRows, SpanRows, TokenStream, token_stream
from tfkit.data.sources.open_sources import open_source
from tfkit.families import FAMILIES, PRESETS
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives import reward
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.chat import Chat, fit_tokenizer
from tfkit.objectives.classification import Classification
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import ModelContext
from tfkit.objectives.distillation import Distillation
from tfkit.objectives.dpo import open_dpo
from tfkit.objectives.masked_lm import MaskedLM
from tfkit.objectives.multi_label import MultiLabel
from tfkit.objectives.multiple_choice import MultipleChoice
from tfkit.objectives.objective import Batch
from tfkit.objectives.question_answering import QuestionAnswering
from tfkit.objectives.reward import open_reward
from tfkit.objectives.span_corruption import open_span_corruption
from tfkit.objectives.tagging import Tagging
from tfkit.objectives.text_regression import Regression
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.presets import merge
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.label_sections import ClassificationSection, MultiLabelSection, MultipleChoiceSection, TaggingSection
from tfkit.recipe.schema.objective_sections import (
    ChatSection,
    DistillationSection,
    MaskedLMSection,
    SpanCorruptionSection,
    TextToTextSection,
)
from tfkit.recipe.schema.preference_sections import DPOSection, RewardSection
from tfkit.recipe.schema.question_answering_section import QuestionAnsweringSection
from tfkit.tokenizer import Tokenizer

LENGTH, BATCH = 24, 8
SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": LENGTH, "dim": 24, "hidden_dim": 36, "num_heads": 3, "head_dim": 8}
UNBALANCED = {"balance": 0.0, "z_loss": 0.0}
OTHERS: dict[str, dict[str, Any]] = {  # besides the sizes, a family's characteristic features, chosen to matter in a short row
    "llama": {"num_heads": 6, "num_kv_heads": 2, "head_dim": 4},
    "smollm2": {"num_kv_heads": 1},
    "mistral": {"num_kv_heads": 1, "attention": {"windows": [5]}},
    "gemma2": {"num_kv_heads": 1, "attention": {"windows": [5, None], "softcap": 2.0}, "head": {"softcap": 3.0}},
    **{name: {"num_kv_heads": 1} for name in ("qwen2", "qwen3", "gemma", "olmo2")},
    "gemma3": {"num_kv_heads": 1, "attention": {"windows": [5, None]}},
    "smollm3": {"num_kv_heads": 1, "position": {"layers": [True, False]}},
    "olmo3": {"num_kv_heads": 1, "attention": {"windows": [5, None]}},
    "phi": {"num_kv_heads": 1, "attention": {"windows": [5]}},
    # Without the losses of routers, which are not the objective's; and few experts, so that rounding seldom chooses others.
    "mixtral": {"num_kv_heads": 1, "mlp": {"experts": {"count": 3}}, "routing": UNBALANCED},
    "olmoe": {"num_kv_heads": 1, "mlp": {"experts": {"count": 3, "active": 2}}, "routing": UNBALANCED},
    "qwen3_moe": {
        "num_kv_heads": 1,
        "mlp": {"experts": {"count": 3, "active": 2, "hidden_dim": 16, "layers": [True, False]}},
        "routing": UNBALANCED,
    },
    **{key: {"position": {"kind": "relative", "buckets": 8}} for key in ("t5", "mt5", "flan_t5", "byt5")},
    "modernbert": {"attention": {"windows": [None, 5]}},
    "electra": {"embedding": {"dim": 12}},
    "deberta_v3": {"position": {"buckets": 8, "max_distance": 16}},
}
DECODERS = (
    *("gpt", "gpt2", "gpt3", "llama", "mistral", "gemma2", "smollm2", "qwen2", "qwen3", "gemma", "gemma3", "smollm3"),
    *("olmo2", "olmo3", "phi", "pythia", "opt", "mixtral", "olmoe", "qwen3_moe"),
)
LABELS = ("no", "yes", "maybe")


@dataclass(frozen=True)
class Task:
    """An objective, its rows, and the changes of a model for it."""

    objective: Any
    rows: Rows
    changes: Mapping[str, Any]

    def batches(self, step: int, micro_batch_size: int = BATCH) -> list[Batch]:
        """Return the micro-batches of step `step`, from 0."""
        return Loader(self.rows, self.objective.collate, BATCH, micro_batch_size).step(step)


def family_config(family: str, changes: Mapping[str, Any], std: float = 0.1) -> ModelConfig:
    """Return the first preset of a family, tiny; without dropout, which draws other numbers on another device."""
    values = next(values for owner, values in PRESETS.values() if owner.name == family)
    layers = {name: 2 for name in ("encoder_layers", "decoder_layers") if values.get(name)}
    undropped = {"dropout": dict.fromkeys(values.get("dropout", {}), 0.0)}
    wanted = merge(merge(merge(values, SIZES | layers | undropped), OTHERS.get(family, {})), dict(changes))
    return ModelConfig.model_validate(merge(wanted, {"init": {"scheme": "normal", "std": std}}))


def family_model(family: str, task: Task, std: float = 0.1) -> Transformer:
    """Build a model with the same random weights at every call."""
    return build(family_config(family, task.changes, std), seed=3)


# ----------------------------------------------------------------------------------------------------------------- the tasks


@cache
def codec(kind: str = "wordpiece", **settings: Any) -> Tokenizer:
    return tokenizer(kind, **dict(settings))


def _stream(codec: Tokenizer, count: int = 60) -> TokenStream:
    documents = [np.array(ids) for ids in codec.encode_texts(texts(count))]
    starts = np.cumsum([0, *map(len, documents)])
    return TokenStream("made", np.concatenate(documents), starts, np.diff(starts), 0, 299, "made", True)


def _labelled(folder: Path, objective: Any, rows: list[dict[str, Any]], section: Any, changes: Mapping[str, Any]) -> Task:
    return Task(objective, ExampleRows([(examples(folder, rows, section.roles, objective), 1.0)], 1, batch_size=BATCH), changes)


def causal_lm(folder: Path) -> Task:
    """Return causal language modelling with separated documents, which needs a mask."""
    return Task(CausalLM("apart"), PackedRows([(_stream(codec()), 1.0)], LENGTH, 1), {})


def one_document(folder: Path) -> Task:
    """Return causal language modelling without a mask, for the kernels that need none."""
    return Task(CausalLM("joined"), PackedRows([(_stream(codec()), 1.0)], LENGTH, 1), {})


def masked_lm(folder: Path, **section: Any) -> Task:
    objective = MaskedLM(MaskedLMSection.model_validate({"kind": "masked_lm", **section}), codec(), seed=1)
    if not objective.section.next_sentence:
        return Task(objective, FramedRows([(_stream(codec()), 1.0)], LENGTH, 1, objective.frame), {})
    for number in range(12):
        (folder / f"{number}.txt").write_text("\n".join(texts(2 + number % 5, seed=number)), encoding="utf-8")
    stream = token_stream(open_source(SourceSection(path=str(folder)), "all", None), codec(), sentences=True)
    return Task(objective, SentencePairRows([(stream, 1.0)], LENGTH, 1, objective.frame), {"head": {"next_sentence": True}})


def classes(folder: Path, *, regression: bool = False, last: bool = False) -> Task:
    rows = [
        {"text": text, "label": i / 7 if regression else LABELS[i % 3], **({"pair": other} if i % 2 and not last else {})}
        for i, (text, other) in enumerate(zip(texts(16), texts(16, seed=2), strict=True))
    ]
    section = ClassificationSection.model_validate({"kind": "classification", "regression": regression})
    head = {"kind": "classes", "count": 1 if regression else 3, **({"pool": "last"} if last else {"pool": "first", "dense": "tanh"})}
    given = (section, codec())
    objective = Regression(*given, LENGTH, None) if regression else Classification(*given, LABELS, LENGTH, None)
    segments = {} if last else {"embedding": {"segments": 2}}
    return _labelled(folder, objective, rows, section, {"head": head, **segments})


def multi_label(folder: Path) -> Task:
    rows = [{"text": text, "labels": [LABELS[place] for place in range(3) if i >> place & 1]} for i, text in enumerate(texts(16))]
    section = MultiLabelSection(kind="multi_label")
    head = {"kind": "classes", "count": 3, "pool": "first", "dense": "tanh"}
    return _labelled(folder, MultiLabel(section, codec(), LABELS, LENGTH, None), rows, section, {"head": head})


def tagging(folder: Path) -> Task:
    random = np.random.default_rng(1)
    rows = []
    for text in texts(16):
        words = text.split()
        rows.append({"tokens": words, "tags": [str(tag) for tag in random.choice(["O", "B-animal"], len(words))]})
    section = TaggingSection(kind="tagging")
    return _labelled(folder, Tagging(section, codec(), ("B-animal", "O"), LENGTH), rows, section, {"head": {"kind": "tags", "count": 2}})


def question_answering(folder: Path) -> Task:
    rows = [
        {"question": question, "context": context, "answers": [{"text": context.split()[0], "answer_start": 0}] * (i % 3 > 0)}
        for i, (question, context) in enumerate(zip(texts(16, longest=5), texts(16, seed=2, longest=40), strict=True))
    ]
    section = QuestionAnsweringSection(kind="question_answering", unanswerable=True, doc_stride=4)
    return _labelled(folder, QuestionAnswering(section, codec(), LENGTH), rows, section, {"head": {"kind": "spans"}})


def multiple_choice(folder: Path) -> Task:
    rows = [
        {"context": context, "choices": texts(2 + i % 3, seed=i + 5, longest=7), "label": i % (2 + i % 3)}
        for i, context in enumerate(texts(16, longest=8))
    ]
    section = MultipleChoiceSection(kind="multiple_choice")
    special = codec("bpe_eow").with_special_tokens(["_start_", "_delimiter_", "_classify_"])
    objective = MultipleChoice(section, special, LENGTH)
    return _labelled(folder, objective, rows, section, {"vocab_size": special.size, "head": {"choices": True}})


def chat(folder: Path) -> Task:
    rows = [{"instruction": text, "output": answer} for text, answer in zip(texts(16), texts(16, seed=2), strict=True)]
    section = ChatSection.model_validate({"kind": "chat", "format": "llama3"})
    objective = Chat(section, fit_tokenizer(section, chat_codec("llama3")), 128, Path("tokenizer"))
    return _labelled(folder, objective, rows, section, {"vocab_size": 340, "context_length": 128})


def _preferences(folder: Path, objective: Any, section: Any, changes: Mapping[str, Any]) -> Task:
    rows = [
        {"prompt": prompt, "completions": texts(2 + i % 2, seed=i + 40, longest=7), "scores": [*range(2 + i % 2)]}
        for i, prompt in enumerate(texts(16, longest=6))
    ]
    stored = examples(folder, [row for row in rows if len({*row["completions"]}) > 1], section.roles, objective)
    if objective.reference_use == "once":
        sizes, kind = stored.arrays["sizes"]
        stored = replace(stored, arrays={**stored.arrays, "reference": (np.zeros(len(sizes), np.float32), kind)})
    return Task(objective, ExampleRows([(stored, 1.0)], 1, batch_size=BATCH), changes)


def rewards(folder: Path) -> Task:
    section = RewardSection(kind="reward")
    padded = reward.fit_tokenizer(section, codec("byte_bpe"), is_finished=False)
    context = ModelContext(family_config("gpt2", {}), padded, (), 1, Path("tokenizer"))
    head = {"kind": "classes", "count": 1, "pool": "last", "bias": False}
    return _preferences(folder, open_reward(section, context), section, {"vocab_size": padded.size, "head": head})


def dpo(folder: Path) -> Task:
    section = DPOSection(kind="dpo")
    context = ModelContext(family_config("gpt2", {}), codec("byte_bpe"), (), 1, Path("tokenizer"))
    return _preferences(folder, open_dpo(section, context), section, {})


def span_corruption(folder: Path) -> Task:
    config = ModelConfig.model_validate(ENCODER_DECODERS["t5"] | {"context_length": LENGTH})
    context = ModelContext(config, codec("unigram"), (), 1, Path("tokenizer"))
    objective = open_span_corruption(SpanCorruptionSection(kind="span_corruption"), context)
    return Task(objective, SpanRows([(_stream(codec("unigram"), 300), 1.0)], objective.lengths, seed=1, static=objective.static), {})


def text_to_text(folder: Path) -> Task:
    rows = [{"source": source, "target": target} for source, target in zip(texts(16), texts(16, seed=2), strict=True)]
    section = TextToTextSection.model_validate({"kind": "text_to_text", "label_smoothing": 0.1})
    return _labelled(folder, TextToText(section, codec("unigram"), LENGTH), rows, section, {})


def _distillation(base: Task, of: dict[str, Any], family: str, **section: Any) -> Task:
    made = DistillationSection.model_validate({"kind": "distillation", "teacher": "made", "of": of, **section})
    taught = build(family_config(family, base.changes, std=0.3), seed=4).eval().requires_grad_(False)
    return Task(Distillation(made, base.objective, Companion("teacher", taught, "made", "0" * 64)), base.rows, base.changes)


def distilled_masked_lm(folder: Path) -> Task:
    """Return DistilBERT's three losses."""
    weights = {"temperature": 2.0, "teacher_weight": 5.0, "text_weight": 2.0, "cosine_weight": 1.0}
    return _distillation(masked_lm(folder), {"kind": "masked_lm"}, "bert", **weights)


def distilled_causal_lm(folder: Path) -> Task:
    """Return Gemma 2's distillation."""
    return _distillation(causal_lm(folder), {"kind": "causal_lm"}, "gemma2")


TASKS: dict[str, Callable[[Path], Task]] = {
    **{make.__name__: make for make in (causal_lm, one_document, masked_lm, span_corruption, distilled_masked_lm, distilled_causal_lm)},
    **{make.__name__: make for make in (classes, multi_label, tagging, question_answering, multiple_choice, text_to_text)},
    **{make.__name__: make for make in (chat, rewards, dpo)},
    "next_sentence": partial(masked_lm, next_sentence=True),
    "regression": partial(classes, regression=True),
    "classes_at_the_end": partial(classes, last=True),
}
_OF = {
    **dict.fromkeys(DECODERS, "causal_lm"),
    "gpt": "causal_lm classes_at_the_end multiple_choice",
    "gpt2": "causal_lm chat multiple_choice rewards dpo",
    "llama": "causal_lm one_document chat classes_at_the_end",
    "gemma2": "causal_lm chat distilled_causal_lm",
    "bert": "masked_lm next_sentence classes regression multi_label tagging question_answering",
    "distilbert": "masked_lm classes tagging distilled_masked_lm",
    **dict.fromkeys(("roberta", "modernbert"), "masked_lm classes tagging question_answering"),
    **dict.fromkeys(("xlm_roberta", "camembert"), "masked_lm"),
    **dict.fromkeys(("electra", "mpnet", "deberta_v3"), "masked_lm classes"),
    **dict.fromkeys(("transformer_2017", "t5"), "span_corruption text_to_text"),
    **dict.fromkeys(("bart", "mbart", "mt5", "flan_t5", "byt5"), "text_to_text"),
}
CASES: dict[str, tuple[str, Callable[[Path], Task]]] = {
    f"{family}-{task}": (family, TASKS[task]) for family, tasks in _OF.items() for task in tasks.split()
}
assert {*_OF} == {*FAMILIES}, "a family that no device is tested with"
