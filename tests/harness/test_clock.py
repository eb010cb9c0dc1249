"""Training time."""
import torch
import torch.distributed as dist

from harness import clock


def _charge(rank_seconds):
    now = [0]
    clock._now_ns = lambda: now[0]
    timer = clock.Clock(torch.device("cpu"))
    for seconds in rank_seconds:  # a segment each
        timer.start()
        now[0] += seconds[dist.get_rank()] * 10**9
        timer.stop()
        with timer.spending("validation"):
            now[0] += 5 * 10**9
    return timer.train_time_ns, timer.account()["validation_ns"], timer.account()["unexplained_ns"]


def test_a_segment_is_charged_at_the_length_it_had_on_the_slowest_rank_and_validation_is_not(ranks):
    answers = ranks(3, _charge, [(1, 2, 3), (7, 1, 1)])
    assert {answer[:2] for answer in answers} == {(10 * 10**9, 10 * 10**9)}
    assert answers[0][2] == (1 + 7 - 10) * 10**9  # this rank waited in truth; its fake clock did not


def timer_at(monkeypatch, *times):
    """Return a clock that finds it to be one time after the other."""
    monkeypatch.setattr(clock, "_now_ns", iter(times).__next__)
    return clock.Clock(torch.device("cpu"))


def test_time_inside_an_open_segment_counts_at_once(alone, monkeypatch):
    timer = timer_at(monkeypatch, 0, 5, 10, 35, 50, 60)
    assert timer.train_time_ns == 0
    timer.start()
    assert timer.running and timer.train_time_ns == 25
    timer.stop()
    assert not timer.running and timer.train_time_ns == 40


def test_a_run_cut_short_inside_a_segment_explains_the_time_of_that_segment(alone, monkeypatch):
    """An interrupted run used to book the training since its last validation as unexplained."""
    timer = timer_at(monkeypatch, 0, 10, 50)
    timer.start()
    account = timer.account()
    assert (account["timed_ns"], account["wall_ns"], account["unexplained_ns"]) == (40, 50, 10)


def test_ranks_meet_before_a_segment_starts_and_the_device_is_waited_for_at_both_ends(alone, monkeypatch):
    """Work that was issued before a border counts before it, and no rank starts alone."""
    done = []
    monkeypatch.setattr(clock.Clock, "synchronize", lambda self: done.append("synchronize"))
    for name in ("_barrier", "_all_reduce", "_now_ns"):
        call = getattr(clock, name)
        noting = lambda *a, name=name, call=call, **k: done.append(name) or call(*a, **k)  # noqa: E731
        monkeypatch.setattr(clock, name, noting)
    timer = clock.Clock(torch.device("cpu"))
    done.clear()
    timer.start()
    timer.stop()
    assert done == ["synchronize", "_barrier", "_now_ns", "synchronize", "_now_ns", "_all_reduce"]


def test_waiting_for_a_gpu_is_asking_torch_for_it_and_a_cpu_is_not_waited_for(monkeypatch):
    asked = []
    monkeypatch.setattr(clock, "_synchronize", asked.append)
    for device in ("cpu", "cuda:1"):
        clock.Clock(torch.device(device)).synchronize()
    assert asked == [torch.device("cuda:1")]
