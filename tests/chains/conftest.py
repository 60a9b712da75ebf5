"""Property tests may take long on a busy machine; only being wrong fails them."""

from hypothesis import settings

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")
