from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from srcyc.training.watch.signals import StopRequest, listening


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals do what they usually do, also where the tests run in the background or under nohup and ignore them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_the_step_goes_on(number: signal.Signals) -> None:
    request = StopRequest()
    with listening(request):
        assert request.number == 0
        os.kill(os.getpid(), number)
        assert request.number == number


def test_what_was_before_comes_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(ZeroDivisionError), listening(StopRequest()):
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        _ = 1 / 0
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    request = StopRequest()
    with pytest.raises(KeyboardInterrupt), listening(request):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_sigterm_may_come_several_times() -> None:
    """To a process group, by its leader, by torchrun: it is the same request, and saving must not be cut off."""
    request = StopRequest()
    with listening(request):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert request.number == signal.SIGINT


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = StopRequest()
        with listening(request):
            os.kill(os.getpid(), signal.SIGHUP)
        assert request.number == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_is_asked_by_hand() -> None:
    request = StopRequest()
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with listening(request):
            seen.append(signal.getsignal(signal.SIGTERM))
            request.stop()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    assert request.number == signal.SIGTERM
