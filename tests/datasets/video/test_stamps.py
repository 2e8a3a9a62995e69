"""Times that fit the order are kept, the others are put between them; time never goes back."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.video.stamps import RUN, shown_at

steps = st.lists(st.integers(1, 50), min_size=4, max_size=60)
FEW = settings(max_examples=100, deadline=None)


def times(pts, dts=None, step=10):
    return list(shown_at(pts, dts or [None] * len(pts), step))


def test_stamps_that_fit_are_kept_and_the_others_lie_between():
    assert times([0, 10, None, 40]) == [0, 10, 25, 40]
    assert times([0, 10, 900, 30, 40]) == [0, 10, 20, 30, 40]
    assert times([0, 10, 0, 30, 40]) == [0, 10, 20, 30, 40]
    assert times([0, 10, 10, 30]) == [0, 10, 20, 30]
    assert times([None, None, 30, 50, None]) == [10, 20, 30, 50, 60]
    assert times([None] * 3) == [0, 10, 20]
    assert times([5, 7, 400]) == [5, 7, 400]  # the last picture but one stands


def test_a_clock_that_starts_again_goes_on():
    once = list(range(0, 200, 10))
    assert times(once + once) == list(range(0, 400, 10))


def test_decoding_stamps_replace_guessed_ones():
    """What FFmpeg gives for H.264 with B-frames in AVI."""
    pts, dts = [1, 2, 4, 3, 5, 7, 6, 8, 10, 9], list(range(2, 12))
    assert times(pts, dts, step=1) == dts


@FEW
@given(steps, st.data())
def test_one_wrong_stamp_moves_no_other(gaps, data):
    right = np.cumsum(gaps)
    place = data.draw(st.integers(1, len(right) - 3))
    stamps = [int(t) for t in right]
    too_low, too_high = st.integers(-(10**9), stamps[place - 1]), st.integers(stamps[place + 2], 10**9)
    stamps[place] = data.draw(st.one_of(st.none(), too_low, too_high))
    found = shown_at(stamps, [None] * len(stamps), 10)
    np.testing.assert_array_equal(np.delete(found, place), np.delete(right, place))
    assert right[place - 1] < found[place] < right[place + 1]


@FEW
@given(st.lists(st.one_of(st.none(), st.integers(-1000, 1000)), min_size=1, max_size=3 * RUN))
def test_time_never_goes_back_whatever_the_stamps(stamps):
    assert (np.diff(shown_at(stamps, [None] * len(stamps), 1)) > 0).all()
