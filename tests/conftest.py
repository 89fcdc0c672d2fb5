"""What holds for every test: no example of a property fails because the machine was slow."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
