"""Regular expressions of Python's `re`, matched within a time limit by the `regex` library, which reads some syntax differently."""

import re
from functools import partial

import regex

SECONDS = 2.0  # the limit of processor time for one text; a common pattern takes microseconds
_WORD, _SPACE = r"\p{L}\p{Nt=De}\p{Nt=Di}\p{Nt=Nu}_", r"\s\x1c-\x1f"  # the characters that `re` matches with \w and \s
_SETS = {"w": _WORD, "s": _SPACE}
_COMPLEMENTS = {"W": f"[^{_WORD}]", "S": f"[^{_SPACE}]"}
_OUTSIDE_SETS = _COMPLEMENTS | {
    "w": f"[{_WORD}]",
    "s": f"[{_SPACE}]",
    "b": f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))",
    "B": rf"(?!\A\Z)(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))",
}
_PARTS = r"(?s)(?P<comment>\(\?#[^)]*\)%s)|\[(?P<negated>\^?)(?P<set>\]?(?:\\.|[^\]\\])*)\]|\\(?P<escaped>.)|\{(?!\d*,?\d*\})|\{\}"


def compile_limited(pattern: str) -> "regex.Pattern[str]":
    """Compile a pattern that is valid for `re`, with the same meaning. Its search needs `timeout=SECONDS`. Raises regex.error."""
    flags = re.compile(pattern).flags
    parts = _PARTS % (r"|#[^\n]*" if flags & re.VERBOSE else "")
    return regex.compile(re.sub(parts, partial(_translated, is_ascii=bool(flags & re.ASCII)), pattern), regex.V0)


def _translated(part: re.Match[str], is_ascii: bool) -> str:
    """Return a part of a pattern in the syntax of `regex`, where `{e}` and `[[:alpha:]]` have a meaning of their own."""
    if part["comment"] is not None:
        return part[0]
    if part["escaped"] is not None:
        return part[0] if is_ascii else _OUTSIDE_SETS.get(part["escaped"], part[0])
    if part["set"] is None:
        return part[0].replace("{", r"\{")
    content = re.sub(r"(?s)(\\.)|\[", lambda member: member[1] or r"\[", part["set"])
    if is_ascii:
        return f"[{part['negated']}{content}]"
    complements = [_COMPLEMENTS[letter] for letter in re.findall(r"(?s)\\(.)", content) if letter in _COMPLEMENTS]
    content = re.sub(r"(?s)\\(.)", lambda member: "" if member[1] in _COMPLEMENTS else _SETS.get(member[1], member[0]), content)
    if not complements:
        return f"[{part['negated']}{content}]"
    rest = [f"[\\{content}]" if content[0] in "^]" else f"[{content}]"] if content else []
    either = "|".join([*rest, *complements])  # a set may not hold the complement of a set
    return f"(?:(?!{either})(?s:.))" if part["negated"] else f"(?:{either})"
