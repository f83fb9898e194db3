"""Runs the corpus through `raybench plan` in one process, as the command line does; a line of JSON a case."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from pathlib import Path

from raybench.cli import _guarded
from raybench.plan import main as plan
from tests.hostile.corpus import cases


def main() -> None:
    file = Path(sys.argv[1])
    for case in cases():
        if case.text is not None:
            file.write_bytes(case.text.encode("utf-8", "surrogatepass"))
        argv = [token.replace("space=file", f"space={file}") for token in case.argv]
        out, err = io.StringIO(), io.StringIO()
        begun = time.process_time()
        failure = ""
        code: int | None = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = _guarded(plan, argv)
            except BaseException as error:
                failure = f"{type(error).__name__}: {error}"[:300]
        result = {
            "name": case.name, "may_pass": case.may_pass, "code": code, "failure": failure, "error": err.getvalue(),
            "out": len(out.getvalue()), "seconds": time.process_time() - begun,
            "peak_mib": peak_mib(),
        }  # fmt: skip
        sys.stdout.write(json.dumps(result) + "\n")


def peak_mib() -> int:
    """The most that this process held. Not `ru_maxrss`, which Linux hands down from the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) // 1024


if __name__ == "__main__":
    main()
