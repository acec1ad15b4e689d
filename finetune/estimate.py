"""`whale finetune world_model --dry-run`: what an adaptation would take. Its source must be there: it has the sizes."""

from dataclasses import replace

from whale.export import read_config
from whale.finetune.config import WorldModelAdaptationConfig
from whale.hub import find_export
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.plan import Plan, describe


def plan_world_model(config: WorldModelAdaptationConfig) -> str:
    """The plan of adapting dynamics and behaviour.

    Raises:
        UserError: there is no world model to adapt.
    """
    sizes = read_config(find_export(config.source), ("world_model",), WorldModelConfig)

    def build(depth: int) -> DynamicsObjective:
        model = WorldModel(replace(sizes, dynamics=replace(sizes.dynamics, depth=depth)))
        return DynamicsObjective(model, config.loss, [])

    size = sizes.tokenizer.image_px
    return describe(Plan(
        "whale finetune world_model", sizes, build, sizes.dynamics.depth, (size, size, 3), config.demos,
        config.loop.steps, config.optim, config.engine, ("fitting the tokenizer, and encoding frames, is not in it",),
    ))  # fmt: skip
