"""The one import of polars. Modules that need it are imported by the functions that read files, not by the package."""

try:
    import polars as pl
except ImportError as error:
    raise ImportError("reading logs needs polars: pip install 'recjax[run]'") from error

__all__ = ["pl"]
