"""The user of a socket on which nobody is logged in; imported once Django has loaded its models."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser


class Anonymous(AnonymousUser):
    """An anonymous user that counts as false.

    A request of legacy has no user at all then, and its hooks ask ``if not request.user`` to refuse
    strangers. Django's own anonymous user counts as true, and would let them in.
    """

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnonymousUser)

    def __hash__(self) -> int:
        return super().__hash__()
