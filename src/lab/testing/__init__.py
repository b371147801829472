"""Suites of tests for pytest: they check that your data, nets, tasks and features keep lab's contracts.

    from lab.testing import TaskContract

    class TestMine(TaskContract):
        config = ["experiment=mine", "data.tiny=true"]

A test of a suite holds for every class of its kind; `ClassifierContract` is `TaskContract` and what classifiers add.
Lab's own tests are these suites, with `overrides` parametrised over conf/. No other module of lab imports this one.
"""

import pytest

pytest.register_assert_rewrite(*(f"lab.testing.{name}" for name in ("data", "features", "nets", "tasks")))

from lab.testing.base import Contract  # noqa: E402
from lab.testing.data import DataContract  # noqa: E402
from lab.testing.features import FeatureContract  # noqa: E402
from lab.testing.nets import NetContract  # noqa: E402
from lab.testing.tasks import ClassifierContract, TaskContract  # noqa: E402

__all__ = ["ClassifierContract", "Contract", "DataContract", "FeatureContract", "NetContract", "TaskContract"]
