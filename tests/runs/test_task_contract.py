"""The part of the contract of every task that trains: a run that is resumed ends as one that was not."""

import pytest
from conftest import fitting, options

from lab.testing import TaskContract
from lab.testing.base import Contract


class TestEveryTask(Contract):
    """Classification is resumed in test_resume.py."""

    test_a_run_that_is_resumed_ends_as_one_that_was_not = (
        TaskContract.test_a_run_that_is_resumed_ends_as_one_that_was_not
    )

    @pytest.fixture(params=[name for name in options("task") if name != "classification"])
    def overrides(self, request):
        return [fitting(f"task={request.param}"), f"task={request.param}", "data.tiny=true"]
