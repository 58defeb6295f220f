"""Text that comes from outside: JSON that says one thing, and words that a terminal can be shown."""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

# Control characters, what turns the direction of a line, halves of characters, and ends of lines and paragraphs.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text (RFC 8259), in UTF-8 where it is bytes.

    Raises:
        ValueError: it is none, a key stands twice in one object, or a number is not finite.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(text: str) -> str:
    """`text` with what a terminal would act on, or could not print, written out: `\\x1b`, `\\u202e`."""
    return "".join(_escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text)


def plain(value: Any) -> Any:
    """JSON data with every text in it `shown`, keys included."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def _escaped(letter: str) -> str:
    if letter == "\n":
        return letter
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file's name that is no UTF-8 (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)!r} stands twice")
        found[key] = value
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a number")
    return value
