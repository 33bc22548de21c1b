"""Tools and tool calls, normalized to the form of Hugging Face's chat templates: that of OpenAI's API, but with arguments as an object.

A tool is {"type": "function", "function": {"name", "description", "parameters": a JSON Schema}}. A call, an item of `tool_calls` of an
assistant's message, is {"type": "function", "function": {"name", "arguments": an object}}. Data sets may have tools and calls as JSON text.
"""

import json
from collections.abc import Mapping
from typing import Any

from tfkit.tokenizer.chat_formats import UnfitError


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Return the tools of a conversation as JSON values. `value`: a list, or its JSON text; raises UnfitError for anything else."""
    tools = _parse(value)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnfitError("tools that are none", "tools are a list of JSON Schemas of functions, or the text of one")
    return [_normalize(tool, "a tool") for tool in tools]


def read_calls(value: Any) -> list[dict[str, Any]]:
    """Return the calls of a message. `value`: a list of calls, a single call, or the JSON text of either; otherwise raises UnfitError."""
    parsed = _parse(value)
    calls = [parsed] if isinstance(parsed, Mapping) else parsed
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise UnfitError("tool calls that are none", "tool_calls are a list of {function: {name, arguments}}, or the text of one")
    return [_normalize_call(call) for call in calls]


def message_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of a message; empty if it has none. Raises UnfitError for malformed calls."""
    value = message.get("tool_calls")
    return read_calls(value) if value else []


def with_plain_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message with normalized calls, and with empty content if it has only calls. Raises UnfitError for malformed calls."""
    calls = message_calls(message)
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": message.get("content") or "", "tool_calls": calls} if calls else rest


def _normalize_call(call: Mapping[str, Any]) -> dict[str, Any]:
    normalized = _normalize(call, "a tool call")
    function = normalized["function"]
    arguments = _parse(function.get("arguments") or {})
    if not isinstance(arguments, Mapping):
        raise UnfitError("a tool call without arguments", f"the arguments of a call of {function['name']} are no JSON object")
    return {**normalized, "function": {**function, "arguments": dict(arguments)}}


def _normalize(item: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `item` (a tool, a call, or the function of either) as {"type": "function", "function": ...} with JSON values. `what`: "a tool"
    or "a tool call", for error messages.
    """
    outer = dict(item) if "function" in item else {"function": dict(item)}
    if not isinstance(outer["function"], Mapping) or not isinstance(outer["function"].get("name"), str):
        raise UnfitError(f"{what} without a name", f"{what} is {{function: {{name, ...}}}}, and one of them has no name")
    # Rows of Parquet may have values that JSON lacks, such as dates; these become text.
    plain: dict[str, Any] = json.loads(json.dumps({"type": "function", **outer, "function": dict(outer["function"])}, default=str))
    return plain


def _parse(value: Any) -> Any:
    """Return the value of a JSON text. Any other value, and a text that is not JSON, is returned unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
