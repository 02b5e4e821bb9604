"""See to it that the superuser USER_LOGIN exists, with the password USER_PSWD and the address DR_EMAIL."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand

from runner import env


class Command(BaseCommand):
    help = "See to it that the superuser of USER_LOGIN, USER_PSWD and DR_EMAIL exists; says what it changed."

    def handle(self, *args: Any, **options: Any) -> None:
        name, password = env.text("USER_LOGIN"), env.text("USER_PSWD")
        wanted = {"email": env.text("DR_EMAIL"), "is_superuser": True, "is_staff": True, "is_active": True}
        user, made = get_user_model().objects.get_or_create(username=name, defaults=wanted)
        changed = [field for field, value in wanted.items() if getattr(user, field) != value]
        for field in changed:
            setattr(user, field, wanted[field])
        if not user.check_password(password):
            user.set_password(password)
            changed.append("password")
        if changed:
            user.save()
            self.stdout.write(f"user {name} {'created' if made else 'changed: ' + ', '.join(changed)}")
