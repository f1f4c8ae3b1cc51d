"""A model is placed on its device as the options say."""
import sys
from unittest import mock

import pytest
import torch

from util.config import BASE, Config, load
from util.runtime.device import place
from util.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("options, called", [
    ([], []), (["precision=bf16"], ["cast_frozen"]), (["train.checkpoint_blocks=true"], ["recompute_blocks"]),
    (["compile=true"], ["compile_blocks"])])
def test_blocks_are_computed_as_the_options_say(options, called, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    model = mock.Mock()
    assert place(model, load(Config, BASE, options), CPU) is model.to.return_value
    assert [name for name, *_ in model.method_calls] == [*called, "to"]


def test_a_baseline_is_placed_as_it_is():
    model = mock.Mock(spec=["to"])
    place(model, load(Config, BASE, ["compile=true", "precision=bf16"]), CPU)
    model.to.assert_called_once_with(CPU)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "nosuch")
    with pytest.raises(UserError, match="compile=true needs a C.. compiler, and there is no nosuch"):
        place(mock.Mock(), load(Config, BASE, ["compile=true"]), CPU)
