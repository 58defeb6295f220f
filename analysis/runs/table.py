"""Reading anyone's table from a file: CSV of any separator, JSON lines, Parquet; lines that are comments or settings.

The index of a table is what its rows are called in messages: lines of a text file, where the first line is 1.
"""

import csv
import io
import json
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lab.check import InputError, require

_SEPARATORS = ",;\t"
_JSON = (".jsonl", ".ndjson", ".json")


def read_text(path: Path, *, text: bool = False) -> pd.DataFrame:
    """A CSV file separated by commas, semicolons or tabs, or JSON lines, by its suffix or its first character.

    Lines that begin with # are comments, but for one that is the header of numbers below it (numpy.savetxt);
    spreadsheets' `sep=;` names the separator.  With `text` every cell of a CSV is what stands in the file, '' where
    that is nothing.

    Raises:
        InputError: the file is empty, no text, no table, or has two columns of one name that differ.
    """
    lines = _lines(path)
    first = next((line.lstrip() for line in lines if line.strip()), "")
    require(bool(first), f"{path} is empty: give a table with a header and one row per run")
    if path.suffix.lower() in _JSON or first.startswith(("{", "[")):
        return _read_json(path, lines, text)
    return _read_csv(path, lines, text)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file.

    Raises:
        InputError: pyarrow is not installed, or the file is none.
    """
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow: pip install 'lr-scaling-lab[parquet]', or convert it to CSV"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a Parquet file ({' '.join(str(error).split())[:120]})") from None


def blank(path: Path, column: str) -> pd.Series:
    """Which rows of a text file have nothing in a column: a parsed table has nan both there and where `nan` stands."""
    try:
        cells = read_text(path, text=True)[column]
    except KeyError:
        return pd.Series(dtype=bool)
    return pd.Series([nothing(value) for value in cells], index=cells.index)


def unlike(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with one of each group of columns of one name, where they hold the same.

    Raises:
        InputError: two columns of one name differ.
    """
    names = [str(name) for name in table.columns]
    for name, count in Counter(names).items():
        if count > 1:
            same = [table.iloc[:, place] for place, other in enumerate(names) if other == name]
            require(
                all(same[0].equals(other) for other in same[1:]),
                f"{where} has two columns of one name, {name!r}, that differ: rename one of them",
            )
    return table.loc[:, ~pd.Index(names).duplicated()]


def nothing(value: Any) -> bool:
    """Whether a cell is empty."""
    return value is None or value is pd.NA or (isinstance(value, str) and not value.strip())


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        found = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8{_encoding(path, data, error)}") from None
    return found.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _encoding(path: Path, data: bytes, error: UnicodeDecodeError) -> str:
    """What a file in another encoding has that UTF-8 has not, and how to convert it."""
    if b"\x00" in data:
        return ": give a CSV or a .parquet file"
    place, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
    quoted, other = (shlex.quote(str(one)) for one in (path, path.with_name(f"utf8_{path.name}")))
    return f" (line {place}, byte 0x{byte:02x}): convert it, as in iconv -f windows-1252 -t utf-8 {quoted} > {other}"


def _read_csv(path: Path, lines: list[str], text: bool) -> pd.DataFrame:
    start, separator = _header(lines)
    require(start < len(lines), f"{path} holds no rows: give a table with a header and one row per run")
    head = lines[start].lstrip("#").strip() if lines[start].startswith("#") else lines[start]
    separator = separator or max(_SEPARATORS, key=head.count)
    body = ["" if line.startswith("#") else line for line in lines[start + 1 :]]
    names = next(csv.reader([head], delimiter=separator), [])
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False} if text else {}
    if _decimal_commas(separator, body):
        options["decimal"] = ","
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.StringIO("\n".join([head, *body])),
                sep=separator,
                skip_blank_lines=False,
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
                **options,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a CSV table ({reason}): give one row per run, as long as the header") from None
    require(table.shape[1] > 1, f"{path} is not a CSV table: it has one column, {table.columns[0]!r}")
    if len(names) == table.shape[1]:
        # pandas calls a second `loss` `loss.1`.
        stripped = [name.strip() or str(known) for name, known in zip(names, table.columns, strict=True)]
        table = unlike(table.set_axis(stripped, axis=1), str(path))
    table.index = table.index + start + 2
    return table if text else table.dropna(how="all")


def _header(lines: list[str]) -> tuple[int, str]:
    """(place of the header, the separator that a line `sep=;` names or '')."""
    separator, comment = "", -1
    for place, line in enumerate(lines):
        told = re.fullmatch(r'"?sep=(.|\\t)"?', line.strip(), re.IGNORECASE)
        if told:
            separator = "\t" if told[1] == "\\t" else told[1]
        elif line.startswith("#"):
            comment = place
        elif line.strip():
            named = comment >= 0 and _is_header(lines[comment], line, separator)
            return (comment if named else place), separator
    return (comment if comment >= 0 else len(lines)), separator


def _is_header(comment: str, line: str, separator: str) -> bool:
    """Whether a comment names the columns of the numbers below it."""
    by = separator or max(_SEPARATORS, key=line.count)
    names, cells = comment.lstrip("#").split(by), line.split(by)
    return 1 < len(names) == len(cells) and any(map(_number, cells)) and not any(map(_number, names))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _decimal_commas(separator: str, lines: list[str]) -> bool:
    """Whether numbers are written 0,001, as spreadsheets of half the world do beside semicolons."""
    cells = [cell.strip() for line in lines[:50] for cell in line.split(separator)] if separator in ";\t" else []
    commas = sum(re.fullmatch(r"-?\d+,\d+(e[+-]?\d+)?", cell, re.IGNORECASE) is not None for cell in cells)
    points = sum(re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?", cell, re.IGNORECASE) is not None for cell in cells)
    return commas > 0 and points == 0


def _read_json(path: Path, lines: list[str], text: bool) -> pd.DataFrame:
    """JSON lines, or one JSON list of objects; nested objects under dotted names."""
    places: list[int] = []
    rows: list[Any] = []
    whole = _whole("\n".join(lines))
    if whole is not None:
        rows, places = whole, list(range(1, len(whole) + 1))
    else:
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                told = f"line {place}: {str(error)[:80]}"
                raise InputError(
                    f"{path} is not a CSV table, and no JSON lines ({told}): one object per line"
                ) from None
            places.append(place)
    wrong = next((place for place, one in zip(places, rows, strict=True) if not isinstance(one, dict)), None)
    require(wrong is None and bool(rows), f"{path}, line {wrong}: no JSON object: give one object per run and line")
    flat = [_flat(one) for one in rows]
    names = dict.fromkeys(name for one in flat for name in one)
    columns = {name: [one.get(name) for one in flat] for name in names}
    return pd.DataFrame(columns, index=places, dtype=object if text else None)


def _whole(text: str) -> list[Any] | None:
    """A file that is one JSON list, or one object of equally long lists."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and found and all(isinstance(one, list) for one in found.values()):
        if len({len(one) for one in found.values()}) == 1:
            return [dict(zip(found, one, strict=True)) for one in zip(*found.values(), strict=True)]
        return None
    return found if isinstance(found, list) else None


def _flat(one: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in one.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return found
