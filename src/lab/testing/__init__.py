"""Test suites for pytest. They check your data, nets, tasks and features against the contracts of lab.

    from lab.testing import TaskContract

    class TestMine(TaskContract):
        config = ["experiment=mine", "data.tiny=true"]

The tests of a suite hold for every class of its kind. `ClassifierContract` adds the tests for classifiers to
`TaskContract`. The tests of lab are these suites with `overrides` parametrised over conf/. No other module of
lab imports this package.
"""

import pytest

pytest.register_assert_rewrite(*(f"lab.testing.{name}" for name in ("data", "features", "nets", "tasks")))

from lab.testing.base import Contract  # noqa: E402
from lab.testing.data import DataContract  # noqa: E402
from lab.testing.features import FeatureContract  # noqa: E402
from lab.testing.nets import NetContract  # noqa: E402
from lab.testing.tasks import ClassifierContract, TaskContract  # noqa: E402

__all__ = ["ClassifierContract", "Contract", "DataContract", "FeatureContract", "NetContract", "TaskContract"]
