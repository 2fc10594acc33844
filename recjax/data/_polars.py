"""The one import of polars; only functions that read files import the modules that need it."""

try:
    import polars as pl
except ImportError as error:
    raise ImportError("reading logs needs polars: pip install 'recjax[run]'") from error

__all__ = ["pl"]
