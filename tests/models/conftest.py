import pytest
import torch
from tiny_model import random_batch, random_model

from whale.models.world_model import WorldModel


@pytest.fixture
def model() -> WorldModel:
    return random_model()


@pytest.fixture
def batch(model: WorldModel) -> dict[str, torch.Tensor]:
    return random_batch(model)
