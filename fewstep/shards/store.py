"""Store: a folder of files that appear whole, on this machine or behind any URL that fsspec opens."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fsspec

from fewstep.errors import UserError
from fewstep.files import full, written_whole

# Hours of work outlive a minute without the storage: botocore waits up to 20 s between attempts.
PATIENT = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 12}}}
BUCKET = "bucket does not exist"  # what s3fs says where not a file is missing, but all of the place
AT_ONCE = 16  # small files read together
OPTIONS = {"s3": PATIENT, "s3a": PATIENT}


class NoRoomError(UserError):
    """The storage is full; what was there before is untouched."""


class Store:
    """A folder at `url`, a path or anything fsspec opens; made when the first file is put there.

    Args:
        url: where.
        patient: whether to try again for a minute or two when a server does not answer, which is right in the
            middle of long work, and not at its start.

    Raises:
        UserError: by every method, if the storage can't be reached or refuses; the message names the URL.
    """

    def __init__(self, url: str | Path, *, patient: bool = True) -> None:
        self.url = str(url).rstrip("/")
        protocol = fsspec.utils.get_protocol(self.url)
        options = OPTIONS.get(protocol, {}) if patient else {}
        try:
            with self._explained():
                self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise UserError(f"{self.url} needs another package: {error}") from error
        self.folder = Path(self._root) if protocol in ("file", "local") else None

    def below(self, name: str) -> "Store":
        """Return the store of a folder inside this one."""
        return Store(f"{self.url}/{name}")

    def path(self, name: str) -> str:
        """Return the full name of a file, for messages."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: if it is not there.
        """
        with self._explained():
            return self._files.cat_file(f"{self._root}/{name}")

    def read_those_there(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of those files that are there, by name; several are fetched at once."""

        def find(name: str) -> bytes | None:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None

        wanted = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(wanted, pool.map(find, wanted), strict=True))
        return {name: content for name, content in found.items() if content is not None}

    def put(self, name: str, content: bytes) -> None:
        """Make a file of these bytes appear, whole or not at all.

        Raises:
            NoRoomError: if they do not fit.
        """
        with self._explained():
            if self.folder is None:
                self._files.pipe_file(f"{self._root}/{name}", content)
                return
            # another process may be at the same file: a worker that was given up, but is not dead
            with written_whole(self.folder / name, suffix=f".{os.getpid()}.tmp") as temporary:
                temporary.write_bytes(content)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file there, by name."""
        with self._explained():
            try:
                listed = self._files.ls(self._root, detail=True, refresh=True)
            except FileNotFoundError as error:
                if BUCKET in str(error):
                    raise
                return {}
            self._files.invalidate_cache()  # or what others put there later would be taken for missing
        return {
            entry["name"].rpartition("/")[2]: entry["size"] for entry in listed if entry["type"] == "file"
        }

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, which may be gone already."""
        for name in names:
            with self._explained():
                try:
                    self._files.rm_file(f"{self._root}/{name}")
                except FileNotFoundError:
                    continue

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what storages raise into one message; a missing file is for the caller to explain."""
        try:
            yield
        except (UserError, ImportError):
            raise
        except FileNotFoundError as error:
            if BUCKET not in str(error):
                raise
            raise UserError(f"{self.url}: its bucket does not exist; create it, or mend the URL") from error
        except Exception as error:  # each file system has errors of its own
            raise _explanation(self.url, error) from error


def _explanation(url: str, error: Exception) -> UserError:
    kind = type(error).__name__
    if full(error) or "StorageFull" in str(error):
        return NoRoomError(f"no room in {url} ({getattr(error, 'strerror', None) or error})")
    if isinstance(error, PermissionError) or "Credentials" in kind:
        return UserError(
            f"no access to {url} ({error}); check its permissions, or the credentials in the environment "
            "(for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    return UserError(f"can't use {url} ({kind}: {error}); is it the right address, and is its server up?")
