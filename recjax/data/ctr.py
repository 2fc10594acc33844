"""A data set of click-through rates: labeled rows of fields in three parts."""

import dataclasses

from recjax.data.examples import Examples


@dataclasses.dataclass(frozen=True, eq=False)
class CTRDataset:
    """The data of a CTR task.

    Attributes:
      train: the rows that models learn from.
      valid: the rows that settings and epochs are chosen on.
      test: the rows that figures are of.
      features: different values of all fields together, the rows of a model's tables.
    """

    train: Examples
    valid: Examples
    test: Examples
    features: int

    @property
    def fields(self) -> int:
        """Values of a row, one a field."""
        return self.train.fields.shape[1]
