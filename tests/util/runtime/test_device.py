"""Where and in which precision a model computes is what the options say."""
from unittest import mock

import pytest
import torch

from util.config import Config
from util.runtime.device import pick_device, place, set_tf32
from util.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("change, called", [
    ({}, []), ({"precision": "bf16"}, ["cast_frozen"]), ({"compile": True}, ["compile_blocks"]),
    ({"checkpoint_blocks": True}, ["recompute_blocks"])])
def test_blocks_are_computed_as_the_options_say(change, called):
    model, cfg = mock.Mock(), Config()
    for key, value in change.items():
        setattr(cfg.train if hasattr(cfg.train, key) else cfg, key, value)
    assert place(model, cfg, CPU) is model.to.return_value
    assert [name for name, *_ in model.method_calls] == [*called, "to"]


@pytest.mark.parametrize("wish", ["gpu", "meta", "cuda:99", "vulkan", "xla", "mps", "cpu:7", ""])
def test_a_device_that_is_not_there_is_refused(wish):
    with pytest.raises(UserError, match=f"device={wish}"):
        pick_device(wish)


def test_tf32_is_for_cuda_and_off_unless_asked_for():
    with pytest.raises(UserError, match="precision=tf32"):
        set_tf32(CPU, "tf32")
    for precision, allowed in (("tf32", True), ("bf16", False), ("fp32", False)):
        set_tf32(torch.device("cuda"), precision)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
