"""Each workaround of `lightning_quirks.py`: a test that fails once it is no longer needed.

Most tests show the fault without the workaround. Where that would be slow, a test pins the library's source instead.
"""

import copy
import inspect
import mmap
import re
import signal
import subprocess
import sys
from ctypes import CDLL
from pathlib import Path

import lightning
import lightning.fabric.utilities.distributed
import lightning.pytorch.loops
import matplotlib
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics import MeanMetric, Metric, MetricCollection

from lab.engine.training import lightning_quirks as quirks


class Plain(LightningModule):
    """A linear layer, and the batches that it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer, self.batches = nn.Linear(2, 1), []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch_idx)
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2)


def trainer_of(folder, *callbacks, **arguments):
    quirks.filter_warnings()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "default_root_dir": folder}
    return Trainer(callbacks=list(callbacks), **(quiet | defaults | arguments))


class At(Callback):
    """Calls a function at the start of a training batch."""

    def __init__(self, index, function):
        self.index, self.function = index, function

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == self.index:
            self.function(trainer)


@pytest.mark.parametrize("message", quirks.WARNINGS)
def test_the_libraries_still_have_the_message_of_each_filter(message, sources):
    """A pin of their sources: to provoke all of them would take several runs."""
    text = max(re.split(r"\.\*|\\\(|\\\)|' ", message), key=len).strip()
    assert any(source.find(text.encode()) >= 0 for source in sources), f"no library warns of {text}; remove the filter"


@pytest.fixture(scope="module")
def sources():
    """The sources of the libraries, and torch's C++ library."""
    files = [Path(torch.__file__).parent / "utils/_pytree.py", Path(matplotlib.__file__).parent / "_text_helpers.py"]
    files += Path(lightning.__file__).parent.rglob("*.py")
    with open(Path(torch.__file__).parent / "lib/libtorch_cpu.so", "rb") as file:
        yield [*(path.read_bytes() for path in files), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)]


def test_lightning_logs_infos_by_itself():
    assert "setLevel(logging.INFO)" in Path(lightning.pytorch.__file__).read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux") or not hasattr(CDLL(None), "mallopt"), reason="glibc's")
def test_glibc_returns_freed_memory():
    """In a process of its own: glibc's settings hold for a process, and its heap depends on everything before."""
    code = """
import resource
from ctypes import CDLL, c_size_t, c_void_p, memset
from lab.engine.training import lightning_quirks as quirks

libc = CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = c_void_p, [c_size_t], [c_void_p]

def faults():  # the page faults of using 100 MB anew, after it was used and freed
    counts = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [libc.malloc(100_000) for _ in range(1000)]
        for block in blocks:
            memset(block, 1, 100_000)
        for block in reversed(blocks):
            libc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts[1:])

libc.mallopt(quirks.M_TRIM_THRESHOLD, 128 * 1024)
returned = faults()
quirks.keep_freed_memory()
print(returned, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert kept < 20 < returned


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU in use is seeded at once")
def test_torch_formats_the_stack_to_seed_a_gpu_that_is_not_used(monkeypatch):
    stacks, format_stack = [], torch.cuda.traceback.format_stack
    monkeypatch.setattr(torch.cuda.traceback, "format_stack", lambda *_: stacks.append(1) or format_stack())
    quirks.seed_generators(3)
    assert not stacks
    draw = torch.rand(4)
    torch.manual_seed(3)
    assert stacks
    assert torch.equal(torch.rand(4), draw)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is found is remembered")
@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch for CPUs looks for no GPU")
def test_lightning_makes_adam_search_a_missing_gpu_in_each_step(monkeypatch):
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" in Path(lightning.fabric.__file__).read_text()
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning does
    searches, search = [], torch.cuda._device_count_nvml
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: searches.append(1) or search())
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(1)
    optimizer.step()
    optimizer.step()
    assert len(searches) == 2
    quirks.search_no_missing_gpu()
    searches.clear()
    optimizer.step()
    assert not searches


def test_lightning_calls_empty_hooks(tmp_path):
    class Recorder(PassThroughProfiler):
        def __init__(self):
            super().__init__()
            self.hooks = []

        def start(self, action_name):
            if "_train_batch_" in action_name and "Callback" in action_name:
                self.hooks.append(action_name.rpartition(".")[2])

    calls, hooks = [], []
    for quirk in (lambda callbacks: None, quirks.skip_empty_hooks):
        trainer = trainer_of(tmp_path, At(1, calls.append), profiler=Recorder())
        quirk(trainer.callbacks)
        trainer.fit(Plain())
        hooks.append(trainer.profiler.hooks)
    assert len(calls) == 2
    assert hooks == [["on_train_batch_start", "on_train_batch_end"] * 3, ["on_train_batch_start"] * 3]


def test_skipped_hooks_are_those_that_lightning_calls_for_a_batch():
    """No hook of a batch is missing, and none that a callback of Lightning defines is skipped."""
    expected = {name for name in vars(Callback) if "_batch_" in name or name.startswith(("on_before", "on_after"))}
    assert set(quirks.BATCH_HOOKS) == expected
    callback = LambdaCallback(on_train_batch_end=print)
    quirks.skip_empty_hooks([callback])
    assert callback.on_train_batch_end is print
    assert callback.on_train_batch_start is None


def test_lightning_builds_a_context_manager_without_a_profiler():
    assert PassThroughProfiler().profile("a") is not PassThroughProfiler().profile("a")
    profiler = quirks.NoProfiler()
    with profiler.profile("a") as one, profiler.profile("b") as other:
        assert one is other is None


def test_lightning_prepares_values_that_loggers_drop(tmp_path, monkeypatch):
    prepared, logged, expected = [], [], []

    class Logging(Plain):
        def training_step(self, batch, batch_idx):
            if quirks.is_logging_step(self.trainer):
                expected.append(self.global_step)
            self.log("x", 1.0)
            return super().training_step(batch, batch_idx)

    class Recorder(Logger):
        name = version = ""

        def log_metrics(self, metrics, step=None):
            if "x" in metrics:
                logged.append(step)

        def log_hyperparams(self, *_, **__):
            pass

    results = lightning.pytorch.trainer.connectors.logger_connector.result._ResultCollection
    log = results.log
    monkeypatch.setattr(results, "log", lambda self, *args, **more: prepared.append(1) or log(self, *args, **more))
    trainer_of(tmp_path, logger=Recorder(), max_epochs=2, log_every_n_steps=4).fit(Logging())
    assert logged == [3]
    assert expected == [0, 3]  # the first is for the progress bar
    assert len(prepared) == 6


def test_lightning_replaces_the_handler_of_sigterm(tmp_path):
    handlers = []
    before = signal.getsignal(signal.SIGTERM)
    for quirk in (lambda trainer: None, quirks.leave_signals_alone):
        trainer = trainer_of(tmp_path, At(0, lambda _: handlers.append(signal.getsignal(signal.SIGTERM))))
        quirk(trainer)
        trainer.fit(Plain())
    assert handlers[0] != before
    assert handlers[1] == before


def test_lightning_counts_a_batch_twice_after_a_resume(tmp_path):
    saved = []

    def save(trainer):
        saved.append(quirks.loop_counters(trainer))
        trainer.save_checkpoint(tmp_path / "x.ckpt")

    def resume(trainer):
        saved.append(quirks.loop_counters(trainer))
        quirks.restore_loop_counters(trainer, saved[0])
        saved.append(quirks.loop_counters(trainer))

    trainer_of(tmp_path, At(1, save)).fit(Plain())
    trainer_of(tmp_path, At(1, resume)).fit(Plain(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    before, resumed, restored = saved
    assert resumed != before
    assert restored == before


def test_torch_restores_the_length_of_a_schedule():
    def schedule(total_steps):
        return torch.optim.lr_scheduler.OneCycleLR(
            torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 0.1, total_steps=total_steps
        )

    state, longer = schedule(10).state_dict(), schedule(20)
    longer.load_state_dict(dict(state))
    assert longer.total_steps == 10
    longer = schedule(20)
    quirks.forget_schedule_length([state])
    longer.load_state_dict(state)
    assert longer.total_steps == 20


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_fused_optimizer_mixes_up_memory_formats(is_kept):
    generator = torch.Generator().manual_seed(0)
    weight, *gradients = (torch.randn(4, 3, 3, 3, generator=generator) for _ in range(3))

    def step(optimizer, gradient):
        (parameter,) = optimizer.param_groups[0]["params"]
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()
        return parameter.detach().clone(memory_format=torch.contiguous_format)

    optimizer = torch.optim.Adam([nn.Parameter(weight)], fused=True)
    half, state = step(optimizer, gradients[0]), copy.deepcopy(optimizer.state_dict())
    expected = step(optimizer, gradients[1])
    other = torch.optim.Adam([nn.Parameter(half.to(memory_format=torch.channels_last))], fused=True)
    if is_kept:
        quirks.keep_memory_format(other)
    other.load_state_dict(state)
    assert step(other, gradients[1]).equal(expected) == is_kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_torch_listens_on_all_interfaces_for_a_rendezvous():
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    tables = "".join(
        Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6") if Path("/proc/net", name).exists()
    )
    assert re.search(rf": 0+:{store.port:04X} 0+:0000 ", tables), "it listens on the loopback device alone"


def test_lightning_leaves_an_initialized_process_group_alone(tmp_path):
    trainer = trainer_of(tmp_path, strategy="ddp", devices=1)
    assert "file" not in inspect.getsource(lightning.fabric.utilities.distributed._init_dist_connection)
    quirks.rendezvous_in_file(trainer, f"{tmp_path}/rendezvous")
    trainer.strategy.setup_environment()
    try:
        assert torch.distributed.is_initialized()
        assert (tmp_path / "rendezvous").exists()
    finally:
        torch.distributed.destroy_process_group()


def test_lightning_draws_the_progress_bar_in_every_step():
    every, throttled = TQDMProgressBar(), quirks.ThrottledProgressBar()
    assert [every._should_update(step, 100) for step in (1, 2, 100)] == [True, True, True]
    assert [throttled._should_update(step, 100) for step in (1, 2, 100)] == [True, False, True]


def test_tensorboards_logger_expands_variables_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAME", "other")
    logger = TensorBoardLogger(f"{tmp_path}/$NAME", name="", version="")
    assert "other" in logger.log_dir
    assert quirks.keep_dollar_signs(logger).log_dir == f"{tmp_path}/$NAME"


def test_torch_has_no_public_method_for_a_summary(tmp_path):
    """A pin: `add_image` takes pixels alone, which it compresses."""
    assert not hasattr(SummaryWriter, "add_summary")
    assert ".save(" in inspect.getsource(torch.utils.tensorboard.summary.make_image)


def test_torch_writes_columns_of_hyperparameters_for_all_runs():
    first, *session = torch.utils.tensorboard.summary.hparams({"lr": 0.1}, {"acc": 0.5})
    assert first.value[0].tag == "_hparams_/experiment"
    assert [summary.value[0].tag for summary in session] == [
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    ]


@pytest.mark.parametrize("is_confined", [False, True])
def test_a_checkpoints_state_may_name_any_file(tmp_path, is_confined):
    callback = ModelCheckpoint(tmp_path, monitor="x")
    state = callback.state_dict() | {"best_k_models": {"/elsewhere/other.ckpt": torch.tensor(1.0)}}
    if is_confined:
        quirks.confine_checkpoints(callback, tmp_path)
    callback.load_state_dict(state)
    assert list(callback.best_k_models) == ([] if is_confined else ["/elsewhere/other.ckpt"])


def test_torch_has_no_method_to_undo_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    module = nn.Linear(1, 1)
    module.compile()
    assert quirks.is_compiled(module)
    quirks.undo_compile(module)
    assert not quirks.is_compiled(module)
    assert {name for name in dir(module) if "compile" in name} == {"_compiled_call_impl", "compile"}


@pytest.mark.filterwarnings("ignore:Encountered `nan`")
def test_torchmetrics_drops_a_nan_or_the_weights():
    def mean(metric, value, weight=(1.0, 1.0)):
        metric.update(torch.tensor(value), torch.tensor(weight))
        return metric.compute()

    assert mean(MeanMetric(), [1.0, torch.nan]) == 1
    assert mean(MeanMetric(nan_strategy="disable"), [1.0, 3.0], [3.0, 1.0]) == 2
    assert mean(quirks.mean_metric(), [1.0, 3.0], [3.0, 1.0]) == 1.5
    assert mean(quirks.mean_metric(), [1.0, torch.nan]).isnan()


def test_torchmetrics_shares_the_state_of_metrics_of_other_outputs():
    class Total(Metric):
        def __init__(self):
            super().__init__()
            self.add_state("total", torch.zeros(()), "sum")

        def compute(self):
            return self.total

    class First(Total):
        def update(self, first):
            self.total = self.total + first

    class Second(Total):
        def update(self, second):
            self.total = self.total + second

    totals = []
    for quirk in (lambda metrics: metrics, quirks.without_shared_state):
        metrics = quirk(MetricCollection({"first": First(), "second": Second()}))
        for second in (1.0, 5.0):  # the first update is equal
            metrics.update(first=torch.tensor(1.0), second=torch.tensor(second))
        totals.append({name: value.item() for name, value in metrics.compute().items()})
    assert totals == [{"first": 2, "second": 2}, {"first": 2, "second": 6}]


def test_torchmetrics_has_no_public_method_that_selects_arguments():
    assert not [name for name in dir(Metric) if "filter" in name and not name.startswith("_")]
    assert quirks.taken_by(MeanMetric(), {"value": 1, "other": 2}) == {"value": 1}
