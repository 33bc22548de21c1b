"""One walk over the schema of recipes, from which tests take every field, so that a new one is tested without being listed."""

from collections.abc import Iterator

from pydantic import BaseModel

from tfkit.model.config import ModelConfig
from tfkit.recipe.reading.validate import section_types, tags
from tfkit.recipe.schema.sections import ModelSection


def inner_sections(record: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """Return the sections that a field may hold; several: it is a union."""
    return list(dict.fromkeys(section_types(record.model_fields[name].annotation)))


def walk(record: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield the path, the section and the name of each field, those that hold sections included; in a union as `model.norm[rms].eps`."""
    for name in record.model_fields:
        inner = inner_sections(record, name)
        yield f"{prefix}{name}", record, name
        for section in inner:
            yield from walk(section, f"{prefix}{name}{f'[{tags(section)[0]}]' if len(inner) > 1 else ''}.")
    if record is ModelSection:
        yield from walk(ModelConfig, prefix)
