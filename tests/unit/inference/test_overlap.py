"""Two scans at a time: who waits for whom, what an end in the middle leaves, and whose an error is."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from srcyc.errors import VolumeError
from srcyc.inference.overlap import AT_A_TIME, Check, computing, in_order, read, writing

#: Longer than any thread takes to get its turn; only a deadlock waits for it.
_PATIENCE = 60.0


def test_one_scan_is_computed_while_its_neighbours_are_written_and_read():
    begun, computed, written, reading = (threading.Event() for _ in range(4))
    counting = threading.Lock()
    at_once, most = 0, 0

    def do(number: int, check: Check) -> int:
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        if number == 1:
            begun.set()
            assert computed.wait(_PATIENCE)
        if number == 2:
            assert begun.wait(_PATIENCE)  # else it may be done before
            reading.set()
        with computing(check):
            if number == 0:
                computed.set()
            if number == 1:  # the first one is written, and the third one read, meanwhile
                assert written.wait(_PATIENCE) and reading.wait(_PATIENCE)
        with writing(check):
            if number == 0:
                written.set()
        with counting:
            at_once -= 1
        return 10 * number

    assert list(in_order(do, range(6))) == [0, 10, 20, 30, 40, 50]
    assert most == AT_A_TIME


def test_results_come_in_order_whatever_takes_longer():
    second = threading.Event()

    def do(number: int, check: Check) -> int:
        if number == 0:
            assert second.wait(_PATIENCE)
        elif number == 1:
            second.set()
        return number

    assert list(in_order(do, range(4))) == [0, 1, 2, 3]


def test_an_end_in_the_middle_stops_what_is_computed_and_waits_for_it():
    first, second = threading.Event(), threading.Event()
    computed: list[int] = []
    ended: list[int] = []

    def do(number: int, check: Check) -> int:
        if number:
            assert (first if number == 1 else second).wait(_PATIENCE)
        with computing(check):
            computed.append(number)
            first.set()
            try:
                while number == 1:
                    second.set()
                    check()
            finally:
                ended.append(number)
        return number

    with closing(in_order(do, range(50))) as results:
        assert next(results) == 0
        assert second.wait(_PATIENCE)
    assert computed == ended == [0, 1]  # whoever waited for a turn got none
    with computing(lambda: None):  # nobody holds it any more
        pass


def test_an_error_is_that_of_its_scan():
    def do(number: int, check: Check) -> int:
        with computing(check):
            if number == 1:
                raise ValueError("one")
        return number

    results = in_order(do, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)


def test_a_single_scan_is_done_by_this_thread():
    assert list(in_order(lambda item, check: threading.get_ident(), ["a"])) == [threading.get_ident()]


def test_what_is_refused_beside_another_scan_is_read_again_alone(tmp_path, monkeypatch):
    """For want of room, for example, which comes back when the other one is gone."""
    refused, tries = threading.Event(), []

    def scarce(source, *, fill_gaps):
        tries.append(source)
        if len(tries) == 1:
            refused.set()
            raise VolumeError("no room")
        return "volume"

    monkeypatch.setattr("srcyc.volumes.volume.read_volume", scarce)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(read(tmp_path)))
    with computing(lambda: None):
        reader.start()
        assert refused.wait(_PATIENCE)
    reader.join(_PATIENCE)
    assert (found, len(tries)) == (["volume"], 2)

    tries.clear()
    with pytest.raises(VolumeError, match="no room"):  # nobody else takes room
        read(tmp_path)
    assert len(tries) == 1
