"""Muon in fp32 against torch's, which takes its Newton-Schulz steps in bf16, and against the singular values."""
import pytest
import torch

from util.training.muon import Muon, orthogonal

SHAPES = [(24, 8), (8, 8), (8, 24)]


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_keeps_the_singular_vectors_and_evens_the_values_out(shape):
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=torch.manual_seed(0)), full_matrices=False)
    values = torch.linspace(0.05, 1, len(right))
    got = left.T @ orthogonal(left * values @ right) @ right.T
    assert torch.allclose(got, got.diag().diag(), atol=1e-4)
    assert got.diag().min() > 0.65 and got.diag().max() < 1.25


def test_a_step_is_that_of_torch_but_for_the_digits_of_bf16():
    generator = torch.manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(3)]

    def after(kind):
        parameters = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = kind(parameters, lr=0.1, weight_decay=0.1)
        for step in gradients:
            for parameter, gradient in zip(parameters, step):
                parameter.grad = gradient.clone()
            optimizer.step()
        return parameters, optimizer.state_dict()

    (ours, state), (theirs, reference) = after(Muon), after(torch.optim.Muon)
    for new, torchs, old in zip(ours, theirs, start):
        assert (new - torchs).norm() < 0.02 * (torchs - old).norm()
    assert state["param_groups"] == reference["param_groups"]  # a checkpoint of torch's is one of ours
    assert state["state"].keys() == reference["state"].keys()
    for place, kept in state["state"].items():
        torch.testing.assert_close(kept["momentum_buffer"], reference["state"][place]["momentum_buffer"])
