"""SIGTERM is heard while a run listens, and several processes leave after the same step."""

import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from mergedistill_jax.interrupts import interruptible
from mergedistill_jax.training import shutdown
from mergedistill_jax.training.shutdown import EXIT_STATUS, Preempted, StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_is_heard_while_it_is_listened_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert not request.agreed()
        os.kill(os.getpid(), number)
        assert request.agreed()
        assert request.agreed()
    assert signal.getsignal(number) is before


def test_the_handler_is_given_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_train_without_listening() -> None:
    before, heard = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with StopRequest() as request:
            heard.append(request.agreed())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_several_processes_leave_after_the_same_step_whoever_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawing in shutdown.py: process 0 is asked during step 11, process 1 during step 13 or never."""
    asked = {"one": 11, "other": 13}
    votes = {step: sum(step >= first for first in asked.values()) for step in range(10, 20)}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    left = {}
    for process, first in asked.items():
        with StopRequest() as request:
            for step in range(10, 20):
                if step == first:
                    os.kill(os.getpid(), signal.SIGTERM)
                own, total = int(step >= first), votes[step]

                def sum_of_votes(vote: bool, own: int = own, total: int = total) -> jax.Array:  # noqa: FBT001
                    assert int(vote) == own
                    return jnp.asarray(total)

                monkeypatch.setattr(shutdown, "votes_of_processes", sum_of_votes)
                if request.agreed():
                    left[process] = step
                    break
    assert left == {"one": 13, "other": 13}


def test_a_run_that_was_asked_to_leave_exits_with_try_again() -> None:
    """75 is EX_TEMPFAIL: neither success, after which a script would go on, nor wrong input."""
    assert EXIT_STATUS == os.EX_TEMPFAIL
    with pytest.raises(SystemExit) as caught:
        raise Preempted
    assert caught.value.code == EXIT_STATUS


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    """Also where the step under way lasts for ever."""
    program = (
        "import os, signal, sys, time\n"
        "from mergedistill_jax.training.shutdown import StopRequest\n"
        "with StopRequest() as request:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(request.agreed(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stdout == "True\n"
    assert done.stderr == "\ntrain: saves and leaves after this step; Ctrl-C again ends it now, without saving\n"


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    """A background job of a script must not be ended by the terminal's Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert not request.agreed()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_elsewhere_is_one_line_that_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stage() -> int:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        assert interruptible(stage) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (
        capsys.readouterr().err == "\nmergedistill: stopped by Ctrl-C; the same command goes on from what is finished\n"
    )
