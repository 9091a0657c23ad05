"""xarray on tilework: ``xr.open_zarr(path, chunks={}, chunked_array_type="tilework")``."""

from tilework.integrations.xarray.manager import TileworkManager

__all__ = ["TileworkManager"]
