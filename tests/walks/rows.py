"""Rows for an objective, from the forms of its roles: a new objective gets its rows without being listed here."""

import random
from typing import Any

from tfkit.recipe.schema.roles import TEXT, Role
from walks.values import INVISIBLE, ODD_TEXTS

Row = dict[str, Any]
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "hat", "and", "ran", "fast", "slow", "Big", "small", "red", "blue", "house."]
CLASSES = {"words": ["cat", "dog", "Straße"], "numbers": ["0", "1", "2"], "yes and no": ["no", "yes"], "odd": ["B-a", "I-a", "O", "null"]}
BLANK = ["", " ", "\n", "\t \n"]
ODD_COLUMNS = ["Spalte 1", "x-y", "文", "a.b", "text_", "class name", "1"]


def sentence(dice: random.Random, blank: float = 0.05, most: int = 30) -> str:
    """Return some words, at most `most`, sometimes with something odd among them; or only blanks or invisible characters."""
    if dice.random() < blank:
        return dice.choice([*BLANK, *INVISIBLE])
    words = [dice.choice(WORDS) for _ in range(min(most, dice.choice([1, 2, 4, 6, 9, 30 if blank else 3])))]
    if dice.random() < 0.15:
        words.insert(dice.randint(0, len(words)), dice.choice([*ODD_TEXTS, *INVISIBLE]))
    return " ".join(words) + dice.choice(["", "", "\n"])


class RowMaker:
    """Draws rows for the roles of an objective. `numbers`: labels are numbers with fractions; else of `classes`. `bad`: some rows cannot be
    read, or have no visible text for a tokenizer.
    """

    def __init__(self, dice: random.Random, roles: tuple[Role, ...], *, numbers: bool = False, bad: bool = False):
        self.dice, self.numbers, self.bad = dice, numbers, bad
        shapes = sorted({role.shape for role in roles if role.shape})
        shape = dice.choice(shapes) if shapes else None
        self.roles = [role for role in roles if role.shape in (None, shape) and (role.required or dice.random() < 0.5)]
        self.unpaired = shape == "unpaired"
        self.flags = dice.choice([("true", "false"), (False, True), (1, 0)])
        self.classes = ["true", "false"] if self.unpaired else dice.choice(list(CLASSES.values()))
        self.options = dice.randint(2, 4)  # entries of a list of texts that a label picks one of
        self.picks = {role.form for role in self.roles} >= {"choices", "label"}
        self.spoken = dice.random() < 0.5  # messages of role and content, else of from and value
        # Of one type.
        self.votes = dice.choice([["a", "b", "model_b", *(["tie", "c"] if bad else [])], [["a", "b", "b"]], [{"a": 2, "b": 1}]])
        self.listed = dice.random() < 0.2  # references are lists
        self.system = dice.choice([0.0, 0.0, 0.3])
        self.names: dict[str, str] = {}
        for role in self.roles:  # known names of columns, or odd ones that the source's `columns` name
            odd = [name for name in ODD_COLUMNS if name not in self.names.values()]
            self.names[role.name] = dice.choice(odd) if dice.random() < 0.25 else role.columns[0]

    def row(self) -> Row:
        """Draw one row, by role."""
        length = self.options if self.picks or any(role.form == "completions" for role in self.roles) else self.dice.choice([1, 2, 4, 9])
        found = {role.name: self._value(role, length) for role in self.roles}
        for name in [role.name for role in self.roles if role.form == "answers"]:
            found[name] = self._answers(found["context"])
        return found

    def rows(self, count: int) -> list[Row]:
        """Draw `count` rows, with each class in them."""
        found = [self.row() for _ in range(count)]
        for role in self.roles:
            if role.form in ("label", "label_set") and not self.picks and not self.numbers:
                for number, name in enumerate(self.classes * 2):
                    found[number % count][role.name] = [name] if role.form == "label_set" else name
        if self.unpaired:  # a good and a bad completion of each prompt
            for one, other in zip(found[::2], found[1::2], strict=False):
                other |= {"prompt": one["prompt"]} if "prompt" in one else {}
                one["label"], other["label"] = self.flags
        return found

    @property
    def _blank(self) -> float:
        """The probability of a blank text: labelled rows without text are bad."""
        return 0.1 if self.bad or tuple(self.roles) == TEXT else 0.0

    def _value(self, role: Role, length: int) -> Any:
        match role.form:
            case "completions":
                return [f"{number} {sentence(self.dice, blank=0.0, most=4)}" for number in range(length)]
            case "numbers":
                return [number + self.dice.choice([0, 0.5]) for number in self.dice.sample(range(length), length)]
            case "text" | "turns":
                return sentence(self.dice, blank=self._blank)
            case "texts" | "choices":
                odd = [*ODD_TEXTS, *INVISIBLE] if self.bad else ODD_TEXTS
                return [self.dice.choice(WORDS if self.dice.random() < 0.9 else odd) for _ in range(length)]
            case "labels":
                return [self.dice.choice(self.classes) for _ in range(length)]
            case "votes":
                return self.dice.choice(self.votes)
            case "answers" | "tools":
                return None  # the first follow from the context, and the templates of a walk have no place for the second
            case "label_set":
                return self.dice.sample(self.classes, self.dice.randint(0, len(self.classes)))
            case "label" if self.picks:
                return self.dice.randrange(length)
            case "label":
                return round(self.dice.uniform(-2, 5), 3) if self.numbers else self.dice.choice(self.classes)
            case "references":
                found = [sentence(self.dice, blank=self._blank) for _ in range(2)]
                return found if self.listed else found[0]
            case "literals":
                number, word = self.dice.randint(0, 9), self.dice.choice(WORDS)
                return [word, str(number)] if self.listed else word if self.spoken else number
            case "messages":
                return self._messages()
        raise AssertionError(f"no rows are made for a role of the form {role.form}: add it to this class")

    def _answers(self, context: str) -> list[dict[str, Any]]:
        """The first plain word of a context, or what is bad: no answer."""
        text = next((word for word in context.split() if word in WORDS), None)
        return [{"text": text, "answer_start": context.index(text)}] if text and not (self.bad and self.dice.random() < 0.2) else []

    def _messages(self) -> list[dict[str, str]]:
        who, what = ("role", "content") if self.spoken else ("from", "value")
        names = ("user", "assistant") if self.spoken else ("human", "gpt")
        turns = [{who: names[n % 2], what: sentence(self.dice, blank=self._blank, most=3)} for n in range(2 * self.dice.randint(1, 3))]
        return ([{who: "system", what: "Be brief."}] if self.dice.random() < self.system else []) + turns


def in_columns(rows: list[Row], maker: RowMaker, suffix: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows under the names of columns, and the source's `columns`: those names that are not recognised.

    In a table the entries of a list are in columns of their own.
    """
    columns: dict[str, Any] = {role.name: maker.names[role.name] for role in maker.roles if maker.names[role.name] != role.columns[0]}
    found = []
    for row in rows:
        made: Row = {}
        for role, value in row.items():
            name = maker.names[role]
            if isinstance(value, list) and suffix in (".csv", ".tsv"):
                columns[role] = [f"{name} {n}" for n in range(len(value))]
                made |= dict(zip(columns[role], value, strict=True))
            else:
                made[name] = value
        found.append(made)
    return found, columns


def suffixes_for(maker: RowMaker) -> list[str]:
    """Return the formats whose files can hold the rows."""
    forms = {role.form for role in maker.roles}
    found = [".jsonl", ".json", ".parquet"]
    if forms <= {"text", "turns", "label", "references"} and not (maker.listed and "references" in forms):
        found += [".csv", ".tsv"]
    if maker.picks and "labels" not in forms:
        found += [".csv", ".tsv"]
    if forms == {"texts", "labels"}:
        found += [".conll", ".conllu", ".conll", ".conllu"]
    if tuple(maker.roles) == TEXT:
        found += [".txt", "/", ".lst"]
    return found
