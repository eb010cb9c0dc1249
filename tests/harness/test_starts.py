"""Where and how a run starts changes nothing: two agents, torchrun, plain python, killed and resumed."""
import socket
import subprocess
import sys

import numpy as np
from tiny import environment, events, result


def test_two_agents_on_one_host_train_what_one_agent_with_two_ranks_does(project):
    with socket.create_server(("127.0.0.1", 0)) as s:  # the rendezvous needs a port that both agents know
        port = s.getsockname()[1]
    project.run(2)
    where = [f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=two", "--nnodes=2"]
    agents = [subprocess.Popen(project.command(1, *where), env=environment(), cwd=project.folder,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    for agent in agents:
        output, _ = agent.communicate(timeout=120)
        assert agent.returncode == 0, output
    one, two = project.logs()
    assert result(one)["state_sha256"] == result(two)["state_sha256"]
    assert events(two, "manifest")[0]["nodes"] == 2


def test_torchrun_as_people_type_it_and_plain_python_give_the_same(project):
    flags = project.command(1)[6:]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for start in (torchrun, []):
        subprocess.run([sys.executable, *start, "train_gpt2.py", "--track=tiny", *flags], env=environment(),
                       cwd=project.folder, check=True, capture_output=True, timeout=120)
    one, two = project.logs()
    assert result(one)["state_sha256"] == result(two)["state_sha256"]


def test_a_run_killed_and_resumed_equals_the_uninterrupted_one_bit_for_bit(project):
    project.run(2)
    dies = project.adds("dies.py", "if step == 5 and run.rank == 0:", "    import os, signal",
                        "    os.kill(os.getpid(), signal.SIGKILL)")
    project.run(2, "--checkpoint_every=2", script=dies, code=4)
    whole, killed = project.logs()
    assert events(killed, "end") == []
    folder = killed.with_suffix(".checkpoints")
    assert sorted(p.name for p in folder.iterdir()) == ["step000002", "step000004"]
    project.run(2, f"--resume={folder}")
    resumed = project.logs()[-1]
    for fact in ("state_sha256", "val_loss"):
        assert result(resumed)[fact] == result(whole)[fact]
    assert events(resumed, "manifest")[0]["resumed_from"]["step"] == 4
    assert events(resumed, "val")[-1]["tokens"] == events(whole, "val")[-1]["tokens"]
    said = project.run(1, f"--resume={folder}", "--seed=1", code=2).stderr
    assert "a checkpoint of another run: seed 0, not 1" in said and said.count("\n") == 1
    said = project.run(1, f"--resume={folder}", "--stop_at_step=3", code=2).stderr
    assert "stands at step 4, the run is to stop at 3" in said
    # exact reduction: even another world size gives the same bits
    project.run(1, f"--resume={folder}")
    assert result(project.logs()[-1])["state_sha256"] == result(whole)["state_sha256"]
    # a damaged newest checkpoint is refused, the one before is used and named
    state = folder / "step000004" / "rank0.pt"
    np.memmap(state, "u1", "r+")[state.stat().st_size // 2] ^= 1
    project.run(1, f"--resume={folder}")
    again = project.logs()[-1]
    source = events(again, "manifest")[0]["resumed_from"]
    assert source["step"] == 2 and "step000004 is not whole" in source["refused"][0]
    assert result(again)["state_sha256"] == result(whole)["state_sha256"]
    # a half-written one, without its marker, is refused too; where none is left that is told
    (folder / "step000002" / "COMPLETE").unlink()
    done = project.run(1, f"--resume={folder}", code=2)
    assert "no whole checkpoint" in done.stderr and "Traceback" not in done.stderr
