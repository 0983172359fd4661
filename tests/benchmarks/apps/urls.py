"""No plain HTTP is benchmarked."""

from __future__ import annotations

from typing import Any

urlpatterns: list[Any] = []
