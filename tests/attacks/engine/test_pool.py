"""Which rows run at a time, and which count."""

from igd_ray.attacks.engine.pool import Pool, Row


def test_the_first_rows_of_all_images_come_before_the_second_of_any() -> None:
    pool = Pool([4, 7], rows=2, capacity=3)
    assert pool.enter() == [Row(4, 0), Row(7, 0), Row(4, 1)]
    assert pool.enter() == []


def test_a_waiting_row_takes_the_place_of_one_that_leaves() -> None:
    pool = Pool([0, 1, 2], rows=1, capacity=2)
    pool.enter()
    assert pool.leave([Row(0, 0)]) == [1]
    assert pool.enter() == [Row(2, 0)]
    assert pool.running == [Row(1, 0), Row(2, 0)]


def test_a_row_that_breaks_its_image_ends_those_behind_it_running_or_waiting() -> None:
    pool = Pool([0, 1], rows=3, capacity=4)
    assert pool.enter() == [Row(0, 0), Row(1, 0), Row(0, 1), Row(1, 1)]
    pool.breaks(Row(0, 0))
    assert pool.leave([Row(0, 0)]) == [1, 3]
    assert pool.enter() == [Row(1, 2)]


def test_rows_before_the_one_that_breaks_its_image_run_on_and_may_count_instead() -> None:
    pool = Pool([0], rows=3, capacity=3)
    pool.enter()
    pool.breaks(Row(0, 1))
    assert pool.leave([Row(0, 1)]) == [0]
    assert pool.running == [Row(0, 0)]
    pool.breaks(Row(0, 0))
    assert pool.leave([Row(0, 0)]) == []
    assert pool.enter() == []


def test_every_row_of_an_image_that_stands_runs() -> None:
    pool = Pool(range(5), rows=4, capacity=3)
    seen: list[Row] = []
    while True:
        seen += pool.enter()
        if not pool.running:
            break
        pool.leave(pool.running[:1])
    assert sorted(seen) == [Row(image, place) for image in range(5) for place in range(4)]
