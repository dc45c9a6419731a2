"""What a plane compiles at its first start: told from any thread of a node, and taken off the launcher's limit."""

from __future__ import annotations

import threading

from loki_rl.serving.process.compile_time import CompileNotice, CompileTime


def test_the_time_of_several_spells_is_summed_and_the_first_is_news() -> None:
    spent = CompileTime()
    assert spent.seconds(5.0) == 0.0
    assert spent.record(True, 10.0)
    assert spent.seconds(12.0) == 2.0
    assert not spent.record(False, 13.0)
    assert not spent.record(True, 20.0)
    assert spent.seconds(21.0) == 4.0
    assert not spent.record(True, 22.0), "a process that was started again meanwhile"
    assert not spent.record(False, 24.0)
    assert spent.seconds(99.0) == 7.0


def test_words_of_other_threads_are_said_by_the_loop() -> None:
    said: list[tuple[bool, int]] = []
    notice = CompileNotice(lambda busy: said.append((busy, threading.get_ident())))
    notice.record(True)
    thread = threading.Thread(target=notice.record, args=(False,))
    thread.start()
    thread.join()
    home = threading.get_ident()
    assert said == [(True, home)]
    assert notice.collect(0.0) == []
    assert said == [(True, home), (False, home)]
    notice.close()
