"""What a run's folder holds, and whether one is a finished run. Nothing heavy is imported here."""

import json
from pathlib import Path
from typing import Any

from lab.errors import UserError

CONFIG, FACTS, RESULTS, STAMP, BEST = "config.yaml", "data.json", "results.json", "stamp.json", "best.ckpt"


def check_finished(folder: Path) -> None:
    """Refuse a folder that is not that of a finished run.

    Raises:
        UserError: the folder, and what is wrong with it.
    """
    missing = [name for name in (RESULTS, CONFIG, FACTS, BEST) if not (folder / name).is_file()]
    if not folder.is_dir():
        problem = "there is no such folder"
    elif missing:
        problem = f"it has no {missing[0]}"
    elif (status := read_json(folder / RESULTS)["status"]) != "finished":
        problem = f"its status is {status}"
    else:
        return
    raise UserError(f"error: {folder} is not a finished run: {problem}. lab train makes one.")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
