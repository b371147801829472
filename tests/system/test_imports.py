"""The imports of a command: it leaves out what few runs use, and all of it works when a program does use it."""

import re
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
import torchmetrics
import torchvision

from lab.engine.training.import_quirks import COMPILER, OPTIONAL

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "triton", "torchvision", "matplotlib", "sklearn",
         "scipy.signal", "scipy.sparse")  # fmt: skip
IMPORT = """
import sys
from lab.engine import cli
from lab.engine.training.import_quirks import StandIn, loaded
cli.import_heavy("lab.train")
import torch, lightning
"""
PACKAGES = {
    package.__name__: Path(package.__file__).parent for package in (lightning, torch, torchmetrics, torchvision)
}
TAKEN = {  # the file and the line for which each stand-in is there
    "torch._dynamo": ("lightning/fabric/wrappers.py", "from torch._dynamo import OptimizedModule"),
    "torch._dynamo.utils": ("torchvision/ops/roi_align.py", "from torch._dynamo.utils import is_compile_supported"),
    "torch._inductor": ("torch/__init__.py", "    import torch._inductor.config as inductor_config"),
    "torch._inductor.config": ("torch/__init__.py", "    inductor_config.deterministic = mode"),
    "scipy.signal": ("torchmetrics/__init__.py", "    import scipy.signal"),
    "torch.utils.flop_counter": (
        "lightning/pytorch/utilities/model_summary/model_summary.py",
        "from torch.utils.flop_counter import FlopCounterMode",
    ),
    "torchmetrics.utilities.plot": ("torchmetrics/utilities/plot.py", "    import matplotlib.pyplot as plt"),
    "torchvision": ("torchmetrics/functional/image/arniqa.py", "    from torchvision import transforms"),
    "torchvision.models": ("torchmetrics/functional/image/arniqa.py", "    from torchvision.models import resnet50"),
    "transformers": ("torchmetrics/text/bert.py", "    from transformers import AutoModel, AutoTokenizer"),
}
USES = {
    "optimizer": """
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([parameter])
parameter.sum().backward()
optimizer.step()
optimizer.zero_grad()
torch.use_deterministic_algorithms(True)
assert not loaded("torch._dynamo") and "sympy" not in sys.modules
from torch._inductor import config
assert config.max_autotune is False and loaded("torch._dynamo") and loaded("torch._inductor.config")
assert torch._inductor.config.deterministic is True, "what was assigned before the import is kept"
""",
    "compile": """
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([parameter], 0.1)
def step(x):
    (parameter * x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    return x + 1
step(torch.ones(2))
compiled = torch.compile(step, backend="aot_eager")
assert compiled(torch.ones(2)).tolist() == [2, 2] and len(optimizer.param_groups) == 3
assert torch.allclose(parameter, torch.tensor(0.8))
module = torch.compile(torch.nn.Linear(2, 2), backend="aot_eager", fullgraph=True)
assert module(torch.ones(1, 2)).shape == (1, 2) and loaded("torch._dynamo")
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
from lightning.fabric.wrappers import _unwrap_compiled
from torch._dynamo import OptimizedModule
assert isinstance(module, OptimizedModule) and _unwrap_compiled(module)[0] is module._orig_mod
""",
    "submodule": """
import torch._dynamo.eval_frame as frames
assert frames is torch._dynamo.eval_frame is sys.modules["torch._dynamo.eval_frame"]
assert frames.OptimizedModule is torch._dynamo.OptimizedModule, "it was executed once"
assert frames.__spec__.origin.endswith("eval_frame.py")
@torch._dynamo.disable
def f():
    torch._dynamo.graph_break()
    return 1
assert f() == 1
""",
    "disabled": """
calls = []
@torch.compiler.disable
def f(x):
    calls.append(torch.compiler.is_compiling())
    return x * 2
@torch.compiler.disable(recursive=False)
def g(x):
    return f(x)
assert f(torch.ones(1)) == 2 and not loaded("torch._dynamo")
assert torch.compile(lambda x: f(x) + g(x + 1), backend="eager")(torch.ones(1)) == 6
assert calls == [False] * 3
""",
    "lightning": """
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.example_input_array = torch.nn.Linear(2, 1), torch.ones(1, 2)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch, batch_idx):
        loss = self(batch).mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)
def fit(module):
    arguments = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    trainer = lightning.Trainer(accelerator="cpu", **arguments)
    trainer.fit(module)
    return trainer.callback_metrics["loss"]
loss = fit(Module())
assert fit(torch.compile(Module(), backend="eager")) < 9 and loaded("torch._dynamo")
from lightning.pytorch.utilities.model_summary import ModelSummary
assert ModelSummary(Module(), max_depth=1).total_flops == 4
""",
    "export": """
program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(4, 2),), dynamic_shapes=({0: torch.export.Dim("n")},))
assert program.module()(torch.ones(7, 2)).shape == (7, 3)
""",
    "detection": """
from torchvision.models import detection
model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
assert set(model([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}
from torchvision.ops import nms, roi_align
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5]])
assert nms(boxes, torch.tensor([0.5, 0.6]), 0.5).tolist() == [1]
assert roi_align(torch.ones(1, 1, 8, 8), [boxes], 2).shape == (2, 1, 2, 2)
""",
    "torchmetrics": """
import torchmetrics
from torchmetrics.functional.image import arniqa
from torchmetrics.image import StructuralSimilarityIndexMeasure
image = torch.rand(1, 1, 16, 16)
assert StructuralSimilarityIndexMeasure(data_range=1.0)(image, image) > 0.99
metric = torchmetrics.MeanMetric()
metric.update(1.0)
figure, axes = metric.plot()
assert type(figure).__name__ == "Figure"
from torchmetrics.functional.image import arniqa
names = vars(sys.modules["torchmetrics.functional.image.arniqa"])
assert names["resnet50"]().fc.in_features == 2048 and names["transforms"].Resize(3)(image).shape[-1] == 3
from scipy import signal
assert signal.windows.hamming(3)[1] == 1
""",
    "fsdp": """
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
fully_shard(module, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
module(torch.ones(3, 2)).mean().backward()
torch.optim.SGD(module.parameters(), 0.1).step()
assert FSDPStrategy(auto_wrap_policy={torch.nn.Linear}).kwargs
torch.distributed.destroy_process_group()
""",
}


@pytest.mark.parametrize("module", [*COMPILER, *OPTIONAL])
def test_the_libraries_still_import_each_module(module):
    """A pin of their sources: an import takes seconds."""
    path, line = TAKEN[module]
    package, _, rest = path.partition("/")
    text = (PACKAGES[package] / rest).read_text()
    assert re.search(f"^{re.escape(line)}$", text, re.MULTILINE), f"{path} has no {line}; remove the stand-in"


def test_the_optimizers_of_torch_still_import_the_compiler():
    assert re.search(r"^ +import torch\._dynamo$", (PACKAGES["torch"] / "optim/optimizer.py").read_text(), re.MULTILINE)
    assert re.search(r"^ +import torch\._dynamo$", (PACKAGES["torch"] / "_compile.py").read_text(), re.MULTILINE)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("use", USES)
def test_what_a_command_does_not_import_works_when_a_program_uses_it(use):
    python(IMPORT + USES[use])


PREPARED = """
from lab.data import text, translation  # their splits have groups
print(*(name for name in sys.modules if loaded(name)))
from lab.engine.config.compose import compose_config
from lab.sweep.pool import Pool
Pool(1, num_gpus=0).prepare(compose_config("train", ["experiment=digits"]))
print(*(name for name in sys.modules if loaded(name)))
"""


def test_a_command_imports_no_module_that_few_runs_use_and_a_sweep_those_of_its_jobs():
    loaded, of_sweep = (set(line.split()) for line in python(IMPORT + PREPARED).splitlines())
    assert "lightning" in loaded
    assert not set(HEAVY) & loaded
    assert {"lab.data.images", "lab.nets.cnn", "lab.tasks.classification", "matplotlib.figure"} <= of_sweep - loaded
