"""The dataset of a CTR task: labeled examples in three parts."""

import dataclasses

from recjax.data.examples import Examples


@dataclasses.dataclass(frozen=True, eq=False)
class CTRDataset:
    """Train, validation and test examples of a CTR task.

    Attributes:
      train: examples to train on.
      valid: examples to select hyperparameters and epochs on.
      test: examples to report on.
      features: number of ids of all fields together, the rows of the embedding table.
    """

    train: Examples
    valid: Examples
    test: Examples
    features: int

    @property
    def fields(self) -> int:
        """Number of fields per example."""
        return self.train.fields.shape[1]
