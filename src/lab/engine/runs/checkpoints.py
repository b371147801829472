"""Checkpoint files. Writing is atomic, and reading executes no code: a file may hold tensors and plain containers only.

Each file ends with its own SHA-256, so that damage is noticed.
"""

import hashlib
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lab.engine.display import command, say
from lab.engine.errors import RunError, UserError
from lab.engine.folder import BEST, LAST, PREVIOUS
from lab.engine.runs.ending import ENDS

DIGEST = 64  # characters of a SHA-256
NEEDED: dict[str, type] = {  # the entries that a resume needs, and their types
    "state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict, "epoch": int,
    "global_step": int, "epoch_so_far": list, "last": dict, "pytorch-lightning_version": str,
}  # fmt: skip
NEEDED_LAST: dict[str, type] = {
    "batches_that_stepped": int,
    "batches_ready": int,
    "fitted": bool,
    "end": dict,
    "validated": dict,
}
STATES: dict[str, dict[str, type | tuple[type, ...]]] = {  # the states of callbacks, by class name
    "FiniteGuard": {"num_skipped": int},
    "ResumableEarlyStopping": {"wait_count": int, "stopped_epoch": int, "best_score": torch.Tensor, "patience": int},
    "EarlyStopping": {"wait_count": int, "stopped_epoch": int, "best_score": torch.Tensor, "patience": int},
    "BestCheckpoint": {"best": (torch.Tensor, type(None))},
    "ModelCheckpoint": {
        "dirpath": str, "best_k_models": dict, "best_model_path": str, "kth_best_model_path": str,
        "last_model_path": str,
    },
    "EMAWeightAveraging": {"latest_update_step": int},
    "Timer": {"time_elapsed": dict},
}  # fmt: skip


class CheckpointIO(TorchCheckpointIO):
    """Writes a temporary file, syncs it to the disk, and renames it over the old file.

    The old `last.ckpt` becomes `previous.ckpt`. If the disk is full or the process is killed, the old files stay.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(checkpoint, temporary)
            seal(temporary)
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))
            os.replace(temporary, path)
            _sync(path.parent)
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError for a full disk
            free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
            raise RunError(
                f"error: {path} could not be written: {str(error).splitlines()[0]} ({free / 2**20:.0f} MiB are free)."
                f" The earlier checkpoints are intact. Free some space, then resume with run={path.parent}."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        return read(path)


def seal(path: Path) -> None:
    """Append the SHA-256 of a checkpoint, which is a zip archive, as the archive's comment, and sync the file."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(DIGEST.to_bytes(2, "little"))  # the length of the comment
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def stored_digest(path: Path) -> str:
    """The SHA-256 at the end of a sealed checkpoint; it is not compared with the content."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - DIGEST))
        return file.read().decode(errors="replace")


def read(source: str | Path, sealed: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Args:
        source: a file, or an https:// address.
        sealed: the file must end with its SHA-256, as lab writes it. Otherwise the CRCs of the zip archive are checked.

    Raises:
        UserError: the file is missing or damaged, or holds other objects than tensors and plain containers.
    """
    if not str(source).startswith(("http://", "https://")):
        return _read(Path(source), str(source), sealed)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "downloaded.ckpt"
        try:
            torch.hub.download_url_to_file(str(source), str(target), progress=False)
        except OSError as error:
            raise UserError(f"error: {source} could not be downloaded: {error}") from error
        return _read(target, str(source), sealed)


def _read(path: Path, name: str, sealed: bool) -> dict[str, Any]:
    if problem := damage(path, sealed):
        raise UserError(f"error: {name} {problem}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 weights alone
    except Exception as error:  # a damaged pickle can raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"error: {name} is not loaded: a checkpoint may only hold tensors and plain containers ({reason[:150]})."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"error: {name} is not a checkpoint: it holds a {type(content).__name__}.")
    return content


def damage(path: Path, sealed: bool = True) -> str | None:
    """The damage of a checkpoint file, as the end of a sentence; None if it is intact."""
    if sealed and path.is_symlink():  # other checkpoints may be links, as in the cache of a model hub
        return "is a symbolic link; a run's folder may only hold regular files"
    if not path.is_file():
        return "does not exist"
    if sealed:
        with open(path, "rb") as file:
            left, hashed = path.stat().st_size - DIGEST, hashlib.sha256()
            while left > 0 and (chunk := file.read(min(left, 2**20))):
                left -= len(chunk)
                hashed.update(chunk)
            return None if file.read() == hashed.hexdigest().encode() else "is damaged (its checksum does not match)"
    try:
        with zipfile.ZipFile(path) as archive:
            return "is damaged (a checksum does not match)" if archive.testzip() else None
    except (OSError, zipfile.BadZipFile, EOFError):
        return "is damaged (it is not a complete zip archive)"


def check_content(content: dict[str, Any], path: Path) -> None:
    """Raises UserError if a checkpoint lacks an entry that a resume needs, or an entry has a wrong type."""
    if key := next(_wrong_entries(content), None):
        raise UserError(f"error: {path}: a run cannot resume from it: {key} is missing or has a wrong type.")


def _wrong_entries(content: dict[str, Any]) -> Iterator[str]:
    """Yield the dotted keys that are missing or have a wrong type. Use only the first: others may follow from it."""
    yield from _unlike(NEEDED, content)
    if not re.match(r"\d+\.\d+", content["pytorch-lightning_version"]):
        yield "pytorch-lightning_version"
    yield from _unlike(NEEDED_LAST, content["last"], "last.")
    yield from _unlike(dict.fromkeys(ENDS, object), content["last"]["end"], "last.end.")
    yield from _unlike(_loops(), content["loops"].get("fit_loop"), "loops.fit_loop.")
    for name, state in content["callbacks"].items():
        yield from _unlike(STATES.get(str(name).partition("{")[0], {}), state, f"callbacks.{name}.")
    for key, parts in (("optimizer_states", {"state": dict, "param_groups": list}), ("lr_schedulers", {})):
        if len(content[key]) != 1:
            yield key
            return
        yield from _unlike(parts, content[key][0], f"{key}.0.")
    for i, group in enumerate(content["optimizer_states"][0]["param_groups"]):
        yield from _unlike({"params": list, "lr": float | int | torch.Tensor}, group, f"optimizer_states.0.{i}.")
    for i, epoch in enumerate(content["epoch_so_far"]):
        yield from _epoch_so_far(epoch, f"epoch_so_far.{i}.")


def _epoch_so_far(epoch: Any, prefix: str) -> Iterator[str]:
    """Yield the wrong entries in one process's sums and metrics of the current epoch; see `Task.on_save_checkpoint`."""
    pattern = {"sums": tuple | NoneType, "metrics": dict, "pending": {"offered": list, "rows": dict}}
    if problems := list(_unlike(pattern, epoch, prefix)):
        yield from problems
        return
    rows, names = epoch["pending"]["rows"], epoch["pending"]["offered"]
    if epoch["sums"] is not None and not _is_sum(epoch["sums"]):
        yield f"{prefix}sums"
    if not _all_tensors(epoch["metrics"]):
        yield f"{prefix}metrics"
    lengths = {value.shape[:1] for value in rows.values()} if _all_tensors(rows) else set()
    if len(lengths) != min(1, len(rows)) or () in lengths or not {*rows} <= {*names}:
        yield f"{prefix}pending.rows"


def _is_sum(sums: tuple[Any, ...]) -> bool:
    """Return whether it is a pair: scalar totals by name, and a number."""
    return (
        len(sums) == 2
        and _all_tensors(sums[0])
        and all(total.ndim == 0 for total in sums[0].values())
        and isinstance(sums[1], int | float | torch.Tensor)
    )


def _all_tensors(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, torch.Tensor) for value in values.values())


@cache
def _loops() -> dict[str, Any]:
    """The state of a new Lightning training loop; the states of all loops have the same keys and types."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[LightningEnvironment()])
    return trainer.fit_loop.state_dict()


def _unlike(pattern: dict[str, Any], content: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a pattern that other content lacks or has with another type.

    Args:
        pattern: types, or example values, by key; it may be nested.
        content: what is compared with the pattern.
        prefix: put before each key.
    """
    if not isinstance(content, dict):
        yield prefix.removesuffix(".")
        return
    for key, value in pattern.items():
        if isinstance(value, dict):
            yield from _unlike(value, content.get(key), f"{prefix}{key}.")
        elif key not in content or not isinstance(content[key], _type_of(value)):
            yield f"{prefix}{key}"


def _type_of(value: Any) -> Any:
    return value if isinstance(value, type | tuple | UnionType) else type(value)


def check_optimizer(content: dict[str, Any], task: Any, path: Path) -> None:
    """Raises UserError if the optimizer in a checkpoint has other parameters than the task's optimizer."""
    current, saved = task.build_optimizer().state_dict(), content["optimizer_states"][0]
    indices = {i for group in current["param_groups"] for i in group["params"]}
    if group_sizes(current) != group_sizes(saved) or not saved["state"].keys() <= indices:
        sizes = ", ".join(f"{num} in {name}" if name else str(num) for name, num in group_sizes(saved))
        raise UserError(f"error: {path}: its optimizer does not fit this net: it has {sizes} parameters.")
    names, schedule = task.parameters_of().keys(), content["lr_schedulers"][0]
    if len(names) > 1 and next(_unlike({"schedules": dict.fromkeys(names, dict)}, schedule), None):
        raise UserError(f"error: {path}: expected a schedule for each of {', '.join(names)}.")


def group_sizes(optimizer_state: dict[str, Any]) -> list[tuple[str | None, int]]:
    """The name and the number of parameters of each parameter group of an optimizer."""
    return [(group.get("name"), len(group["params"])) for group in optimizer_state["param_groups"]]


def check_weights(weights: dict[str, Any], module: torch.nn.Module, path: Path) -> None:
    """Raises UserError if the tensors of a checkpoint differ from those of a module in name or shape."""
    current, saved = (
        {name: getattr(value, "shape", None) for name, value in each.items()} for each in (module.state_dict(), weights)
    )
    if others := sorted(name for name in current | saved if current.get(name) != saved.get(name)):
        raise UserError(f"error: {path}: the checkpoint does not fit this net: {', '.join(others[:3])} differ.")


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint to resume from; None if the run was stopped before its first checkpoint.

    Raises:
        UserError: all checkpoints are damaged.
    """
    problems: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        if not (problem := damage(path)):
            for other in problems:
                say(f"warning: {other}; {path.name} is used instead.", file=sys.stderr)
            return path
        problems.append(f"{path} {problem}")
    if problems:
        hint = f"No checkpoint is intact. Start a new run, perhaps with {command(f'finetune={folder / BEST}')}."
        raise UserError(f"error: {'; '.join(problems)}. {hint}")
    return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
