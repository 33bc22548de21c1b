"""The commands of a walk: one run, uses of its checkpoint, and a second run that starts from there."""

import json
import random
from typing import Any

from tfkit.families import PRESETS
from tfkit.recipe.schema.objective_facts import SECTIONS
from walks.recipes import ENDED, RecipeDrawer, objectives_for, stacks_of
from walks.rows import WORDS, sentence
from walks.scenario import Command, DataFile, Recipe, Walk
from walks.values import ODD_TEXTS

COMMON = ["--threads", "1"]
QUIET = ["carbon.enabled=false"]
WRITES = ("lm", "masked_lm", "choices")  # heads whose models `tfkit generate` is for


def draw_walk(seed: int) -> Walk:
    """Draw the walk of a seed."""
    return _Drawer(random.Random(seed)).walk()


class _Drawer:
    def __init__(self, dice: random.Random):
        self.dice, self.made = dice, Walk()
        self.recipes = RecipeDrawer(dice, self.made.files)

    def walk(self) -> Walk:
        recipe = self.recipes.pretraining()
        self.made.recipes["first.yaml"] = recipe
        kind = recipe["objective"]["kind"]
        stacks = stacks_of(PRESETS[recipe["model"]["preset"]][1])
        self.add("check", "first.yaml")
        if self.dice.random() < 0.3:
            self.add("inspect", "first.yaml", "--show", "2", *self.maybe("--json"))
        self.train(["pretrain", "first.yaml"], "first", recipe)
        self.use("first", kind, recipe, "train")
        judging = [name for name in ("minimal_pairs", "few_shot") if stacks in SECTIONS[name].stacks and SECTIONS[kind].head == "lm"]
        if judging and self.dice.random() < 0.3:
            self.judge("first", self.dice.choice(judging))
        if kind in ("causal_lm", "masked_lm") and self.dice.random() < 0.5:
            self.distill(recipe)
        elif stacks == "decoder" and SECTIONS[kind].head == "lm" and recipe["tokenizer"]["kind"] in ENDED and self.dice.random() < 0.3:
            self.align()
        elif self.dice.random() < 0.75:
            self.finetune(recipe, kind, stacks)
        if stacks == "decoder" and kind == "causal_lm" and self.dice.random() < 0.8:
            self.chain(recipe)
        if "third.yaml" in self.made.recipes:  # a policy, which samples
            pretraining = next(command for command in reversed(self.made.commands) if command.run == "first")
            pretraining.ends = self.dice.sample(range(40, 200), self.dice.choice([0, 3, 80]))
        for run in ("second", "third"):
            if "code.py" in json.dumps(self.made.recipes.get(f"{run}.yaml")):  # which nobody has allowed where the run is a download
                for name, more in (("evaluate", self.maybe("--allow-code")), ("generate", ["--prompt", "a"])):
                    self.made.commands.append(Command([name, "--from", run, *more, *COMMON, *QUIET], stranger=True))
        for command in self.made.commands:
            if command.name in ("pretrain", "finetune", "evaluate") and self.dice.random() < 0.1:
                command.cache_lost = round(self.dice.random() / 2, 3)
        if self.dice.random() < 0.3:
            self.embed("first")
        return self.made

    def add(self, *words: str) -> None:
        self.made.commands.append(Command(list(words)))

    def maybe(self, *words: str) -> tuple[str, ...]:
        return words if self.dice.random() < 0.5 else ()

    # -- training

    def train(self, words: list[str], run: str, recipe: Recipe) -> None:
        """Add a run, in one piece or stopped, perhaps more than once, and resumed."""
        words = [*words, "--run", run, *COMMON]
        for _ in range(self.dice.choice([0, 0, 0, 1, 1, 2])):
            steps = recipe["training"].get("steps", 3)
            signal = self.dice.choice(["SIGTERM", "SIGINT", "SIGKILL", "SIGHUP"])
            resumed = [*words, "--resume"] if self.made.commands[-1].run == run else words
            self.made.commands.append(Command(resumed, signal, self.dice.randint(1, steps)))
        resumed = [*words, "--resume"] if self.made.commands[-1].run == run else words
        self.add(*resumed, *self.maybe("--json"))

    def finetune(self, recipe: Recipe, kind: str, stacks: str) -> None:
        """Add a second run on other data, mostly for another task, with a recipe or without."""
        possible = objectives_for(stacks)
        if recipe["tokenizer"]["kind"] != "wordpiece":
            possible = [name for name in possible if name not in ("masked_lm", "question_answering")]
        if recipe["tokenizer"]["kind"] != "unigram":
            possible = [name for name in possible if name != "span_corruption"]
        other = self.dice.choice(possible)
        if self.dice.random() < 0.6:
            second = self.recipes.finetuning(other, "more")
            self.made.recipes["second.yaml"] = second
            self.train(["finetune", "second.yaml", "--from", "first"], "second", second)
        else:
            second = {"objective": {"kind": other}, "training": {}, "data": {"validation": 0.1}}
            maker = self.recipes.makers["more"] = self.recipes.maker(other)
            source = self.recipes.source(maker, "more", 40)
            said = [f"objective.kind={other}"] if self.dice.random() < 0.6 else []
            if other == "dpo" and not said and SECTIONS[kind].head == "classes":
                other = "reward"  # as tfkit decides: DPO would replace the head of a model that scores texts
            said += [f"data.train.0.{name}={json.dumps(source[name])}" for name in ("columns", "header") if name in source]
            said += ["data.on_bad_row=skip"] if maker.bad else []
            words = [*said, *QUIET, "training.epochs=1", "training.precision=fp32"]
            self.train(["finetune", "--from", "first", "--data", source["path"], *words], "second", second)
        self.use("second", other, second, "more")

    def distill(self, recipe: Recipe) -> None:
        """Add a student that learns from the first run."""
        of = {name: value for name, value in recipe["objective"].items() if name != "next_sentence"}
        objective: Recipe = {"kind": "distillation", "teacher": "first", "of": of, "temperature": self.dice.choice([1.0, 2.0])}
        objective |= {"text_weight": self.dice.choice([0.0, 1.0])} | ({"cosine_weight": 1.0} if self.dice.random() < 0.3 else {})
        second = {**recipe, "tokenizer": {"path": "first"}, "objective": objective, "training": {**recipe["training"]}}
        second["evaluation"] = {name: value for name, value in recipe.get("evaluation", {}).items() if name != "metric"}
        self.made.recipes["second.yaml"] = second
        self.train(["pretrain", "second.yaml"], "second", second)
        self.use("second", of["kind"], second, "train")

    def chain(self, recipe: Recipe) -> None:
        """Add a recipe with two stages, of which the second begins from the first."""
        kind = self.dice.choice(["causal_lm", "classification", "reward"])
        second = self.recipes.finetuning(kind, "staged")
        del second["model"]["from"]
        self.made.recipes["chain.yaml"] = {"stages": {"one": recipe, "two": {"from": "one", **second}}}
        self.train(["pretrain", "chain.yaml"], "chain", recipe)
        self.add("evaluate", "--from", "chain/two", *COMMON, *QUIET, *self.maybe("--json"))
        self.add("verify", "chain/two")

    def align(self) -> None:
        """Add a reward model, and a policy that learns from it and from rules; or a classifier, and a model that follows its rankings."""
        judge, kind = self.dice.choice([("reward", "ppo"), ("classification", "ai_feedback")])
        for one, name, run in ((judge, "more", "second"), (kind, "asked", "third")):
            recipe = self.recipes.finetuning(one, name)
            while "regression" in recipe["objective"]:  # no judge
                recipe = self.recipes.finetuning(one, name)
            self.made.recipes[f"{run}.yaml"] = recipe
            self.train(["finetune", f"{run}.yaml", "--from", "first"], run, recipe)
        if kind == "ppo":  # the rows of the other are prompts, on which nothing can be scored
            self.use("third", kind, recipe, "asked")

    # -- uses of a run

    def use(self, run: str, kind: str, recipe: Recipe, rows: str) -> None:
        """Add evaluate, generate, verify and average, in this order, each sometimes."""
        if self.dice.random() < 0.5:
            self.add("evaluate", "--from", run, *COMMON, *QUIET, *self.maybe("--json"))
        if self.dice.random() < 0.3:
            maker = self.recipes.makers[rows]
            source = self.recipes.source(maker, f"{run}-other", 6)
            odd = maker.names != {role.name: role.columns[0] for role in maker.roles}  # named by the run's recipe, and so expected here
            said = [f"data.validation=[{json.dumps(source)}]"] if odd or len(source) > 1 else ["--data", source["path"]]
            out = self.dice.choice([*[f"{run}.jsonl"] * 4, f"{run}/run.json", f"{run}/metrics.jsonl", f"{run}/checkpoints/new.jsonl"])
            said += [] if SECTIONS[kind].reads_text and kind != "causal_lm" else ["--predictions", out]
            self.add("evaluate", "--from", run, *said, *COMMON, *QUIET, *self.maybe("--json"))
        if SECTIONS[kind].head in WRITES:
            for _ in range(self.dice.choice([0, 1, 1, 2])):
                self.generate(run, kind)
        if self.dice.random() < 0.2:
            self.add("verify", run, *self.maybe("--json"))
        every, steps = recipe.get("checkpoint", {}).get("every"), recipe["training"].get("steps", 1)
        if isinstance(every, int) and every < steps and recipe["checkpoint"].get("keep", 2) > 1 and not recipe["training"].get("patience"):
            self.add("average", run, "--last", "2", "--out", f"{run}-mean")

    def generate(self, run: str, kind: str) -> None:
        fills = kind == "masked_lm" and self.dice.random() < 0.9  # which draws nothing, and refuses options for drawing
        words = ["generate", "--from", run, *([] if fills else ["--max-new-tokens", str(self.dice.choice([1, 3, 9]))])]
        options = {"--temperature": ["0", "0.7", "5"], "--top-k": ["1", "3", "9999"], "--top-p": ["0.1", "0.9"]}
        options |= {"--num-beams": ["2", "3"], "--stop": ["the", " ", "\n"], "--seed": ["0", "7"]}
        for name, values in options.items():
            words += [name, self.dice.choice(values)] if self.dice.random() < 0.25 and not fills else []
        settings = {"min_p": "0.1", "repetition_penalty": "1.3", "no_repeat_ngram": "2", "length_penalty": "0.5", "early_stopping": "full"}
        changes = [f"generation.{name}={value}" for name, value in settings.items() if self.dice.random() < 0.15 and not fills]
        if kind == "chat" and self.dice.random() < 0.6:
            words.append("--chat")
        if self.dice.random() < 0.5:
            words += ["--prompt", self.prompt(kind), *self.maybe("--json")]
        else:
            name = f"{run}-prompts.jsonl"
            self.made.files.setdefault(name, DataFile([{"prompt": self.prompt(kind), "id": number} for number in range(4)]))
            words += ["--input", name]
        self.add(*words, *COMMON, *QUIET, *changes)

    def embed(self, run: str) -> None:
        """Embed some texts, which may have no token."""
        self.made.files["texts.jsonl"] = DataFile([{"body": sentence(self.dice), "id": number} for number in range(20)])
        out = self.dice.choice([[], ["--out", "vectors.npy"], ["--out", "vectors.parquet"]])
        self.add("embed", "--from", run, "--data", "texts.jsonl", "--field", "body", *out, *COMMON, *QUIET)

    def prompt(self, kind: str) -> str:
        if kind == "masked_lm":
            words = [self.dice.choice(WORDS) for _ in range(3)]
            words.insert(self.dice.randint(0, 3), "[MASK]")
            return " ".join(words)
        short = " ".join(self.dice.choice(WORDS) for _ in range(2)) if self.dice.random() < 0.8 else sentence(self.dice, blank=0.3)
        return short + (self.dice.choice(["தமிழ்", *ODD_TEXTS]) if self.dice.random() < 0.2 else "")

    def judge(self, run: str, kind: str) -> None:
        """Add an evaluation with another objective, by likelihood."""
        maker = self.recipes.maker(kind)
        source = self.recipes.source(maker, kind, 8)
        said: dict[str, Any] = {"kind": kind}
        if kind == "few_shot":
            said |= {} if maker.picks else {"choices": maker.classes}
            said |= {"normalize": self.dice.choice(["none", "tokens", "bytes", "unconditional"])}
        columns = [f"data.validation=[{json.dumps(source)}]"] if len(source) > 1 else ["--data", source["path"]]
        columns += ["data.on_bad_row=skip"] if maker.bad else []
        self.add("evaluate", f"objective={json.dumps(said)}", "--from", run, *columns, *COMMON, *QUIET)
