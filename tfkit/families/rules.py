"""A family's Hugging Face layout as data: one list of rules, applied forwards to load a file and backwards to save one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkit.model.config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """A tensor of Hugging Face's class and the parameters of tfkit that it holds; `{i}` is the index of the layer, `{e}` of the expert.

    Several parameters are concatenated along the output dimension (GPT-2's fused q | k | v). `by_head`: they alternate from head to head
    (GPT-NeoX's q1 | k1 | v1 | q2 ...). `transposed`: the tensor is a matrix (in, out), the parameter is (out, in). `row`: the tensor is
    (1, n), the parameter (n,). `when`: returns whether the rule applies to a model, if names differ by model (T5's MLP); None: to all.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    row: bool = False
    by_head: bool = False
    when: Callable[[ModelConfig], bool] | None = None


def module_rules(
    modules: Mapping[str, str | tuple[str, ...]], when: Callable[[ModelConfig], bool] | None = None, *, transposed: bool = False
) -> tuple[Rule, ...]:
    """Return the rules of modules that have a weight and, in some models, a bias; `modules`: Hugging Face's names -> ours."""
    return tuple(
        Rule(
            f"{theirs}.{part}",
            tuple(f"{name}.{part}" for name in ([ours] if isinstance(ours, str) else ours)),
            transposed=transposed and part == "weight",
            when=when,
        )
        for theirs, ours in modules.items()
        for part in ("weight", "bias")
    )


Architectures = Mapping[str, Mapping[str, Any]]  # Hugging Face's class -> the fields of its head's config; the first class is the default


@dataclass(frozen=True)
class Family:
    """All that distinguishes one model family from the others.

    `from_hf` returns the values of a ModelConfig from the fields of a config.json. It raises KeyError if a field is missing, and
    UnsupportedError if a field requires a computation that tfkit does not have. `to_hf` returns the fields of a config.json.

    Several families may share a `model_type`: their presets differ, their layout does not. `model_type` is None if no class of Hugging Face
    computes the models.
    """

    name: str
    model_type: str | None  # Hugging Face's
    architectures: Architectures
    presets: dict[str, dict[str, Any]]  # published sizes, as values of a ModelConfig
    rules: tuple[Rule, ...]
    prefix: str  # the prefix of tensor names, which files of a model without a head lack
    from_hf: Callable[[dict[str, Any]], dict[str, Any]]
    to_hf: Callable[[ModelConfig], dict[str, Any]]
    ignored: tuple[str, ...] = ()  # regular expressions for names of tensors that are not loaded, such as buffers
    renamed: tuple[tuple[str, str], ...] = ()  # other spellings in tensor names: a regular expression and its replacement
    aliases: Mapping[str, str] = field(default_factory=dict)  # other names of config.json's keys -> the names that `from_hf` reads
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # a key of config.json -> the only values that tfkit supports
    own_keys: frozenset[str] = frozenset()  # keys of config_fields.FOREIGN_KEYS that `from_hf` reads, so that they are not refused
    container: str | None = None  # the model_type of folders that also hold parts for images; their text_config describes the model
    other_parts: str | None = None  # a regular expression for names of tensors of parts for images; its first group is the part's name
    prefixes: Mapping[str, str] = field(default_factory=dict)  # kind of head -> the prefix in the class with this head, if not `prefix`
    encoder_architectures: Architectures = field(default_factory=dict)  # of encoder-decoders: the classes of the encoder alone

    @property
    def stacks(self) -> tuple[bool, bool]:
        """Whether the family's models have an encoder, and whether they have a decoder."""
        values = next(iter(self.presets.values()))
        return bool(values.get("encoder_layers")), bool(values.get("decoder_layers"))

    def architecture(self, config: ModelConfig) -> str | None:
        """Return Hugging Face's class for the stacks and the head of this config; None if there is none."""
        head = config.head.model_dump()
        return next((name for name, values in self.classes_of(config).items() if head.items() >= values.items()), None)

    def classes_of(self, config: ModelConfig) -> Architectures:
        """Return Hugging Face's classes for the stacks of this config; empty if there are none."""
        stacks = config.encoder_layers > 0, config.decoder_layers > 0
        return self.architectures if stacks == self.stacks else self.encoder_architectures if stacks == (True, False) else {}


def decoder_classes(name: str, *tasks: str) -> Architectures:
    """Return a decoder's classes under transformers' usual names: a language model, one per kind of head in `tasks`, one without head."""
    heads: dict[str, Mapping[str, Any]] = {
        "ForSequenceClassification": {"kind": "classes", "pool": "last", "dense": None, "bias": False},
        "ForTokenClassification": {"kind": "tags"},
        "ForQuestionAnswering": {"kind": "spans"},
    }
    for_tasks = {f"{name}{ending}": head for ending, head in heads.items() if head["kind"] in tasks}
    return {f"{name}ForCausalLM": {"kind": "lm"}, **for_tasks, f"{name}Model": {"kind": "none"}}
