"""Regular expressions of Python's `re`, matched within a time limit by the `regex` library, which reads some syntax differently."""

import re

import regex

SECONDS = 2.0  # of processor time, for one text; a common pattern takes microseconds
_WORD, _SPACE = r"\p{L}\p{Nt=De}\p{Nt=Di}\p{Nt=Nu}_", r"\s\x1c-\x1f"  # what `re` takes for \w and \s
_SETS = {"w": _WORD, "s": _SPACE}
_COMPLEMENTS = {"W": f"[^{_WORD}]", "S": f"[^{_SPACE}]"}
_OUTSIDE_SETS = {letter: f"[{content}]" for letter, content in _SETS.items()} | _COMPLEMENTS
_OUTSIDE_SETS |= {
    "b": f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))",
    "B": rf"(?!\A\Z)(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))",
}
_PARTS = r"(?s)(?P<comment>\(\?#[^)]*\)%s)|\[(?P<negated>\^?)(?P<set>\]?(?:\\.|[^\]\\])*)\]|\\(?P<escaped>.)|\{(?!\d*,?\d*\})|\{\}"


def compile_limited(pattern: str) -> "regex.Pattern[str]":
    """Compile a pattern that is valid for `re`, with the same meaning. Its search needs `timeout=SECONDS`; raises regex.error."""
    flags = re.compile(pattern).flags
    if flags & re.ASCII:
        return regex.compile(_translated(pattern, flags, {}, {}, {}), regex.V0)
    return regex.compile(_translated(pattern, flags, _SETS, _COMPLEMENTS, _OUTSIDE_SETS), regex.V0)


def _translated(pattern: str, flags: int, sets: dict[str, str], complements: dict[str, str], outside: dict[str, str]) -> str:
    """Return the pattern in the syntax of `regex`, where `{e}` and `[[:alpha:]]` have a meaning of their own."""

    def part(match: re.Match[str]) -> str:
        if match["comment"] is not None:
            return match[0]
        if match["escaped"] is not None:
            return outside.get(match["escaped"], match[0])
        if match["set"] is None:
            return match[0].replace("{", r"\{")
        found: list[str] = []

        def member(inner: re.Match[str]) -> str:
            if inner[1] in complements:
                found.append(complements[inner[1]])
                return ""
            return sets.get(inner[1], inner[0]) if inner[1] else r"\["

        content = re.sub(r"(?s)\\(.)|\[", member, match["set"])
        if not found:
            return f"[{match['negated']}{content}]"
        either = "|".join([*([f"[\\{content}]" if content[0] in "^]" else f"[{content}]"] if content else []), *found])
        return f"(?:(?!{either})(?s:.))" if match["negated"] else f"(?:{either})"

    return re.sub(_PARTS % (r"|#[^\n]*" if flags & re.VERBOSE else ""), part, pattern)
