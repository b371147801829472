"""The `lab` command in a process forked from one that has imported everything."""

import os
import sys
import traceback
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1"}

from lab.engine import cli

for module in ("lab.train", "lab.sweep.main", "lab.data.text_files", "lab.verbs.explain.main", "lab.verbs.export.main"):
    cli.import_heavy(module)


def lab(folder: Path, *words: str) -> tuple[int, str]:
    """`lab WORDS` in a folder: its exit code, and what it wrote to standard error."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, ".out"), (2, ".err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["lab", *words]
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, (folder / ".err").read_text(errors="replace")
