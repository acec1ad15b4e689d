"""Tasks of the adaptation stage."""

from whale.cli import Task
from whale.finetune.config import WorldModelAdaptationConfig
from whale.finetune.estimate import plan_world_model
from whale.finetune.train import adapt_world_model

TASKS = {"world_model": Task(WorldModelAdaptationConfig, adapt_world_model, plan_world_model)}
