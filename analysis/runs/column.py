"""Which column of anyone's table is what: canonical names, synonyms, and the unit of the batch.

Canonical names: `lr` peak learning rate, `batch`, `params` N, `tokens` D, `loss` nats per token; and where a table does
not tell D, `steps`, updates S, and `length`, tokens per sequence, from which D = S x batch x length, or `flops`,
training FLOPs C, from which D = C / (6 N) (Kaplan et al., arXiv 2001.08361).

Names are those of papers, of W&B, of the Trainer of transformers (`max_steps`, `eval/loss`), of Levanter and Marin
(`optimizer.learning_rate`, `trainer.num_train_steps`, `throughput/total_tokens`) and of nanochat
(`total_batch_size`, `num_iterations`, `tokens_trained`).
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.runs import formula
from lab.check import InputError, nearest, require

CANONICAL = ("lr", "batch", "params", "tokens", "loss")
MAPPED = (*CANONICAL, "flops", "steps", "length")

# Spelt without case, spaces and punctuation.
_SYNONYMS: dict[str, frozenset[str]] = {
    "lr": frozenset(
        "lr learningrate maxlr lrmax peaklr lrpeak baselr maxlearningrate peaklearningrate baselearningrate "
        "optimizerlr optimlr eta learningratemax peaklrate matrixlr".split()
    ),
    "batch": frozenset(
        "bs bsz gbs gbsz batch batchsize globalbatch globalbatchsize trainbatchsize batchtokens "
        "tokensperbatch batchsizetokens batchsizeintokens tokensperstep tokensperupdate bstokens bsztokens "
        "gbstokens gbsztokens globalbatchsizetokens batchsequences batchsizesequences totalbatchsize "
        "trainglobalbatchsize effectivebatchsize effectivebatch totaltrainbatchsize globaltrainbatchsize".split()
    ),
    "params": frozenset(
        "n params nparams numparams param parameters nparameters numparameters modelparams modelparameters "
        "modelsize nonembedding nonembeddingparams nonembeddingparameters nonembeddingparamsize "
        "paramsnonembedding nnonembedding parametercount paramcount numberofparameters numscalingparams "
        "totalparams paramstotal totalparameters numtrainableparams trainableparams trainableparameters "
        "modelnumparameters nonembeddingparametercount paramstransformer".split()
    ),
    "tokens": frozenset(
        "d tokens ntokens numtokens datasize datasetsize traintokens trainingtokens totaltokens tokensseen "
        "tokenstrained numtraintokens numtokensseen numinputtokensseen trainnuminputtokensseen tokencount "
        "tokenbudget tokenstotal consumedtokens traintokenstotal seentokens".split()
    ),
    "loss": frozenset(
        "loss lmloss valloss validationloss evalloss testloss trainloss trainingloss smoothloss finalloss "
        "finalvalloss finaltrainloss validationlmloss finalevalloss evallmloss lossval lossvalidation "
        "losseval losstrain evallossmean validloss validationlossmean devloss heldoutloss minvalloss "
        "bestvalloss finalvalidationloss crossentropy valcrossentropy evalcrossentropy nll".split()
    ),
    "flops": frozenset(
        "c flop flops compute trainingflop trainingflops trainflops totalflops totalflop totalflos "
        "traintotalflos flopsbudget totaltrainingflops computebudget".split()
    ),
    "steps": frozenset(
        "steps maxsteps numsteps totalsteps trainsteps trainingsteps numtrainsteps numtrainingsteps "
        "numiterations iterations iters maxiters trainiters numiters nsteps updates numupdates optimizersteps "
        "maxtrainsteps totaliterations".split()
    ),
    "length": frozenset(
        "length seqlen sequencelength seqlength maxlength maxseqlen maxseqlength maxsequencelength blocksize "
        "contextlength contextsize contextlen ctxlen ctx nctx trainseqlen trainlength".split()
    ),
}
# Parts in front of a name that say where a tracker keeps it, and not what it is.
_FOLDERS = frozenset(
    "config cfg args hparams hyperparameters hyperparams summary trainer optimizer optim model data throughput "
    "trainconfig training trainingargs run scaling".split()
)
_HELD_OUT = re.compile(r"val|eval|test|dev|held", re.IGNORECASE)
# Values between which a column may be what it is asked for.
_PLAUSIBLE = {
    "lr": (1e-8, 10.0),
    "batch": (1.0, 1e9),
    "params": (1e3, 1e14),
    "tokens": (1e3, 1e16),
    "loss": (1e-3, 30.0),
    "flops": (1e6, 1e30),
    "steps": (1.0, 1e8),
    "length": (8.0, 1e7),
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
        taken = {origin for origin in found.values() if origin in table.columns}
        column = _guess(table, name, taken, needed, where)
        if column is None and name == "loss" and needed and len(bits := _bits(table)) == 1:
            column = bits[0]
            notes.append("losses are bits per byte, not nats per token: so are E, A, B and what a prediction tells")
        if column is None:
            continue
        found[name] = column
        if column != name:
            notes.append(f"{name} is taken from the column {column!r}")
        elif name in CANONICAL and (others := _others(table, name, taken)):
            notes.append(f"{name} is the column of that name, not {' or '.join(map(repr, others[:3]))}")
    for name in require_these:
        derived = name == "tokens" and ("flops" in found and "params" in found or {"steps", "batch"} <= set(found))
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
        for part in formula.columns(column, columns):
            require(
                part in columns,
                f"{where} has no column {part!r}{nearest(part, columns)}: it has {_listed(columns)}",
            )
        twice = [other for other in given if other != name and given[other] == column]
        require(not twice, f"the column {column!r} is named for both {name} and {', '.join(twice)}: name one for each")
    return dict(given)


def _guess(table: pd.DataFrame, name: str, taken: set[str], needed: bool, where: str) -> str | None:
    """The one column that may be `name`; None where there is none, or several and no need for one."""
    if name in map(str, table.columns) and name not in taken:
        return name
    candidates = _others(table, name, taken)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    first = table[candidates[0]]
    if all(first.equals(table[other]) for other in candidates[1:]):
        return candidates[0]
    # An optional batch is no less ambiguous: leaving it out would mix batches in one curve.
    likely = next((other for other in candidates if name != "loss" or _HELD_OUT.search(other)), candidates[0])
    require(
        not needed and name != "batch",
        f"{where}: {name} may be {' or '.join(map(repr, candidates))}: say which, as in {said(name, likely)}",
    )
    return None


def _others(table: pd.DataFrame, name: str, taken: set[str]) -> list[str]:
    """The columns besides the one called `name` that its synonyms match, with numbers that could be it."""
    columns = [str(column) for column in table.columns if str(column) != name and str(column) not in taken]
    return [
        column
        for column in columns
        if _matches(column, name) and (name not in ("steps", "length") or _may_be(table[column], name))
    ]


def _bits(table: pd.DataFrame) -> list[str]:
    """Columns of bits per byte, as nanochat (`val_bpb`) and Marin (`eval/paloma/c4_en/bpb`) tell a loss."""
    ends = r"(^|[_./ ])(bpb|bits[ _]per[ _]byte)$"
    return [column for column in map(str, table.columns) if re.search(ends, column.lower())]


def _matches(column: str, name: str) -> bool:
    """Whether a column's name is one of a quantity's, with or without the folders that a tracker puts before it."""
    parts = re.split(r"[./]", column)
    while True:
        if _plain("".join(parts)) in _SYNONYMS[name]:
            return True
        if len(parts) < 2 or _plain(parts[0]) not in _FOLDERS:
            return False
        parts = parts[1:]


def said(name: str, column: str) -> str:
    """The option that names a column, as a shell takes it."""
    return f"--columns {shlex.quote(f'{name}={column}')}"


def _may_be(values: pd.Series, name: str) -> bool:
    """Whether a column holds numbers that could be a quantity."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    numbers = values.dropna().to_numpy(float)
    low, high = _PLAUSIBLE[name]
    return len(numbers) > 0 and bool(((numbers >= low) & (numbers <= high)).all())


def _missing(table: pd.DataFrame, name: str, found: Mapping[str, str], where: str) -> str:
    left = [str(column) for column in table.columns if str(column) not in found.values()]
    words = _SYNONYMS[name] | {name}
    plexed = [column for column in left if name == "loss" and re.search(r"ppl|perplexity", column, re.IGNORECASE)]
    bits = _bits(table) if name == "loss" else []
    close = bits or [
        column
        for column in left
        if column not in plexed
        and _may_be(table[column], name)
        and (nearest(_plain(column), words) or name in _plain(column))
    ]
    hint = f" (is it {' or '.join(map(repr, close[:3]))}?)" if close else ""
    example = said(name, close[0]) if close else f"--columns {name}=COLUMN"
    product = " or a product, as in --columns 'tokens=STEPS*BATCH*2048'" if name == "tokens" and not close else ""
    if not close and (undone := _logarithm(left, name)):
        return f"{where} has no column for {name}; of a logarithm take the power, {said(name, undone)}"
    if plexed and not close:
        return (
            f"{where} has no column for loss; of a perplexity take the logarithm, {said('loss', f'log({plexed[0]})')}"
        )
    return f"{where} has no column for {name}{hint}: name it, as in {example}{product}; it has {_listed(left)}"


def _logarithm(columns: Sequence[str], name: str) -> str | None:
    """What undoes the first column that is by its name the logarithm of a quantity, as in 2**log2_lr."""
    for column in columns:
        found = re.fullmatch(r"(log2|log10|log|ln)(.+)", _plain(column))
        if found and found[2] in _SYNONYMS[name] | {name}:
            base = found[1].removeprefix("log")
            return f"{base}**{column}" if base in ("2", "10") else f"exp({column})"
    return None


def _plain(column: str) -> str:
    """A column's name without case, spaces and punctuation."""
    return re.sub(r"[^a-z0-9]", "", column.lower().replace("\u03b7", "eta"))


def _listed(columns: Iterable[str], most: int = 12) -> str:
    columns = list(columns)
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return (", ".join(columns[:most]) or "no other columns") + more
