"""The document that commands write for an error under --json: {"error": {"code", "kind", "message", "place", "remedy"}}.

Messages are written for people, as "PLACE: what is wrong; what to do". Place and remedy are parsed from that form, and are null if a
message has none; the message is always complete.
"""

import re
from typing import Any

KINDS = {
    1: "bug",
    2: "usage",
    3: "data",
    4: "model",
    5: "environment",
    6: "unhealthy",
    7: "budget",
    8: "gate",
    9: "peer",
}  # by exit code; 128 and more: stopped
_STAGE = re.compile(r"stage [A-Za-z][\w-]*: ")  # of a recipe with stages; at the beginning
_LONGEST_PLACE = 300  # characters
_SPACED_PLACE = re.compile(r"(?:--|/|\./|\.\./|~|command line$|hub data set |(?:step|prompt) \d+$)|[^;,]*\.\w{1,8}(?::\d+){0,2}$")
_IMPERATIVES = (
    "add|average|check|choose|copy|continue|correct|delete|end|fetch|free|give|in the folder of tfkit, pip|leave|load|lower|make|"
    "mend|merge|name|put|raise|remove|rename|repair|replay|restore|resume|revert|run|save|set|shorten|split|start|stop|take|train|"
    "try|unpack|unset|use|wait|write"
)
_REMEDY = re.compile(rf"(?:^|(?<=[;.?:]) |\n)(?=(?:{_IMPERATIVES})\b)|\n(?=tfkit )", re.IGNORECASE)


def error_document(code: int, message: str) -> dict[str, Any]:
    """Return the document for an error message and its exit code."""
    place, _, rest = _STAGE.sub("", message, count=1).partition(": ")
    if not rest or code == 1 or len(place) > _LONGEST_PLACE or "\n" in place or (" " in place and not _SPACED_PLACE.match(place)):
        place, rest = "", message
    remedy = _REMEDY.search(rest)
    return {
        "error": {
            "code": code,
            "kind": KINDS.get(code, "stopped"),
            "message": message,
            "place": place or None,
            "remedy": rest[remedy.end() :].strip() if remedy else None,
        }
    }
