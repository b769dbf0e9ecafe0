"""Times at which to save, by a clock of the test's own."""

from jaxstyle.storage.pace import Pace


def test_intervals_grow_up_to_the_longest() -> None:
    now = 0.0
    pace = Pace(1.0, 5.0, lambda: now)
    saved: list[float] = []
    while now < 30:
        if pace.due():
            pace.saved()
            saved.append(now)
        now += 0.5
    assert saved == [1, 3, 7, 12, 17, 22, 27]


def test_saving_takes_a_small_part_of_the_time() -> None:
    now, spent, saves = 0.0, 0.0, 0
    pace = Pace(1.0, 45.0, lambda: now)
    while now < 2000:
        if pace.due():
            now, spent, saves = now + 1, spent + 2, saves + 1  # the other second in the background
            pace.saved()
            pace.took(2.0)
        now += 1.0
    assert saves > 10
    assert spent / now < 0.025
