"""The rows that the pages of the torture mode ``pages`` show."""

from __future__ import annotations

from django.db import models


class Row(models.Model):
    """Changes now and then."""

    value = models.PositiveIntegerField(default=0)

    class Meta:
        """A label of its own, as no app of the package has it."""

        app_label = "torture"

    def __str__(self) -> str:
        return f"{self.pk}: {self.value}"
