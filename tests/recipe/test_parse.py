import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.errors import UsageError
from tfkit.recipe import read_recipe
from tfkit.recipe.reading.parse import parse, read_scalar
from tfkit.recipe.reading.problems import RecipeError
from tfkit.recipe.reading.tree import plain


def data(text: str) -> object:
    tree, problems = parse(text, "f.yaml")
    assert not problems
    return plain(tree)


def message(text: str) -> str:
    """The message for a text that cannot be read, or that can but must not."""
    try:
        _, problems = parse(text, "f.yaml")
    except RecipeError as error:
        return str(error)
    assert problems
    return "\n".join(map(str, problems))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("3e8", 3e8),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0xff", 255),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2001-01-01", "2001-01-01"),
        ("1e", "1e"),
        ("٣", "٣"),  # a digit, but not one of YAML's
        ("<<", "<<"),
        ("-.inf", -math.inf),
        (".INF", math.inf),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written: str, value: object) -> None:
    read = read_scalar(written)
    assert read == value
    assert type(read) is type(value)
    if written:
        assert data(f"a: {written}") == {"a": value}


def test_nan_is_a_number_and_quotes_make_text() -> None:
    nan = read_scalar(".NaN")
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert data("a: '1'\nb: \"true\"\nc: |\n  \t1\n") == {"a": "1", "b": "true", "c": "\t1\n"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: given twice, first at f.yaml:1:1; remove one"),
        ("s: {a: 1, a: 2}\n", "f.yaml:1:11: s.a: given twice, first at f.yaml:1:5; remove one"),
        ("a: [x, !foo {}]\n", "f.yaml:1:8: a.1: the tag !foo"),
        ("a: b: c\n", "f.yaml:1:5: not YAML: mapping values are not allowed here"),
        ('a: "\\UFFFFFFFF"\n', "not YAML"),
    ],
)
def test_what_is_not_a_recipe_is_refused_at_its_place(text: str, expected: str) -> None:
    """Hostile files are in tests/attacks/recipes, with their messages in tests/faults/test_hostile_recipes.py."""
    assert expected in message(text)


def test_an_alias_is_a_value_of_its_own() -> None:
    tree, _ = parse("a: &x {b: 1}\nc: *x\n", "f.yaml")
    assert plain(tree) == {"a": {"b": 1}, "c": {"b": 1}}
    assert tree.values["a"] is not tree.values["c"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t1.?~<", max_size=30).map(str.encode))
def test_any_bytes_are_refused_as_a_recipe_and_nothing_else_happens(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whole random recipes and overrides are in tests/faults/test_hostile_recipes.py."""
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_recipe(str(path))
