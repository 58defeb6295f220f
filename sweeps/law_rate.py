"""The learning rate and batch that a law predicts for one run, and the file that keeps what it said.

`DIR/prediction.json` holds the answer that a run was started with.  The same command finds it there and takes it, so
that a law which is fitted anew in the meantime does not change a run that has begun.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.law import Law
from analysis.literature.publication import Publication
from analysis.prediction import find, predict
from lab import corpus, count, store
from lab.check import require
from lab.config import RunConfig
from lab.override import apply
from sweeps.predict_parser import summary, text
from sweeps.run_list import base_digest

FILE = "prediction.json"
_SAME = 1.02  # ratio up to which a batch is the law's
_DECIMALS = 5e-4  # of a fraction of the run, as a condition states it
_ROUNDED = 1.5  # ratio up to which whole sequences may round a batch whose rate follows it


@dataclass(frozen=True)
class Rate:
    """A law's answer: `config` with its learning rate (and batch), `lines` for a person, `record` for `FILE`."""

    config: RunConfig
    lines: tuple[str, ...]
    record: dict[str, Any]


def ask(name: str, config: RunConfig, *, batch_by_hand: bool, rows: int) -> Rate:
    """Ask a law (a file of `lrlab fit` or a published one's name) for a run's rate.

    The law is given N, the non-embedding parameters, D, the tokens, and tokens per update.  Unless the batch is set by
    hand it is the law's where that has one, in sequences rounded to a multiple of `rows`.  The batch that is trained
    is the law's own, within 2 %; or, where the rate follows the batch, the rounded one, within a factor 1.5.

    Raises:
        InputError: no such law, it gives no rate, or does not cover the run; a batch that is not the law's, however it
            came about; a batch it sets changes how long the run is.
    """
    law = find(name)
    before = base_digest(config)
    found = predict(law, **_inputs(law, config, batch_by_hand))
    own = None if batch_by_hand or not _has_batch(law) else found.batch_tokens
    if own is not None:
        config = _with_batch(config, own, rows, found.law)
        follows = not isinstance(law, Law) or (law.penalty is not None and law.penalty.valley_slope is not None)
        if follows:
            found = predict(law, **_inputs(law, config, True))
        _require_own(found.law, own, config, rows, follows=follows and not _one_batch(law))
    elif batch_by_hand and (only := _one_batch(law)) is not None:
        _require_own(found.law, only, config, rows, follows=False)
    require(found.lr is not None, f"law {found.law} gives no learning rate: fit one with lrlab fit --law lr")
    assert found.lr is not None
    config = apply(config, {"optimizer.lr": found.lr})
    warnings = tuple(_differences(law.conditions, config)) if isinstance(law, Law) else ()
    lines = (text(found), _trained(config), *(f"warning: {line}" for line in warnings))
    record = {
        "asked_of": before,
        "batch_by_hand": batch_by_hand,
        "law": {"name": name, "sha256": _digest(name)},
        "learning_rate": found.lr,
        "sequences": config.data.sequences,
        "prediction": summary(found),
        "warnings": list(warnings),
    }
    return Rate(config, lines, record)


def recorded(root: Path, name: str, config: RunConfig, *, batch_by_hand: bool) -> Rate | None:
    """What a law said when the run in `root` was started; None where none was asked.

    Raises:
        InputError: it was asked of another run, or the file is damaged.
    """
    path = root / FILE
    if not path.is_file():
        return None
    remedy = "use another --out"
    found = store.read_json(path, remedy)
    try:
        same = found["asked_of"] == base_digest(config) and found["batch_by_hand"] == batch_by_hand
        law = found["law"]
        values = {"optimizer.lr": found["learning_rate"], "data.sequences": found["sequences"]}
    except (KeyError, TypeError) as error:
        require(False, f"{path} is damaged ({type(error).__name__}: {error}): {remedy}")
        raise
    require(same, f"{root} holds another run, for which {law['name']} was asked: {remedy}")
    config = apply(config, values)
    lines = [
        f"learning rate  {found['learning_rate']:.4g}, as {law['name']} predicted at the start of this run ({path})",
        _trained(config),
    ]
    if law["sha256"] != _digest(name):
        lines.append(f"note: {name} is not the law that was asked then; the recorded rate stands")
    return Rate(config, tuple(lines), found)


def _inputs(law: Any, config: RunConfig, with_batch: bool) -> dict[str, float | None]:
    """What a run tells a law of itself; a fitted law is told only what it asks for.

    Raises:
        InputError: a law of one size, length or batch, of which the run has another.
    """
    config = _resolved(config)
    model, data = config.model, config.data
    known: dict[str, float] = {
        "params": count.parameters(model, data.length).non_embedding,
        "tokens": count.training_tokens(config),
        "batch": data.tokens_per_step,
    }
    if not isinstance(law, Law):
        more = {"width": model.width, "depth": model.depth, "sequence": data.length}
        wants_batch = with_batch or "batch" not in law.formulas
        return {name: value for name, value in (known | more).items() if name != "batch" or wants_batch}
    needs = {name for part in (law.lr, law.batch) if part is not None for name in part.regressors}
    needs |= {"params", "tokens"} if law.loss is not None else set()
    needs |= {"batch"} if law.batch is not None and with_batch else set()
    joint = law.lr is not None and law.batch is not None and "batch" in needs
    require(
        not joint or (law.penalty is not None and law.penalty.valley_slope is not None),
        f"law {law.name} knows no valley, so no rate at another batch than its own: leave data.sequences out of --set",
    )
    for name in needs:
        require(name in known, f"law {law.name} needs {name}, which a run does not tell it: set optimizer.lr by hand")
    for name, only in law.fixed.items():
        checked = name in known and name not in needs and name != "batch"  # whose turn comes when it is settled
        require(
            not checked or max(known[name] / only, only / known[name]) <= _SAME,
            f"all runs behind law {law.name} had {name}={only:.6g}, and this run has {known.get(name)}: fit a law "
            f"over {name}, or make the run fit",
        )
    return {name: known[name] for name in needs}


def _has_batch(law: Law | Publication) -> bool:
    """Whether the law itself says a batch, rather than being told one."""
    if isinstance(law, Law):
        return law.batch is not None or _one_batch(law) is not None
    return "batch" in law.formulas


def _one_batch(law: Law | Publication) -> float | None:
    """The batch in tokens that all runs behind a law of the rate had; None where there is no such batch."""
    if not isinstance(law, Law) or law.batch is not None:
        return None
    return law.fixed.get("batch")


def _require_own(law: str, own: float, config: RunConfig, rows: int, *, follows: bool) -> None:
    """Require that the batch of a run, as it is trained, is that of the law; nearly so where the rate follows it."""
    mine = config.data.tokens_per_step
    cut = f", in multiples of {rows} sequences for exec.accumulate and exec.mesh" if rows > 1 else ""
    whose, remedy = f"all runs behind law {law} had", "or fit a law over batch"
    if follows:
        whose, remedy = f"law {law} asks for", "or set data.sequences by hand"
    require(
        max(mine / own, own / mine) <= (_ROUNDED if follows else _SAME),
        f"{whose} batch={own:.6g}, and this run has {mine} tokens per update{cut}: change data.length or how the batch "
        f"is cut, {remedy}",
    )


def _trained(config: RunConfig) -> str:
    """The line that says what is trained, whatever the law was asked."""
    data = config.data
    return f"trained batch  {data.tokens_per_step} tokens per update: {data.sequences} sequences of {data.length}"


def _with_batch(config: RunConfig, tokens: float, rows: int, law: str) -> RunConfig:
    """The run with a batch of about so many tokens, in whole sequences and a multiple of `rows`."""
    sequences = rows * max(1, round(tokens / config.data.length / rows))
    if sequences == config.data.sequences:
        return config
    require(
        config.schedule.tokens is not None,
        f"law {law} sets the batch, {sequences} sequences, which changes the tokens of a run of "
        f"schedule.steps={config.schedule.steps}: give schedule.tokens, or set data.sequences by hand",
    )
    return apply(config, {"data.sequences": sequences})


def _differences(theirs: Mapping[str, Any], config: RunConfig) -> list[str]:
    """A line for every condition of a law's runs that this run does not meet."""
    import pandas as pd

    from analysis.results import flattened
    from analysis.runs.condition import of_sweep

    config = _resolved(config)
    ours = of_sweep(pd.DataFrame([flattened(dataclasses.asdict(config))]))
    lengths = {"warm-up": config.schedule.warmup_steps or 0, "decay": config.schedule.decay_steps or 0}
    found = []
    for name, value in theirs.items():
        if name in lengths:
            mine = _length(str(value), lengths[name], config)
        else:
            mine = ours.get(name)
        if mine is None and name not in ours:
            continue
        if not _same(value, mine):
            found.append(f"the runs behind the law had {name} {value}, this run has {mine}")
    if theirs.get("params") != ours["params"]:
        found.append("the law's source does not say that it counts N without embeddings, as it is asked here")
    return found


def _length(text: str, steps: int, config: RunConfig) -> str:
    """A warm-up or decay in the unit that a law's condition has; the condition itself where whole updates make the
    difference."""
    assert config.schedule.steps is not None
    unit_of = {"of the run": 1 / config.schedule.steps, "updates": 1, "tokens": config.data.tokens_per_step}
    number, _, unit = text.partition(" ")
    if unit not in unit_of:
        return text
    rounded = {"of the run": _DECIMALS, "updates": 0.0, "tokens": 1e-5 * steps * unit_of["tokens"]}
    mine = steps * unit_of[unit]
    close = 0.0 if unit == "updates" else unit_of[unit] + rounded[unit]
    try:
        return text if abs(float(number) - mine) <= close else f"{round(mine, 3):g} {unit}"
    except ValueError:
        return text


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return str(one).casefold() == str(other).casefold()


def _resolved(config: RunConfig) -> RunConfig:
    text = corpus.load(config.data)
    return config.resolve(vocab=text.vocab, fingerprint=text.fingerprint)


def _digest(name: str) -> str | None:
    """SHA-256 of a law's file; None for a published law."""
    path = Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
