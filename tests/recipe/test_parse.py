import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfkit.errors import UsageError
from tfkit.recipe import read_recipe
from tfkit.recipe.reading.parse import parse, read_scalar
from tfkit.recipe.reading.tree import plain


def data(text: str) -> object:
    tree, problems = parse(text, "f.yaml")
    assert not problems
    return plain(tree)


def test_scalars_follow_the_core_schema_of_yaml_1_2() -> None:
    numbers = {"1e-4": 1e-4, "1E4": 1e4, "3e8": 3e8, ".5": 0.5, "-1.": -1.0, "+7": 7, "010": 10, "0o17": 15, "0xff": 255}
    others = {"True": True, "false": False, "~": None, "null": None, "": None, "-.inf": -math.inf, ".INF": math.inf}
    texts = ("no", "yes", "off", "y", "1_000", "12:30", "2001-01-01", "1e", "٣", "<<")  # "٣": a digit, but not one of YAML's
    for written, value in (numbers | others | dict(zip(texts, texts, strict=True))).items():
        read = read_scalar(written)
        assert (read, type(read)) == (value, type(value)), written
        assert not written or data(f"a: {written}") == {"a": value}


def test_nan_is_a_number_quotes_make_text_and_an_alias_is_a_value_of_its_own() -> None:
    nan = read_scalar(".NaN")
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert data("a: '1'\nb: \"true\"\nc: |\n  \t1\n") == {"a": "1", "b": "true", "c": "\t1\n"}
    tree, _ = parse("a: &x {b: 1}\nc: *x\n", "f.yaml")
    assert plain(tree) == {"a": {"b": 1}, "c": {"b": 1}}
    assert tree.values["a"] is not tree.values["c"]


@settings(max_examples=150, deadline=None)
@example(b'a: "\\UFFFFFFFF"\n')
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t1.?~<", max_size=30).map(str.encode))
def test_any_bytes_are_refused_as_a_recipe_and_nothing_else_happens(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Hostile files, whole random recipes and overrides are in tests/faults/test_hostile_recipes.py."""
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_recipe(str(path))
