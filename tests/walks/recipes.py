"""Random recipes: a tiny valid one, and then many small changes, each kept if `tfkit check` accepts it."""

import json
import random
from typing import Any, get_args

from pydantic import ValidationError

from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.recipe.presets import model_problems
from tfkit.recipe.reading.checks import cross_problems
from tfkit.recipe.reading.rank_divisibility import require_mesh
from tfkit.recipe.reading.tree import Mapping, Place
from tfkit.recipe.schema.data_sections import DataSection, TokenizerSection
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.objective_sections import metrics_of
from tfkit.recipe.schema.optimizer_sections import OptimizerSection, ParallelSection, ScheduleSection
from tfkit.recipe.schema.output_sections import CheckpointSection, EvaluationSection, GenerationSection
from tfkit.recipe.schema.sections import Recipe as RecipeSchema
from tfkit.recipe.schema.sections import TrainingSection
from tfkit.recipe.schema.vocabularies import VOCABULARIES, vocabulary_of
from walks.rows import BLANK, RowMaker, in_columns, suffixes_for
from walks.scenario import DataFile, Recipe
from walks.values import CHOICES, fields, value_of

SAMPLED = ("grpo", "ppo")  # objectives of sampled responses
CANARY = "code.py.ran"  # grows whenever the code of a rule is run
CODE = 'open(__file__ + ".ran", "a").write("ran ")\n\n\ndef reward(row, text):\n    return text.count("a")\n'
ENDED = [one for one in VOCABULARIES if "eos_token" in vocabulary_of(one, None).roles]  # tokenizers that end a text
_TAUGHT = ("distillation", "ppo", "ai_feedback")  # which need another model
_TRAINED: list[str] = [kind for kind, section in SECTIONS.items() if section.scored_by != "likelihood" and kind not in _TAUGHT]
FAMILIES = sorted({family.name for family, _ in PRESETS.values()})
OPTIMIZERS = {get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(OptimizerSection)}
SCHEDULES: tuple[str, ...] = get_args(ScheduleSection.model_fields["kind"].annotation)
_CHANGED = 0.12  # the probability of setting a field


def stacks_of(values: Recipe) -> str:
    """Return the stacks of a model, from its preset's values."""
    encoder, decoder = values.get("encoder_layers"), values.get("decoder_layers")
    return "both" if encoder and decoder else "encoder" if encoder else "decoder"


FAMILIES_OF = {
    stacks: sorted({family.name for family, values in PRESETS.values() if stacks_of(values) == stacks})
    for stacks in ("encoder", "decoder", "both")
}


def objectives_for(stacks: str) -> list[str]:
    """Return the objectives that train a model with these stacks."""
    return [kind for kind in _TRAINED if stacks in SECTIONS[kind].stacks]


class RecipeDrawer:
    """Draws recipes, and the files that they read, into `files`."""

    def __init__(self, dice: random.Random, files: dict[str, DataFile]):
        self.dice, self.files = dice, files
        self.makers: dict[str, RowMaker] = {}  # of the rows of each recipe, by its name

    def pretraining(self) -> Recipe:
        """Draw a recipe that trains from random weights."""
        wanted = self.dice.choice(["encoder", "decoder", "both"])  # most families are decoders
        family = self.dice.choice(FAMILIES_OF[wanted])
        preset = self.dice.choice([name for name, (of, _) in PRESETS.items() if of.name == family])
        stacks = stacks_of(PRESETS[preset][1])
        kind = self.dice.choice([name for name in objectives_for(stacks) if not SECTIONS[name].needs_start])
        recipe: Recipe = {"model": self._model(preset, kind), "tokenizer": self._tokenizer(kind), **self.task(kind, "train")}
        return self._varied(recipe, SECTIONS[kind])

    def finetuning(self, kind: str, name: str) -> Recipe:
        """Draw a recipe for an objective that starts from a checkpoint, which the command line names."""
        recipe: Recipe = {"model": {"from": "nowhere"}, **self.task(kind, name)}
        if self.dice.random() < 0.4:
            adapter: Recipe = {"kind": "lora", "rank": self.dice.choice([1, 2, 8])}
            adapter |= {"merge": True} if self.dice.random() < 0.4 else {}
            if self.dice.random() < 0.5:
                adapter["targets"] = self.dice.choice([["q_proj"], ["o_proj", "v_proj"], ["*.blocks.0.*"]])
            recipe["training"]["adapter"] = adapter
        return self._varied(recipe, SECTIONS[kind])

    def task(self, kind: str, name: str) -> Recipe:
        """Draw data, objective and length for an objective; optimizer and schedule, too."""
        section = SECTIONS[kind]
        numbers = "regression" in section.model_fields and self.dice.random() < 0.35
        objective: Recipe = {"kind": kind} | ({"regression": True} if numbers else {})
        # Tokenizers that are trained here have no template, and few have the tokens of chatml.
        if kind == "chat" and self.dice.random() < 0.8:
            objective["format"] = self.dice.choice(["llama2", "mistral"] if name == "train" else ["chatml", "llama2", "llama3", "gemma"])
        if kind in SAMPLED:  # twelve responses, which every batch divides
            rules: list[Recipe] = [{"kind": "contains", "text": "a"}, {"kind": "regex", "pattern": "[0-9]"}]
            rules += [{"kind": "valid_python"}, {"kind": "valid_json"}]
            if self.dice.random() < 0.5:
                rules.append({"kind": "python", "function": "code.py:reward", "allow_code": True})
                self.files["code.py"] = DataFile([{"text": CODE}])
            objective |= {"rules": self.dice.sample(rules, self.dice.randint(1, 3)), "prompts": 2, "completions": 6, "max_new_tokens": 3}
            objective |= {"reward": "second"} if kind == "ppo" else {}
        if kind == "ai_feedback":
            objective |= {"policy": "first", "judge": "second", "of": {"kind": self.dice.choice(["reward", "dpo"])}}
            objective |= {"completions": self.dice.choice([2, 3]), "max_new_tokens": self.dice.choice([3, 5])}
        steps = self.dice.randint(2, 8)
        optimizer, schedule = self.dice.choice(list(OPTIMIZERS)), self.dice.choice(SCHEDULES)
        return {
            "data": self._data(kind, name, numbers=numbers),
            "objective": objective,
            "optimizer": {"kind": optimizer, "lr": self.dice.choice(CHOICES["optimizer.lr"])},
            "schedule": {"kind": schedule} | ({"warmup_steps": 2} if schedule == "noam" else {}),
            "training": {"steps": steps, "batch_size": self.dice.choice([1, 2, 4, 6]), "precision": "fp32", "log_every": 1},
            "carbon": {"enabled": False},
        }

    def _model(self, preset: str, objective: str) -> Recipe:
        values = PRESETS[preset][1]
        model: Recipe = {"preset": preset, "dim": 16, "num_heads": 2, "num_kv_heads": None, "head_dim": None, "hidden_dim": 24}
        model |= {"context_length": self.dice.choice([16, 24, 33] if SECTIONS[objective].reads_text else [64, 128])}
        model |= {name: self.dice.randint(1, 3) for name in ("encoder_layers", "decoder_layers") if values.get(name)}
        windows = values.get("attention", {}).get("windows", [None])
        if windows != [None]:
            model["attention"] = {"windows": [window and 4 for window in windows]}
        if "experts" in values["mlp"]:
            model["mlp"] = {"experts": {"count": 4, "active": 2, "hidden_dim": self.dice.choice([None, 12])}}
        return model

    def _tokenizer(self, objective: str) -> Recipe:
        """Draw a tokenizer with the special tokens of the objective."""
        needed = {"masked_lm": "wordpiece", "question_answering": "wordpiece", "span_corruption": "unigram"}
        kind = needed.get(objective) or self.dice.choice(list(VOCABULARIES))
        if objective in SAMPLED:  # whose responses end with a token
            kind = self.dice.choice(ENDED)
        variant = self.dice.choice([*VOCABULARIES[kind], None])
        section: Recipe = {"kind": kind, "vocab_size": 300} | ({} if variant is None else {"variant": variant})
        if objective == "multiple_choice":
            section["special_tokens"] = ["_start_", "_delimiter_", "_classify_"]
        if objective == "chat" and self.dice.random() < 0.7:
            section |= {"kind": "byte_bpe", "variant": "smollm2", "vocab_size": 320}
        return section

    # -- data

    def maker(self, kind: str, *, numbers: bool = False) -> RowMaker:
        """Return the maker of rows for an objective."""
        roles = SECTIONS[kind].roles
        if kind in SAMPLED and self.dice.random() < 0.8:  # few models have the chat template that messages need
            roles = tuple(role for role in roles if role.shape != "conversation")
        return RowMaker(self.dice, roles, numbers=numbers, bad=self.dice.random() < 0.2)

    def source(self, maker: RowMaker, name: str, rows: int = 24) -> Recipe:
        """Draw a source of rows, written into a file of a drawn format."""
        suffix = self.dice.choice(suffixes_for(maker))
        made, columns = in_columns(maker.rows(rows), maker, suffix)
        path = f"{name}{suffix}" + ("" if suffix == "/" else self.dice.choice(["", "", "", ".gz", ".zip"]))
        source: Recipe = {"path": path}
        header = suffix not in (".csv", ".tsv") or self.dice.random() > 0.2
        if not header:
            source["header"] = list(dict.fromkeys(column for row in made for column in row))
        if columns and suffix not in (".conll", ".conllu", ".txt", "/", ".lst"):
            source["columns"] = columns
        self.files[path] = DataFile(made, header)
        return source

    def _data(self, kind: str, name: str, *, numbers: bool) -> Recipe:
        maker = self.makers[name] = self.maker(kind, numbers=numbers)
        train = [self.source(maker, name)]
        if self.dice.random() < 0.2:
            train.append(self.source(maker, f"{name}-2") | {"weight": self.dice.choice([0.5, 1.5, 3.0])})
        data: Recipe = {"train": train}
        match self.dice.randrange(5):
            case 0 | 1 if not train[0]["path"].startswith(f"{name}.txt"):
                data["validation"] = self.dice.choice([0.3, 0.5])
            case 0 | 1 | 2:
                data["validation"] = [self.source(maker, f"{name}-held-out", 8)]
            case 3:
                sets = [self.source(maker, f"{name}-held-out-{n}", 6) for n in range(2)]
                data["validation"] = [sets[0] | {"name": "häufig"}, sets[1]]
        if maker.bad:
            data["on_bad_row"] = "skip"
            self._spoil(train[0]["path"])
        return data

    def _spoil(self, path: str) -> None:
        """Add rows that cannot be read, and a blank one."""
        file = self.files[path]
        if ".json" in path:
            name = next(iter(file.rows[0]))
            file.rows.insert(2, {"other": 1})
            file.rows.insert(5, {**file.rows[0], name: self.dice.choice([None, 3.5, [], {"a": 1}, *BLANK])})

    # -- changes

    def _varied(self, recipe: Recipe, section: Any) -> Recipe:
        """Return the recipe with changes of single fields; invalid ones are dropped, except in a few walks."""
        sections: dict[str, Any] = {
            "tokenizer": TokenizerSection,
            "data": DataSection,
            "objective": section,
            "optimizer": OPTIMIZERS[recipe["optimizer"]["kind"]],
            "schedule": ScheduleSection,
            "training": TrainingSection,
            "checkpoint": CheckpointSection,
            "evaluation": EvaluationSection,
            "generation": GenerationSection,
            "parallel": ParallelSection,
        }
        if "preset" in recipe["model"]:
            sections["model"] = ModelConfig
        else:
            del sections["tokenizer"]
        keeps_refused = self.dice.random() < 0.03
        for name, record in sections.items():
            for path, schema, definitions in fields(record, name):
                if self.dice.random() < _CHANGED:
                    changed = with_value(recipe, path, value_of(self.dice, path, schema, definitions))
                    if is_valid(changed) or (keeps_refused and self.dice.random() < 0.2):
                        recipe = changed
        if not keeps_refused and recipe["data"].get("validation") and self.dice.random() < 0.3:
            metrics = metrics_of(RecipeSchema.model_validate(recipe | {"model": {"preset": "gpt2"}}).objective)
            changed = with_value(recipe, "evaluation.metric", self.dice.choice(metrics))
            recipe = changed if is_valid(changed) else recipe
        if self.dice.random() < 0.15:
            steps = recipe["training"].pop("steps")
            recipe["training"] |= self.dice.choice([{"epochs": 0.5}, {"epochs": 1.0}, {"tokens": 60 * steps}])
            recipe["training"]["batch_size"] = max(4, recipe["training"]["batch_size"])
        return recipe


def with_value(recipe: Recipe, path: str, value: Any) -> Recipe:
    """Return a copy with another value at a dotted path."""
    name, _, rest = path.partition(".")
    inner = recipe.get(name)
    return {**recipe, name: with_value(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def is_valid(recipe: Recipe) -> bool:
    """Whether `tfkit check` would find nothing: its checks, without the file that they point into."""
    tree = Mapping(Place("recipe"))
    try:
        section = RecipeSchema.model_validate_json(json.dumps(recipe), strict=True)
        require_mesh(section, 1)
    except (ValidationError, UsageError):
        return False
    vocab_size = recipe.get("tokenizer", {}).get("vocab_size", 300)
    return not cross_problems(section, tree) and not model_problems(recipe["model"], vocab_size, tree)
