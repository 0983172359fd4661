"""The addresses of the example's pages."""

from django.contrib.auth.views import LoginView
from django.urls import path

from tests.legacy_site import views

urlpatterns = [
    path("chat/", views.BroadcastChatView.as_view(), name="broadcast_chat"),
    path("userchat/", views.UserChatView.as_view(), name="user_chat"),
    path("groupchat/", views.GroupChatView.as_view(), name="group_chat"),
    path("bare/", views.BareView.as_view(), name="bare"),
    path("fetch/", views.fetch, name="fetch"),
    path("login/", LoginView.as_view(template_name="chat/login.html"), name="login"),
]
