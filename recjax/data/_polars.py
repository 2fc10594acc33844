"""The one import of polars, which only the readers need, and what to install where it's missing."""

try:
    import polars as pl
except ImportError as error:
    raise ImportError("reading logs needs polars: pip install 'recjax[run]'") from error

__all__ = ["pl"]
