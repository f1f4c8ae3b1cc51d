"""What several scripts' tests share: one undisturbed run of a module's config."""
from pathlib import Path

import pytest
import runs


@pytest.fixture(scope="module")
def checked_options(options_for, tiny_shapes, tmp_path_factory) -> list[str]:
    """As tiny_options, with the name check, for runs that several tests share; each gives its own exp= after these."""
    return [*options_for(tiny_shapes, tmp_path_factory.mktemp("unused")), "eval.name_check=true"]


@pytest.fixture(scope="module")
def whole(request, checked_options, tmp_path_factory) -> Path:
    """A run that nothing disturbed, of the config that the test's module names as CONFIG."""
    return runs.train(checked_options, tmp_path_factory.mktemp("whole"), config=request.module.CONFIG)
