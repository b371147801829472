"""TensorBoard's table of hyperparameters, as its own backend answers, over runs and sweeps in one folder."""

import math
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from lab.engine.files import write_json
from lab.engine.training.loggers import log_hyperparameters

RUNS = {  # folder: overrides, monitored metric
    "digits/2026-01-01": ("experiment=digits", "val/acc"),
    "digits/lr/000": ("experiment=digits net=cnn optimizer.lr=0.1", "val/acc"),
    "digits/lr/001": ("experiment=digits net=cnn optimizer.lr=1e-3", "val/acc"),
    "words/a": ("experiment=words +task.extra=true net.widths=[8,8] seed=3", "val/loss"),
    "words/b": ("experiment=words seed=first ema=null", "val/loss"),
}


@pytest.fixture
def logs(tmp_path):
    for number, (name, (words, metric)) in enumerate(RUNS.items()):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        write_json(folder / "stamp.json", {"overrides": [*words.split(), f"run={folder}"], "began": number})
        write_json(folder.parent / "sweep.json", {"words": [], "varied": ["optimizer.lr"]})
        logger = TensorBoardLogger(tmp_path, name, version="", default_hp_metric=False)
        logger.log_metrics({metric: number / 8, "test/f1": number / 4}, 1)
        results = {"best": {"metric": metric, "value": number / 2}, "test": {"test/f1": number / 4}, "last": {}}
        log_hyperparameters(SimpleNamespace(loggers=[logger], global_step=1), folder, results)
    return tmp_path


def answered(logs):
    """The names of the columns, and each run's hyperparameters and scores."""
    events = EventMultiplexer().AddRunsFromDirectory(str(logs)).Reload()
    provider = MultiplexerDataProvider(events, str(logs))
    context, request = Context(TBContext(data_provider=provider)), RequestContext()
    content = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, content, [])
    ask = api_pb2.ListSessionGroupsRequest(slice_size=99, allowed_statuses=[api_pb2.STATUS_SUCCESS])
    for info in experiment.hparam_infos:
        ask.col_params.add(hparam=info.name)
    for info in experiment.metric_infos:
        ask.col_params.add(metric=info.name)
    rows = {}
    for group in Handler(request, context, "", ask).run().session_groups:
        values = {key: getattr(value, value.WhichOneof("kind")) for key, value in group.hparams.items()}
        scores = {value.name.tag: value.value for value in group.metric_values}
        rows[group.sessions[0].name] = values, scores
    return {info.name for info in experiment.hparam_infos}, {info.name.tag for info in experiment.metric_infos}, rows


def test_the_table_has_every_hyperparameter_and_score_of_every_run(logs):
    columns, metrics, rows = answered(logs)
    keys = {"experiment", "net", "optimizer.lr", "seed", "task.extra", "net.widths", "ema"}
    assert columns == keys
    assert metrics == {"val/acc", "val/loss", "best/val/acc", "best/val/loss", "test/f1"}
    assert rows.keys() == RUNS.keys()
    values, scores = rows["digits/lr/001"]
    assert values == {"experiment": "digits", "net": "cnn", "optimizer.lr": 0.001}
    assert scores == {"val/acc": 0.25, "best/val/acc": 1.0, "test/f1": 0.5}
    assert rows["words/a"][0] == {"experiment": "words", "task.extra": "true", "net.widths": "[8,8]", "seed": 3.0}
    assert all(math.isfinite(score) for _, scores in rows.values() for score in scores.values())


@pytest.mark.parametrize(
    ("below", "columns"),
    {
        "digits": {"experiment", "net", "optimizer.lr"},
        "digits/lr": {"experiment", "net", "optimizer.lr"},
        "words": {"experiment", "task.extra", "net.widths", "seed", "ema"},
        "words/b": {"experiment", "seed", "ema"},
    }.items(),
)
def test_a_folder_of_runs_has_its_own_columns(logs, below, columns):
    assert answered(logs / below)[0] == columns
