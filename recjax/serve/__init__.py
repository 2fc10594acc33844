"""A recommender over HTTP: an ASGI application around an artifact. Needs ``pip install 'recjax[serve]'`` to run."""

from recjax.serve._app import App
from recjax.serve._engine import Engine, Limits

__all__ = ["App", "Engine", "Limits"]
