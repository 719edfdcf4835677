import pytest
import torch
from accelerate import Accelerator
from torch import nn
from training.checkpoint import State
from training.learner import Learner, Schedule


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warmup=10, decay=0.5, floor=0.1)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(20) == schedule.rate(50) == 1.0
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) == pytest.approx(0.1)


def test_the_average_is_in_force_only_while_it_is_asked_for() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    learner = Learner(module, Schedule(steps=10, learning_rate=0.1, warmup=0), Accelerator(cpu=True))
    for _ in range(3):
        learner.take(module(torch.ones(1, 1)).square().sum())
    learned = module.weight.item()
    with learner.averaged():
        assert learned < module.weight.item() < 1
    assert module.weight.item() == learned


def test_the_state_of_another_model_is_refused() -> None:
    learner = Learner(nn.Linear(2, 2), Schedule(steps=1, learning_rate=0.1), Accelerator(cpu=True))
    with pytest.raises(ValueError, match="another --run folder"):
        learner.resume(State(1, {"weights.other": torch.zeros(1)}))
