"""Makes users of the benchmark and a session for each, and prints the cookies of these."""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main(count: int) -> None:
    """Create the tables, the users and the sessions; print the cookies as a JSON list."""
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    if not User.objects.exists():  # the database is that of all cases
        User.objects.bulk_create(User(username=f"user{i}", password="!") for i in range(count))
    engine = import_module(settings.SESSION_ENGINE)
    cookies = []
    for user in User.objects.order_by("pk"):
        session = engine.SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        cookies.append(f"{settings.SESSION_COOKIE_NAME}={session.session_key}")
    json.dump(cookies, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
