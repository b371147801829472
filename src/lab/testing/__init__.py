"""Contract suites for pytest: what lab relies on, run on your own data, nets, tasks and features.

    from lab.testing import TaskContract

    class TestMine(TaskContract):
        config = ["experiment=mine", "data.tiny=true"]

Each suite states what holds for every class of its kind; tests that only hold for classifiers skip the others. Lab's
own tests are these suites, with `overrides` parametrised over conf/. No other module of lab imports this one.
"""

import pytest

pytest.register_assert_rewrite(*(f"lab.testing.{name}" for name in ("data", "features", "nets", "tasks")))

from lab.testing.base import Contract  # noqa: E402
from lab.testing.data import DataContract  # noqa: E402
from lab.testing.features import FeatureContract  # noqa: E402
from lab.testing.nets import NetContract  # noqa: E402
from lab.testing.tasks import TaskContract  # noqa: E402

__all__ = ["Contract", "DataContract", "FeatureContract", "NetContract", "TaskContract"]
