"""With DEBUG the log says once that a page asks for positions after it has read its data."""

from __future__ import annotations

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.db import reset_queries
from django.http import HttpResponse
from django.template import Context, Template
from django.test import AsyncClient, Client
from django.urls import path

from channels_ws4redis.pages import lateness
from channels_ws4redis.stamps import astamp, stamp

pytestmark = [
    pytest.mark.server,
    pytest.mark.usefixtures("redis_client"),
    pytest.mark.django_db(databases="__all__", transaction=True),
    pytest.mark.urls(__name__),
]

TAG = '{% load ws4redis %}{% ws4redis "chat" "subscribe-broadcast" '
LATE = "asks for positions after the view has read the table 'django_migrations'"
ON_A_LOOP = "asks Redis on the event loop, after whatever the view has read"


@pytest.fixture(autouse=True)
def debug(settings):
    """A process in which nothing was said yet."""
    settings.DEBUG = True
    lateness._told.clear()


def read() -> None:
    """Read something that is no business of the visitor's."""
    from django.db import connection  # noqa: PLC0415 # the connection of this thread

    with connection.cursor() as cursor:
        cursor.execute('SELECT "app" FROM "django_migrations"')


def page(request, tag: str, **context) -> HttpResponse:
    """Render the tag."""
    return HttpResponse(Template(TAG + tag).render(Context({"request": request, **context})))


def late(request):
    """Read, and render after that."""
    read()
    return page(request, request.GET.get("tag", "%}"))


def positioned(request):
    """Take the stamp, read, and render after that."""
    at = stamp(request, "chat", "subscribe-broadcast")
    read()
    return page(request, "at=at %}", at=at)


def visited(request):
    """Ask who the visitor is and what that one may do, write, and render after that."""
    user = User.objects.create(username="john")
    assert not user.has_perm("chat.look")
    assert not Group.objects.exists()
    ContentType.objects.first()
    return page(request, "%}")


def empty(request):
    """Render alone."""
    return page(request, "%}")


async def alate(request):
    """Render on the event loop."""
    await sync_to_async(read)()
    return page(request, "%}")


async def apositioned(request):
    """Take the stamp, read, and render on the event loop."""
    at = await astamp(request, "chat", "subscribe-broadcast")
    await sync_to_async(read)()
    return page(request, "at=at %}", at=at)


urlpatterns = [
    path(view.__name__, view, name=view.__name__)
    for view in (late, positioned, visited, empty, alate, apositioned)
] + [path("late-too", late, name="late-too")]


@pytest.mark.parametrize(
    ("address", "times"),
    [
        pytest.param("late", 1, id="late"),
        pytest.param("late?tag=replay=True %25}", 0, id="replay"),
        pytest.param("positioned", 0, id="with a stamp"),
        pytest.param("visited", 0, id="the visitor"),
        pytest.param("empty", 0, id="reads nothing"),
    ],
)
def test_a_page_that_has_read(caplog, address, times):
    """It is told once, however often it is loaded; others are not."""
    for _ in range(3):
        User.objects.all().delete()
        assert Client().get(f"/{address}").status_code == 200
    assert caplog.text.count(LATE) == times
    assert caplog.text.count("The template tag in") == times


def test_each_view_is_told(caplog):
    """Another view with the same template may be wrong as well."""
    for address in ("/late", "/late-too", "/late"):
        Client().get(address)
    assert caplog.text.count(LATE) == 2


def test_what_another_request_has_read(caplog):
    """It is no business of this one."""
    read()
    Client().get("/empty")
    assert caplog.text == ""


def test_without_debug(caplog, settings):
    """Nothing is noted there, so nothing is said."""
    settings.DEBUG = False
    Client().get("/late")
    assert caplog.text == ""


async def test_asynchronous_views(caplog):
    """Nothing is known of what they read, but they have to have a stamp in any case."""
    for _ in range(3):
        await AsyncClient().get("/alate")
        await AsyncClient().get("/apositioned")
    assert caplog.text.count(ON_A_LOOP) == 1
    assert caplog.text.count("The template tag in") == 1


async def test_synchronous_views_under_asgi(caplog):
    """What they read is seen in their thread."""
    await sync_to_async(reset_queries)()  # Django 4.2 has its client do that in another thread
    await AsyncClient().get("/empty")
    assert caplog.text == ""
    await AsyncClient().get("/late")
    assert caplog.text.count(LATE) == 1
    assert caplog.text.count("The template tag in") == 1
