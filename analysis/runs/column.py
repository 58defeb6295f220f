"""Which column of anyone's table is what: canonical names, synonyms, and the unit of the batch.

Canonical names: `lr` peak learning rate, `batch`, `params` N, `tokens` D, `loss` nats per token, and `flops`, training
FLOPs C, from which D = C / (6 N) (Kaplan et al., arXiv 2001.08361) where a table does not tell D.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lab.check import InputError, nearest, require

CANONICAL = ("lr", "batch", "params", "tokens", "loss")
MAPPED = (*CANONICAL, "flops")

# Spelt without case, spaces and punctuation.
_SYNONYMS: dict[str, frozenset[str]] = {
    "lr": frozenset(
        "lr learningrate maxlr lrmax peaklr lrpeak baselr maxlearningrate peaklearningrate baselearningrate "
        "optimizerlr optimlr eta".split()
    ),
    "batch": frozenset(
        "bs bsz gbs gbsz batch batchsize globalbatch globalbatchsize trainbatchsize batchtokens tokensperbatch "
        "batchsizetokens batchsizeintokens tokensperstep tokensperupdate bstokens bsztokens gbstokens gbsztokens "
        "globalbatchsizetokens batchsequences batchsizesequences".split()
    ),
    "params": frozenset(
        "n params nparams numparams param parameters nparameters numparameters modelparams modelparameters modelsize "
        "nonembedding nonembeddingparams nonembeddingparameters nonembeddingparamsize paramsnonembedding "
        "nnonembedding".split()
    ),
    "tokens": frozenset(
        "d tokens ntokens numtokens datasize datasetsize traintokens trainingtokens totaltokens tokensseen".split()
    ),
    "loss": frozenset(
        "loss lmloss valloss validationloss evalloss testloss trainloss trainingloss smoothloss finalloss "
        "finalvalloss finaltrainloss validationlmloss".split()
    ),
    "flops": frozenset("c flop flops compute trainingflop trainingflops trainflops totalflops totalflop".split()),
}


@dataclass(frozen=True)
class BatchUnit:
    """Tokens per unit of the batch column: 1 for tokens, the sequence length for sequences."""

    length: int

    @property
    def sequences(self) -> bool:
        return self.length != 1


def parse_batch_unit(text: str) -> BatchUnit:
    """`tokens`, or `sequences:2048`: sequences of 2048 tokens.

    Raises:
        InputError: anything else.
    """
    word, _, length = text.strip().partition(":")
    if word == "tokens" and not length:
        return BatchUnit(1)
    known = word == "sequences" and re.fullmatch(r"[0-9]{1,9}", length.strip()) is not None and int(length) > 1
    require(known, f"batch unit {text!r} is neither tokens nor sequences:LENGTH, as in sequences:2048")
    return BatchUnit(int(length))


def find_columns(
    table: pd.DataFrame, given: Mapping[str, str] | None, require_these: Sequence[str], where: str
) -> tuple[dict[str, str], list[str]]:
    """({canonical name: the table's column}, notes on what was guessed) of a table called `where` in messages.

    A column is taken when it is named in `given`, or when it alone matches a canonical name's synonyms in whatever
    case and punctuation; of several, when they hold the same values.

    Raises:
        InputError: a name in `given` that is not canonical or not in the table; a needed column that is missing, or
            that several columns could be; one column for two purposes.
    """
    found = _given(table, given or {}, where)
    notes = []
    for name in MAPPED:
        if name in found or (name == "flops" and "tokens" in found):
            continue
        needed = name in require_these
        column = _guess(table, name, set(found.values()), needed, where)
        if column is not None:
            found[name] = column
            if column != name:
                notes.append(f"{name} is taken from the column {column!r}")
    for name in require_these:
        derived = name == "tokens" and "flops" in found and "params" in found
        if name not in found and not derived:
            raise InputError(_missing(table, name, found, where))
    return found, notes


def names_tokens(column: str) -> bool:
    """Whether a batch column says by its name that it counts tokens."""
    return "token" in _plain(column)


def _given(table: pd.DataFrame, given: Mapping[str, str], where: str) -> dict[str, str]:
    columns = [str(column) for column in table.columns]
    for name, column in given.items():
        require(
            name in MAPPED,
            f"{name}={column}: {name} is not one of {', '.join(MAPPED)}{nearest(name, MAPPED)}",
        )
        require(
            column in columns,
            f"{where} has no column {column!r}{nearest(column, columns)}: it has {_listed(columns)}",
        )
        twice = [other for other in given if other != name and given[other] == column]
        require(not twice, f"the column {column!r} is named for both {name} and {', '.join(twice)}: name one for each")
    return dict(given)


def _guess(table: pd.DataFrame, name: str, taken: set[str], needed: bool, where: str) -> str | None:
    """The one column that may be `name`; None where there is none, or several and no need for one."""
    candidates = [
        str(column) for column in table.columns if _plain(str(column)) in _SYNONYMS[name] and str(column) not in taken
    ]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    first = table[candidates[0]]
    if all(first.equals(table[other]) for other in candidates[1:]):
        return candidates[0]
    # An optional batch is no less ambiguous: leaving it out would mix batches in one curve.
    require(
        not needed and name != "batch",
        f"{where}: {name} may be {' or '.join(map(repr, candidates))}: say which, as in "
        f"--columns {name}={_quoted(candidates[-1])}",
    )
    return None


def _missing(table: pd.DataFrame, name: str, found: Mapping[str, str], where: str) -> str:
    left = [str(column) for column in table.columns if str(column) not in found.values()]
    words = _SYNONYMS[name] | {name}
    close = [column for column in left if nearest(_plain(column), words) or name in _plain(column)]
    hint = f" (is it {' or '.join(map(repr, close[:3]))}?)" if close else ""
    example = _quoted((close or ["COLUMN"])[0])
    return f"{where} has no column for {name}{hint}: name it, as in --columns {name}={example}; it has {_listed(left)}"


def _plain(column: str) -> str:
    """A column's name without case, spaces and punctuation; of `a/b` and `a.b` nothing is cut off."""
    return re.sub(r"[^a-z0-9]", "", column.lower()) if "/" not in column else column.lower()


def _quoted(column: str) -> str:
    return f"'{column}'" if re.search(r"\s", column) else column


def _listed(columns: Iterable[str], most: int = 12) -> str:
    columns = list(columns)
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return (", ".join(columns[:most]) or "no other columns") + more
