"""The facts in a model card that are not about the model itself: the names of its data and base model, and facts from the base model's
card. Data and models are named without the folders above them, since paths of this machine mean nothing to a reader of the card.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tfkit.errors import ModelError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection, set_names
from tfkit.run.model_files import MIB, find_file, read_text

_LANGUAGE = r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"


@dataclass(frozen=True)
class CardData:
    """The names, languages and maximum row length of the training data, and the names of the validation data."""

    names: list[str]
    hub: list[str] = field(default_factory=list)  # the names of the training data that are on the Hub
    validation: dict[str, str] = field(default_factory=dict)  # by the name of a validation set ("": all sets): the names of its data
    languages: list[str] = field(default_factory=list)
    sequence_length: int | None = None  # the largest number of tokens per row; None: the model's context length

    @classmethod
    def of(cls, section: DataSection) -> "CardData":
        """Return the CardData for the data section of a recipe."""
        sources = [*section.train, *(section.pretraining or [])]
        names = list(dict.fromkeys(map(source_name, sources)))
        sets = section.validation if isinstance(section.validation, list) else []
        validation = dict(zip(set_names(sets), map(source_name, sets), strict=True)) if len(sets) > 1 else {}
        together = ", ".join(dict.fromkeys(map(source_name, sets))) or f"{', '.join(names)} (held out)"
        languages = [section.language] if isinstance(section.language, str) else list(section.language or [])
        hub = [source.hub for source in sources if source.hub and is_repository(source.hub)]
        return cls(names, hub, {"": together, **validation}, languages, section.sequence_length)


def source_name(source: SourceSection) -> str:
    """Return the name of a data source as the card states it, such as `org/name` for a data set of the Hub, or the last part of a path."""
    if source.stdlib:
        return "Python's standard library" + ("" if source.stdlib is True else f", {source.stdlib.replace('_', ' ')}")
    if source.hub:
        return source.hub if is_repository(source.hub) else last_name(source.hub)
    return last_name(source.path or "")


def is_repository(name: str) -> bool:
    """Return whether a data set is a repository of the Hub: its name has the form `org/name`, and no local file or folder has this name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not Path(name).exists()


def hub_name(path: str) -> str | None:
    """Return the `org/name` of a model on the Hub or in the Hub's cache; None for any other folder."""
    if path.startswith("hub:"):
        return path[4:].partition("@")[0]
    parts = _parts(path)
    if parts[-2:-1] == ["snapshots"] and len(parts) > 2 and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/", 1)
    return None


def last_name(path: str) -> str:
    """Return the name of a model or of data, without the folders above it: for a checkpoint the name of its run, for the Hub `org/name`."""
    if (name := hub_name(path)) is not None:
        return name
    parts = _parts(path)
    if parts[-2:-1] == ["checkpoints"] and parts[-1].startswith("step-") and len(parts) > 2:
        return parts[-3]
    return parts[-1] if parts else path


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]


@dataclass(frozen=True)
class BaseCard:
    """The licence, languages, emissions and base model that the card of a base model states."""

    license: str = ""
    languages: tuple[str, ...] = ()
    emissions_g: float | None = None  # `co2_eq_emissions`, read as grams, as the Hub does, whatever unit the author meant
    base: str = ""  # the model from which the base model was made; "?": fine-tuned from an unnamed one; "": no such model

    @classmethod
    def read(cls, folder: Path) -> "BaseCard":
        """Read the front matter of README.md in `folder`; missing, unusual and unreadable values count as unknown."""
        try:
            path = find_file(folder, "README.md")
            text = "" if path is None else read_text(path, MIB)
        except ModelError:
            return cls()
        front = re.match(r"---[ \t]*\r?\n(.*?\n)---\s*\n", text.replace("\r\n", "\n"), re.DOTALL)
        if front is None:
            return cls()
        license = re.search(r"^license:[ \t]*[\"']?([A-Za-z0-9][\w.+-]*)[\"']?[ \t]*$", front[1], re.MULTILINE)
        is_known = license is not None and license[1].lower() not in ("other", "unknown")
        languages = re.search(r"^language:((?:[ \t]*\S[^\n]*)?\n(?:[ \t]*- [^\n]*\n)*)", front[1], re.MULTILINE)
        codes = re.findall(rf"(?<![\w-]){_LANGUAGE}(?![\w-])", languages[1]) if languages else []
        block = _block(front[1], "co2_eq_emissions")
        tuned = re.search(r"\btraining_type:[ \t]*[\"']?fine-tuning\b", block) is not None
        base = re.search(r"[\w.~/-]+", _block(front[1], "base_model").replace("- ", " "))
        name = base[0] if base else "?" if tuned else ""
        return cls(license[1] if license and is_known else "", tuple(codes), _grams(block), name)


def _block(front: str, key: str) -> str:
    """Return the value of a key of the front matter: the text after the key on its line, and the indented lines below it."""
    match = re.search(rf"^{key}:([^\n]*\n(?:(?:[ \t]+|-[ \t])[^\n]*\n)*)", front, re.MULTILINE)
    return match[1] if match else ""


def _grams(block: str) -> float | None:
    """Return the grams that the Hub reads in the value of `co2_eq_emissions`: its first number or, if it is a mapping, that of `emissions`.

    Unlike the Hub, this function also reads exponents. None if there is no number, or if the number is not between 0 and 1e18.
    """
    if re.match(r"[ \t]*(?:#[^\n]*)?\n|[ \t]*\{", block):  # a mapping
        inner = re.search(r"(?:^|[{,\s])[\"']?emissions[\"']?:([^\n,}]*)", block)
        block = inner[1] if inner else ""
    match = re.search(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", block.partition("#")[0])
    grams = float(match[0]) if match else 0.0
    return grams if 0 < grams < 1e18 else None
