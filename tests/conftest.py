"""Shared fixtures: tiny runs on a tiny text, and the folder of published data."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compilation import environment

os.environ.update(environment(os.environ))

import jax
import numpy as np
import pytest

from lab import corpus, train
from lab.config import (
    DataConfig,
    EvaluationConfig,
    ExecConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.device import execution
from lab.override import apply

SHARED = Path(os.environ.get("LRLAB_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `nightly` unless `-m` asks for them by name."""
    if "nightly" in config.option.markexpr:
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=nightly)
    items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(autouse=True)
def on_the_host(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked `host` compiles nothing: that is what the mark says, and what `-m host` is quick by."""
    before = _compiled["programs"]
    yield
    if request.node.get_closest_marker("host"):
        assert _compiled["programs"] == before, "a test marked `host` compiled a program: mark single tests instead"


_compiled: Counter[str] = Counter()


def _count(event: str, _: float, **__: object) -> None:
    if event.endswith("backend_compile_duration"):
        _compiled["programs"] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published measurements and texts; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no published data at {SHARED} (set LRLAB_SHARED)")
    return SHARED / "data"


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files of letters with some structure, about 80 kB: enough to learn from, quick to read."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), size=rng.integers(2, 7))) for _ in range(60)]
    for number in range(40):
        lines = [" ".join(rng.choice(words, size=8)) for _ in range(60)]
        (folder / f"{number:02d}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def base(text: Path) -> RunConfig:
    """A run of twelve steps of a model of width 16; unresolved."""
    return RunConfig(
        model=ModelConfig(width=16, depth=2, head_dim=8),
        parametrization=ParametrizationConfig(base_width=16),
        optimizer=OptimizerConfig(lr=2.0**-6),
        schedule=ScheduleConfig(kind="wsd", steps=12, warmup_steps=2, decay_steps=4),
        data=DataConfig(corpus=f"text:{text}", sequences=4, length=16),
        evaluation=EvaluationConfig(sequences=16),
    )


def assert_bitwise(found: Any, wanted: Any) -> None:
    """Equal bit for bit, as two programs are that XLA optimises; the quick emitters of tests round them differently."""
    if os.environ.get("LRLAB_TEST_EXACT"):
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def resolve(config: RunConfig, **changes: object) -> RunConfig:
    """The configuration with changes (`model__width=32`), resolved against its corpus."""
    config = apply(config, {name.replace("__", "."): value for name, value in changes.items()})
    loaded = corpus.load(config.data)
    return config.resolve(vocab=loaded.vocab, fingerprint=loaded.fingerprint)


def job_of(configs: list[RunConfig], **settings: object) -> train.Job:
    """A job of resolved runs; `settings` are fields of ExecConfig."""
    how = execution(apply(ExecConfig(), settings), configs[0].model, platform="cpu", runs=len(configs))
    return train.prepare(configs, how, corpus.load(configs[0].data))


def trained(configs: list[RunConfig], **settings: object) -> tuple[train.Job, train.Snapshot]:
    """The job after its last step."""
    job = job_of(configs, **settings)
    snapshot = train.start(job)
    for newest in train.train(job, snapshot):
        snapshot = newest
    return job, snapshot.settled()
