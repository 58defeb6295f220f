"""Options that several commands share: how a table of runs is read, and what a law is asked about."""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.check import nearest, require

if TYPE_CHECKING:
    from analysis.edges import Edges


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say how a table is read; `columns` and `where` read two of them."""
    parser.add_argument(
        "--columns",
        metavar="NAME=COLUMN,...",
        action="append",
        help="which column holds lr, batch, params, tokens, loss (or flops, steps, length); also a product, as in "
        "tokens=steps*batch*2048, log(COLUMN), 2**COLUMN, 10**COLUMN or exp(COLUMN)",
    )
    parser.add_argument("--batch-unit", metavar="UNIT", help="of the batch column: tokens, or sequences:2048")
    parser.add_argument(
        "--repeats",
        metavar="COLUMN,...",
        action="append",
        help="columns that only number repeats of a setting, as seeds do",
    )
    parser.add_argument("--as-is", action="store_true", help="take values that look like another unit as they are")
    add_where(parser)


def readings(options: argparse.Namespace) -> dict[str, Any]:
    """What `--repeats` and `--as-is` say, as `analysis.runs.source.load` takes it; nothing where they say nothing."""
    names = [name.strip() for text in options.repeats or () for name in text.split(",") if name.strip()]
    return ({"repeats": names} if names else {}) | ({"as_is": True} if options.as_is else {})


def add_where(parser: argparse.ArgumentParser) -> None:
    """The option that takes a part of the runs."""
    parser.add_argument("--where", metavar="NAME=VALUE", action="append", help="only runs of which this holds")


def add_edges(parser: argparse.ArgumentParser) -> None:
    """The option that says what becomes of optima at an edge of their grid."""
    from analysis.edges import DEFAULT

    parser.add_argument(
        "--edges",
        metavar="WAY",
        help="cells whose best rate is at an edge of their grid: drop (left out) or censor (entered as bounds); "
        f"default {DEFAULT}",
    )


def edges(text: str | None) -> "Edges | None":
    """The way that `--edges` names.

    Raises:
        InputError: none of them.
    """
    from analysis.edges import EDGES

    if text is None:
        return None
    ways: dict[str, Edges] = {way: way for way in EDGES}
    require(text in ways, f"--edges {text} is not one of {', '.join(ways)}{nearest(text, list(ways))}")
    return ways[text]


def columns(texts: str | Sequence[str] | None) -> dict[str, str] | None:
    """`lr=max_lr,batch=bsz`, in one option or several, as a mapping of our names to theirs.

    Raises:
        InputError: a part without =, an unknown name, or one given twice.
    """
    from analysis.runs.column import MAPPED

    if texts is None:
        return None
    found: dict[str, str] = {}
    # A column's name may have commas: the next part begins with one of our names.
    ends = r",(?=\s*[A-Za-z_]*\s*=|\s*[A-Za-z_]*\s*$)"
    for part in (part for text in ([texts] if isinstance(texts, str) else texts) for part in re.split(ends, text)):
        name, equals, column = (word.strip() for word in part.partition("="))
        require(
            bool(equals and column), f"--columns has the part {part!r}, which names no column: write it as in lr=max_lr"
        )
        require(name not in found, f"--columns names {name} twice: give it once")
        require(
            name in MAPPED,
            f"--columns {name} is not one of {', '.join(MAPPED)}: {name} is not a quantity{nearest(name, MAPPED)}",
        )
        found[name] = column
    return found


def where(texts: Sequence[str] | None) -> dict[str, Any] | None:
    """`NAME=VALUE` options as a mapping; values that are numbers become numbers.

    Raises:
        InputError: a part without =, or a name given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = (word.strip() for word in text.partition("="))
        require(bool(equals and name and value), f"--where {text} has no value: write it as in --where optimizer=adamw")
        require(name not in found, f"--where names {name} twice: give it once")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found or None


def add_inputs(parser: argparse.ArgumentParser, required: Sequence[str] = ()) -> None:
    """An option for every input that a law may ask for, published or fitted."""
    from analysis.literature.publication import INPUTS, option

    for name, meaning in INPUTS.items():
        words = ["--batch-tokens", "--batch"] if name == "batch" else [option(name)]
        parser.add_argument(*words, metavar="X", dest=name, type=_number, required=name in required, help=meaning)


def inputs(options: argparse.Namespace) -> dict[str, float | None]:
    """The values of `add_inputs`' options; None for those that are not given."""
    from analysis.literature.publication import INPUTS

    return {name: getattr(options, name) for name in INPUTS}


def _number(text: str) -> float:
    """A number as people write it: 7e9, 7000000000, 1_000."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number: write it as in 7e9") from None
