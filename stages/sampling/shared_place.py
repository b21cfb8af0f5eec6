"""Where the workers of several machines put shards: the place that FEWSTEP_SHARDS names."""

import os

from fewstep.errors import UserError
from fewstep.files import try_to_write_in
from fewstep.lazy import lazy_imports

with lazy_imports():
    from fewstep.shards import store as stores

VARIABLE = "FEWSTEP_SHARDS"


def shared_place() -> "stores.Store | None":
    """Return the place that FEWSTEP_SHARDS names, None where it names none; no server is asked.

    Raises:
        UserError: if there is no such kind of place, or it is a folder that can't be written.
    """
    if not (url := os.environ.get(VARIABLE)):
        return None
    try:
        place = stores.Store(url)
        if place.folder is not None:
            try_to_write_in(place.folder)
    except UserError as error:
        raise UserError(f"{VARIABLE}: {error}") from error
    except OSError as error:
        raise UserError(
            f"{VARIABLE} {url} can't be written ({error.strerror or error}); name another folder or a URL"
        ) from error
    return place
