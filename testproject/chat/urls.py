"""The demo's pages."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from chat import legacy_views, views

urlpatterns = [
    path(
        "",
        LoginView.as_view(template_name="chat/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("chat/", views.chat, name="chat"),
    path("send/", views.send, name="send"),
    path("dashboard/", views.dashboard, name="dashboard"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("legacy/", legacy_views.BroadcastChatView.as_view(), name="legacy-broadcast"),
    path("legacy/user/", legacy_views.UserChatView.as_view(), name="legacy-user"),
    path("legacy/group/", legacy_views.GroupChatView.as_view(), name="legacy-group"),
]
