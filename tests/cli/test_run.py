from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Tilework = Callable[..., subprocess.CompletedProcess[str]]
Script = Callable[[str], str]

COMPUTES = """
    import tilework as tw
    print(tw.compute(*[tw.delayed(pow)(k, 2) for k in range(5)]))
"""


def test_a_script_runs_and_is_summed_up(tilework: Tilework, script: Script) -> None:
    done = tilework("run", script(COMPUTES))
    assert done.returncode == 0
    assert done.stdout == "(0, 1, 4, 9, 16)\n"  # and nothing of ours
    lines = {line[:20].strip(): line[20:].strip() for line in done.stderr.splitlines()}
    assert lines["computations"] == "1"
    assert lines["tasks"] == "5"
    assert "wall time" in lines
    assert " of work on " in lines["parallel efficiency"]
    assert "measured" in lines["peak memory"]
    assert "budget" in lines["peak memory"]


def test_a_script_finds_everything_as_python_would_give_it(tilework: Tilework, script: Script, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("value = 'next to it'")
    code = """
        # a comment with an umlaut: ü
        import os, pickle, sys, neighbour, __main__
        class Thing: pass
        assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)
        assert __main__.Thing is Thing
        print(__name__, sys.argv, neighbour.value, __file__, os.getcwd() == sys.path[0], __builtins__ is not None)
        def annotated(x: undefined_name = 1): ...
    """
    done = tilework("run", script(code), "--memory", "-x", "two words")
    assert done.stdout == ("__main__ ['script.py', '--memory', '-x', 'two words'] next to it script.py True True\n")
    assert "NameError: name 'undefined_name'" in done.stderr  # our own __future__ imports are not the script's


def test_settings_hold_in_the_script_and_its_threads(tilework: Tilework, script: Script) -> None:
    code = """
        import threading
        import tilework as tw
        def show():
            settings = tw.config.get()
            print(settings.scheduler, settings.workers, settings.memory)
        show()
        thread = threading.Thread(target=show)
        thread.start()
        thread.join()
    """
    done = tilework("run", "--scheduler", "single-threaded", "--workers", "3", "--memory", "300MB", script(code))
    assert done.stdout == "sync 3 300000000\n" * 2
    assert "computations  none" in done.stderr


def test_xarray_uses_tilework_without_being_asked(tilework: Tilework, script: Script) -> None:
    code = """
        import sys
        assert "xarray" not in sys.modules
        import xarray as xr
        print(xr.get_options()["chunk_manager"], xr.__spec__.loader.__class__.__name__)
        data = xr.Dataset({"a": ("x", range(6))}).chunk(x=2)
        print(type(data.a.data).__module__.split(".")[0], int(data.a.sum()))
    """
    done = tilework("run", script(code))
    assert done.stdout == "tilework SourceFileLoader\ntilework 15\n", done.stderr
    assert "computations         1" in done.stderr


def test_scripts_that_do_without_xarray_do_not_pay_for_it(tilework: Tilework, script: Script) -> None:
    done = tilework("run", script("import sys; print({'xarray', 'pandas', 'dask', 'zarr'} & set(sys.modules))"))
    assert done.stdout == "set()\n"


def test_an_error_shows_the_script_alone(tilework: Tilework, script: Script) -> None:
    code = """
        def inner():
            raise RuntimeError("of the script's own")
        print("before")
        inner()
    """
    done = tilework("run", script(code))
    assert done.returncode == 1
    assert done.stdout == "before\n"
    assert done.stderr.startswith('Traceback (most recent call last):\n  File "script.py", line 5, in <module>')
    assert "RuntimeError: of the script's own" in done.stderr
    assert "tilework/cli" not in done.stderr
    assert "computations  none" in done.stderr  # it is summed up all the same


def test_an_error_in_a_task_shows_the_users_function(tilework: Tilework, script: Script) -> None:
    code = """
        import tilework as tw
        def divide(x):
            return 1 / x
        tw.compute(tw.delayed(divide)(0))
    """
    done = tilework("run", script(code))
    assert done.returncode == 1
    assert 'File "script.py", line 4, in divide' in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "computations         1, 1 failed" in done.stderr


def test_a_syntax_error(tilework: Tilework, script: Script) -> None:
    done = tilework("run", script("x = = 1"))
    assert done.returncode == 1
    assert done.stderr.startswith('  File "script.py", line 1\n')
    assert "SyntaxError" in done.stderr


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('an explanation')", 1, "an explanation\n"),
        ("raise SystemExit(3)", 3, ""),
    ],
)
def test_exit_codes_are_passed_on(tilework: Tilework, script: Script, end: str, code: int, message: str) -> None:
    done = tilework("run", script(f"import sys\n{end}"))
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_ends_script_and_computation(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import threading\nimport tilework as tw\n"
        "def wait():\n    print('waiting', flush=True)\n    threading.Event().wait(60)\n"
        "tw.compute(tw.delayed(wait)(), scheduler='sync')\n"
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "tilework", "run", "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in errors
    assert "computations" in errors


@pytest.mark.parametrize("ending", ["json", "html"])
def test_report(tilework: Tilework, script: Script, tmp_path: Path, ending: str) -> None:
    done = tilework("run", "--report", f"report.{ending}", script(COMPUTES))
    assert f"report.{ending}" in done.stderr
    text = (tmp_path / f"report.{ending}").read_text()
    assert "script.py" in text
    if ending == "json":
        assert json.loads(text)["summary"]["tasks"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.py"], "no script 'missing.py'"),
        (["run", "--memory", "much", "script.py"], "memory='much'"),
        (["run", "--scheduler", "treads", "script.py"], "did you mean 'threads'"),
        (["run", "--workers", "0", "script.py"], "workers='0' is too small"),
        (["run", "--report", "report.pdf", "script.py"], "must end in .html or .json"),
        (["explain", "missing.py"], "no script 'missing.py'"),
        (["run"], "required: script"),
        ([], "required: command"),
    ],
)
def test_bad_arguments_are_refused_before_the_script_starts(
    tilework: Tilework, script: Script, arguments: list[str], message: str
) -> None:
    script("print('started')")
    done = tilework(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_the_progress_extra_a_script_still_runs(tilework: Tilework, script: Script, tmp_path: Path) -> None:
    (tmp_path / "tqdm").mkdir()
    (tmp_path / "tqdm" / "__init__.py").write_text("raise ImportError('not here')")
    done = tilework(
        "run", script(COMPUTES), PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    )
    assert done.returncode == 0
    assert done.stdout == "(0, 1, 4, 9, 16)\n"
    assert "pip install 'tilework[progress]'" in done.stderr


# ---------------------------------------------------------------- explain


TWO = """
    import tilework as tw
    def work(k):
        print("working", flush=True)
        return k
    print("begin", flush=True)
    try:
        tw.compute(tw.delayed(work)(1))
    except Exception:
        print("a script that catches everything")
    tw.compute(*[tw.delayed(work)(k) for k in (2, 3)])
    print("end")
"""


def test_explain_stops_before_the_first_computation(tilework: Tilework, script: Script) -> None:
    done = tilework("explain", "--memory", "1GiB", script(TWO))
    assert done.returncode == 0
    assert done.stdout.startswith("begin\nComputation 1: 1 operation in 1 stage, 1 task\n")
    assert "of 1.0 GiB" in done.stdout
    for word in ["working", "catches", "Computation 2", "end"]:
        assert word not in done.stdout


def test_explain_all_runs_what_it_explains(tilework: Tilework, script: Script) -> None:
    done = tilework("explain", "--all", script(TWO))
    assert done.stdout.index("Computation 1") < done.stdout.index("working") < done.stdout.index("Computation 2")
    assert done.stdout.count("working") == 3
    assert done.stdout.endswith("end\n")


def test_explain_a_script_that_computes_nothing(tilework: Tilework, script: Script) -> None:
    done = tilework("explain", script("print(1)"))
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "computes nothing" in done.stderr
