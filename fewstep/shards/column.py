"""Column: one field of a set as rows that stay on the disk."""

from dataclasses import dataclass

from torch import Tensor

from fewstep.rows import Chosen, Rows
from fewstep.shards.read import Shards


@dataclass(frozen=True)
class Column:
    """One field of a set in a folder, in the place of a tensor (n, *shape); see fewstep.rows.Rows.

    Raises:
        UserError: when it is asked for samples, see Shards.take.
    """

    shards: Shards
    field: str

    @property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        return len(self), *self.shards.fields[self.field]["shape"]

    def __len__(self) -> int:
        """See Rows."""
        return self.shards.samples

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """Return the samples with these numbers, int64 (m,): (m, *shape), float32, and int64 for labels."""
        return self.shards.take(numbers, [self.field])[self.field]

    def some(self, most: int, *, seed: int) -> Rows:
        """Return the samples of Shards.some."""
        return Chosen(self, self.shards.numbers_of_some(most, seed=seed))
