"""The average of the trained weights: its formula, what it leaves alone, and that it goes on where it stood."""
import pytest
import torch
from torch import nn

from util.training.ema import Average


def model_of() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    return model


def stepped(model: nn.Module, average: Average, steps: int) -> list[torch.Tensor]:
    """Move the trained weights at random; returns them after each step."""
    out = []
    for _ in range(steps):
        model[1].weight.data += torch.randn_like(model[1].weight)
        average.update()
        out.append(model[1].weight.detach().clone())
    return out


def test_it_is_the_weighted_mean_it_is_said_to_be():
    torch.manual_seed(0)
    model = model_of()
    expected, average = model[1].weight.detach().clone(), Average(model, 0.5)
    for t, weight in enumerate(stepped(model, average, 12)):
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * weight
    with average.in_place():
        assert torch.allclose(model[1].weight, expected, atol=1e-6)


def test_the_weights_come_back_as_they_were():
    model = model_of()
    average = Average(model, 0.9)
    last = stepped(model, average, 3)[-1]
    frozen = model[0].weight.clone()
    with pytest.raises(KeyError), average.in_place():
        assert not torch.equal(model[1].weight, last)
        raise KeyError
    assert torch.equal(model[1].weight, last) and torch.equal(model[0].weight, frozen)
    assert set(average.weights()) == {"1.weight", "1.bias"}


def test_it_goes_on_where_it_stood():
    torch.manual_seed(0)
    model = model_of()
    average = Average(model, 0.9)
    stepped(model, average, 5)
    saved = {name: value.clone() for name, value in average.weights().items()}
    state = {"steps": average.state()["steps"], "last": {n: p.clone() for n, p in average.state()["last"].items()}}
    other = model_of()
    other.load_state_dict({**model.state_dict(), **saved})
    again = Average(other, 0.9)
    again.restore(state)
    for one, mean in ((model, average), (other, again)):
        torch.manual_seed(1)
        stepped(one, mean, 5)
    assert all(torch.equal(a, b) for a, b in zip(average.mean, again.mean))


def test_a_decay_of_zero_is_no_average():
    model = model_of()
    average = Average(model, 0.0)
    last = stepped(model, average, 3)[-1]
    with average.in_place():
        assert torch.equal(model[1].weight, last)
    assert average.weights() == {} and average.state()["last"] == {}
