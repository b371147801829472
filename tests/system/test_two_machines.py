"""torchrun over two machines, which are two network namespaces."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import LAB, TINY

WORDS = ["experiment=digits", *TINY.split(), "net.dropout=0.3", "trainer=ddp_cpu"]


@pytest.fixture
def start(tmp_path):
    """Start a `lab` command on both machines by torchrun."""
    script = str(Path(__file__).with_name("two_machines.sh"))
    if subprocess.run([script, "0", "true"], capture_output=True).returncode:
        pytest.skip("there are no two machines here; tests/system/two_machines.sh up makes them")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--no-python"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=node0:29500", "--rdzv-id=7", "--max-restarts=3"]
    environ = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> list[subprocess.Popen[bytes]]:
        for machine in "01":
            with open(tmp_path / f"out{machine}", "w") as out:
                command = [script, machine, *torchrun, str(LAB), *arguments]
                agents.append(subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=out, stderr=out))
        return agents

    yield start
    for agent in agents:
        agent.kill()


def test_a_run_of_two_machines_that_loses_a_process_has_the_metrics_of_one_machine(start, lab, tmp_path):
    words = [*WORDS, "trainer.max_epochs=60"]
    agents = start("train", *words, "trainer.devices=1", "trainer.num_nodes=2")
    end = time.monotonic() + 100
    while not list(tmp_path.glob("logs/*/*/last.ckpt")):
        assert time.monotonic() < end, (tmp_path / "out0").read_text()
        time.sleep(0.05)
    (worker,) = Path(f"/proc/{agents[1].pid}/task/{agents[1].pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    codes = [agent.wait(150) for agent in agents]
    said = (tmp_path / "out0").read_text()
    assert codes == [0, 0], said
    assert "resumes at step" in said
    (folder,) = (tmp_path / "logs/digits").iterdir()
    assert folder.name.startswith("torchrun-7_")
    assert lab("train", *words, f"run={tmp_path}/alone").returncode == 0
    assert (folder / "metrics.csv").read_text() == (tmp_path / "alone/metrics.csv").read_text()
    one, other = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "alone"))
    assert one["test"] == other["test"]
