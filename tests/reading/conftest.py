"""Fixtures of tests with real models."""

from __future__ import annotations

from tests.reading.fetched import fonts as fonts
from tests.reading.fetched import reading as reading
from tests.reading.fetched import repository as repository
