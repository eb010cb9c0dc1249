"""The head of a log: whose code it names, and what it does not say."""
import importlib
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from harness import environment
from harness.environment import code_facts, command, foreign_modules, process_facts, without_paths
from harness.runlog import ROOT, sha256


def test_a_file_of_the_front_that_a_rank_loaded_stands_among_the_others_and_the_referees_own_do_not():
    """The launcher is in no digest, so a rank that imports it must be seen: verify refuses such a run."""
    alone = code_facts(b"x = 1\n", {"harness/clock.py": b"c"})
    assert alone["others"] == {} and alone["script"] == sha256(b"x = 1\n")
    loaded = {"harness/clock.py": b"c", "harness/front/launch.py": b"l", "mine.py": b"m"}
    facts = code_facts(b"x = 1\n", loaded)
    assert facts["others"] == {"harness/front/launch.py": sha256(b"l"), "mine.py": sha256(b"m")}
    assert facts["harness"] == alone["harness"] and facts["digest"] != alone["digest"]


def test_text_loses_the_folders_of_this_host_and_other_values_stay():
    assert without_paths(f"{ROOT}/a {Path.home()}/c") == "./a ~/c"
    assert without_paths(3) == 3


def test_a_fact_that_cannot_be_had_is_unavailable():
    assert command("no-such-command") == command("false") == "unavailable"
    assert command("echo", "x") == "x"


def test_a_module_from_elsewhere_stands_with_its_digest_and_torchs_stack_pythons_and_ours_do_not(
        tmp_path, monkeypatch):
    """A helper on PYTHONPATH ran and was in no log; also one under a name of torch's stack."""
    package = tmp_path / "zz_helper"
    package.mkdir()
    (package / "__init__.py").write_text("from . import deep\n")
    (package / "deep.py").write_text("x = 1\n")
    (tmp_path / "isympy.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(foreign_modules())
    assert not before & {"torch", "numpy", "tqdm", "harness", "json", "__main__", "sympy", "mpmath"}
    importlib.import_module("zz_helper")
    assert "isympy" in environment.torch_stack()
    importlib.import_module("isympy")
    found = foreign_modules()
    try:
        assert found.keys() - before == {"zz_helper", "isympy"}
        assert found["zz_helper"]["version"] == "unavailable"
        (package / "deep.py").write_text("x = 2\n")
        assert foreign_modules()["zz_helper"]["sha256"] != found["zz_helper"]["sha256"]
    finally:
        for name in ("zz_helper", "zz_helper.deep", "isympy"):
            del sys.modules[name]


def test_a_file_of_pythons_own_may_be_a_link_as_debians_sitecustomize_is(tmp_path, monkeypatch):
    """It made every honest run of a system's Python one for a reader."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "zz_custom.py").write_text("")
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "zz_custom.py").symlink_to(tmp_path / "etc" / "zz_custom.py")
    monkeypatch.syspath_prepend(tmp_path / "python")
    importlib.import_module("zz_custom")
    assert "zz_custom" in foreign_modules()
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path / "python"))
    assert "zz_custom" not in foreign_modules()
    del sys.modules["zz_custom"]


def test_a_package_has_its_version():
    assert foreign_modules()["pytest"]["version"] == pytest.__version__


def test_each_run_of_a_process_knows_how_many_were_before_it():
    first, second = process_facts(), process_facts()
    assert second["runs_before"] == first["runs_before"] + 1 and second["cpu_ns"] >= first["cpu_ns"] > 0


def test_a_rank_that_finds_no_group_leaves_with_one_line(monkeypatch, capsys):
    """Where the launcher was killed while its ranks loaded torch, they showed stacks of Python and C++."""
    def fails(*args, **options):
        raise dist.DistNetworkError("The client socket has timed out\nframe #0: c10d::TCPStore")
    monkeypatch.setattr(dist, "init_process_group", fails)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    with pytest.raises(SystemExit) as left, environment.process_group("cpu"):
        pass
    assert left.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(
        "the ranks found no group (The client socket has timed out); is the launcher gone?")
