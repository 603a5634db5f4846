"""The clock that says where a worker's time goes."""

import time

import pytest

from agegender.pipelines.runtime.stage_clock import StageClock

STEP_S = 0.05


def test_stages_and_the_rest_add_up_to_the_whole() -> None:
    clock = StageClock()

    def slow():
        for item in "ab":
            time.sleep(STEP_S)
            yield item

    began_s = time.perf_counter()
    with clock.rest("other"):
        for _ in clock.each("fetch", slow()):
            with clock.stage("decode"):
                time.sleep(2 * STEP_S)
        time.sleep(STEP_S)
    whole_s = time.perf_counter() - began_s
    taken = clock.take()
    assert taken["fetch"] >= 2 * STEP_S
    assert taken["decode"] >= 4 * STEP_S
    assert taken["other"] >= STEP_S
    assert sum(taken.values()) == pytest.approx(whole_s, abs=0.01)


def test_what_was_taken_is_not_taken_again_and_the_time_of_a_failure_counts() -> None:
    clock = StageClock()
    clock.add("wait", 3.0)
    assert clock.take() == {"wait": 3.0}
    with pytest.raises(ValueError, match="bad"), clock.rest("other"), clock.stage("decode"):
        raise ValueError("bad")
    assert clock.take().keys() == {"decode", "other"}
    assert clock.take() == {}


def test_an_error_of_what_is_handed_on_comes_out() -> None:
    def broken():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(StageClock().each("fetch", broken()))
