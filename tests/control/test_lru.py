"""What was made last is not made again."""

from __future__ import annotations

from loki_rl.control.lru import Lru


def test_the_values_asked_for_last_are_kept() -> None:
    made: list[str] = []
    recent: Lru[str] = Lru(2)

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    for key in ("a", "b", "a", "c", "a", "b"):
        assert recent.get(key, lambda key=key: make(key)) == key.upper()  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
