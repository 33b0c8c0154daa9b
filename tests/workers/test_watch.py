"""When an engine counts as hung: the clock by itself."""

from workers.watch import CPU_PATIENCE, MAX_PIECE_S, StallClock, Watch


class Engine:
    num_reports = 0
    is_heard = True
    kills = 0

    def kill(self) -> None:
        self.kills += 1


def watch_for(engine: Engine, seconds: float, watch: Watch, *, start_s: float = 100.0) -> float:
    """Look every half second; the time after it."""
    for look in range(int(seconds * 2)):
        watch.look(start_s + look / 2)
    return start_s + seconds


def test_a_silent_engine_with_work_is_killed_in_time():
    engine = Engine()
    watch = Watch(engine, lambda: True, device="cuda:0", stall_s=5)
    now_s = watch_for(engine, 5, watch)
    assert engine.kills == 0
    watch.look(now_s)
    assert engine.kills == 1


def test_a_report_starts_the_clock_again():
    engine = Engine()
    watch = Watch(engine, lambda: True, device="cuda:0", stall_s=5)
    now_s = watch_for(engine, 4, watch)
    engine.num_reports += 1
    watch_for(engine, 4, watch, start_s=now_s)
    assert engine.kills == 0


def test_the_engine_after_a_hung_one_has_all_its_time():
    engine = Engine()
    watch = Watch(engine, lambda: True, device="cuda:0", stall_s=5)
    now_s = watch_for(engine, 5.5, watch)
    assert engine.kills == 1
    watch_for(engine, 4, watch, start_s=now_s)
    assert engine.kills == 1


def test_an_engine_without_work_or_that_is_not_heard_may_be_silent():
    engine = Engine()
    watch_for(engine, 60, Watch(engine, lambda: False, device="cuda:0", stall_s=5))
    engine.is_heard = False
    watch_for(engine, 60, Watch(engine, lambda: True, device="cuda:0", stall_s=5))
    assert engine.kills == 0


def test_a_step_on_a_cpu_may_take_longer():
    engine = Engine()
    watch = Watch(engine, lambda: True, device="cpu", stall_s=5)
    now_s = watch_for(engine, 5 * CPU_PATIENCE, watch)
    assert engine.kills == 0
    watch.look(now_s)
    assert engine.kills == 1


def test_a_pause_of_the_worker_itself_is_not_the_engine_s():
    clock = StallClock()
    assert clock.look(0.0, 1, True) == 0.0
    assert clock.look(3600.0, 1, True) == MAX_PIECE_S


def test_it_looks_often_enough_for_a_short_limit():
    assert Watch(Engine(), lambda: True, device="x", stall_s=0.2).period_s <= 0.05
