"""Configurations: what defines a run (`RunConfig`) and what only executes it (`ExecConfig`).

All of them are frozen dataclasses that check themselves when they are built.  A `RunConfig` may leave some fields to be
derived (`None`): `resolve` fills them in, so that two ways of saying the same thing (a warm-up of 0.1 of the run, or of
30 steps) become one configuration and therefore one `run_id`.
"""

from lab.config.data import DataConfig, EvaluationConfig
from lab.config.execution import ExecConfig
from lab.config.mesh import MeshConfig
from lab.config.model import ModelConfig
from lab.config.optimizer import OptimizerConfig
from lab.config.parametrization import ParametrizationConfig
from lab.config.probe import SharpnessConfig
from lab.config.run import ALTERNATIVES, RunConfig
from lab.config.schedule import ScheduleConfig

__all__ = [
    "ALTERNATIVES",
    "DataConfig",
    "EvaluationConfig",
    "ExecConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParametrizationConfig",
    "RunConfig",
    "ScheduleConfig",
    "SharpnessConfig",
]
