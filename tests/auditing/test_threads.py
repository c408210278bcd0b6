"""Threads count where a method starts them, and not where the compiler does."""

import threading

from torch._inductor.compile_worker.timer import Timer

from tta_bench.auditing.threads import counted_threads


def test_a_thread_of_a_method_is_named():
    with counted_threads() as threads:
        thread = threading.Thread(target=lambda: None, name="subproc_worker_timer")
        thread.start()
    thread.join()
    assert threads == ["subproc_worker_timer"]  # a borrowed name hides nothing


def test_the_compiler_may_start_its_own():
    timer = Timer(0.05, lambda: None)
    with counted_threads() as threads:
        timer.record_call()
        started = timer.background_thread
        timer.quit()
    assert started is not None
    started.join()
    assert threads == []
