"""What a message may be."""

from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser, Group


class MessageForm(forms.Form):
    """A message to one user, or to an auth group that the sender is in."""

    user = forms.ModelChoiceField(
        get_user_model().objects.all(), to_field_name="username", required=False
    )
    group = forms.ModelChoiceField(Group.objects.none(), to_field_name="name", required=False)
    text = forms.CharField(max_length=1000)

    def __init__(self, *args: Any, sender: AbstractUser, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["group"].queryset = sender.groups.all()

    def clean(self) -> dict[str, Any]:
        """Require exactly one recipient."""
        cleaned = super().clean() or {}
        if not self.errors and bool(cleaned.get("user")) == bool(cleaned.get("group")):
            raise forms.ValidationError("Name either a user or a group.")
        return cleaned
