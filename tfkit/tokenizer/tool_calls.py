"""Tools and calls of them in one form: that of OpenAI's API and of Hugging Face's chat templates.

A tool is {"type": "function", "function": {"name", "description", "parameters": a JSON Schema}}; a call, in `tool_calls` of a message of
the assistant, {"type": "function", "function": {"name", "arguments": an object}}. Data sets have both also as texts of JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from tfkit.tokenizer.chat_formats import UnfitError


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Return the tools of a conversation: a list of them, or a text of JSON that is one. Raise UnfitError."""
    found = _parsed(value)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise UnfitError("tools that are none", "tools are a list of JSON Schemas of functions, or the text of one")
    return [_function(one, "a tool") for one in found]


def read_calls(value: Any) -> list[dict[str, Any]]:
    """Return the calls of a message: a list of them, one alone, or a text of JSON that is either. Raise UnfitError."""
    found = _parsed(value)
    calls = [found] if isinstance(found, Mapping) else found
    if not isinstance(calls, list) or not all(isinstance(one, Mapping) for one in calls):
        raise UnfitError("tool calls that are none", "tool_calls are a list of {function: {name, arguments}}, or the text of one")
    return [_call(one) for one in calls]


def message_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of a message; none where it has none. Raise UnfitError."""
    value = message.get("tool_calls")
    return read_calls(value) if value else []


def with_plain_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose calls are objects, and which has a content also where it is calls alone. Raise UnfitError."""
    calls = message_calls(message)
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": message.get("content") or "", "tool_calls": calls} if calls else rest


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    whole = _function(call, "a tool call")
    arguments = _parsed(whole["function"].get("arguments") or {})
    if not isinstance(arguments, Mapping):
        raise UnfitError("a tool call without arguments", f"the arguments of a call of {whole['function']['name']} are no JSON object")
    whole["function"] = {**whole["function"], "arguments": dict(arguments)}
    return whole


def _function(one: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return {"type": "function", "function": ...}, which data sets also have without its frame."""
    whole = dict(one) if "function" in one else {"function": dict(one)}
    if not isinstance(whole["function"], Mapping) or not isinstance(whole["function"].get("name"), str):
        raise UnfitError(f"{what} without a name", f"{what} is {{function: {{name, ...}}}}, and one here has no name")
    return {"type": "function", **whole}


def _parsed(value: Any) -> Any:
    """Return what a text of JSON says; anything else, and a text that is no JSON, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
