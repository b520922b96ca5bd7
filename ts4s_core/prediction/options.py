"""What a prediction is asked for, beside model and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ts4s_core.errors import SettingsError

Errors = Literal["mark", "refuse"]
Embeddings = Literal["none", "mean", "first"]
Form = Literal["parquet", "vectors"]
#: How an output begins that is a table of Spark's.
TABLE = "table:"


@dataclass(frozen=True)
class PredictOptions:
    """What is asked for beside model and data.

    Attributes:
        output: a new folder, an ``s3://`` prefix or ``table:NAME``; empty: a sealed ``predictions`` artifact.
        errors: rows that cannot be predicted are marked, or refuse the job.
        embeddings: vectors in place of labels: the mean of the tokens' states, or the first token's.
        form: Parquet, or the text form of word vectors (embeddings alone).
    """

    output: str = ""
    errors: Errors = "mark"
    embeddings: Embeddings = "none"
    form: Form = "parquet"

    @classmethod
    def of(cls, asked: Mapping[str, str | None]) -> PredictOptions:
        """The options of words of the command line or of a job; None is the default.

        Raises:
            SettingsError: naming the option that is not valid, or contradicts another.
        """
        return cls(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("errors", self.errors, Errors),
            ("embeddings", self.embeddings, Embeddings),
            ("form", self.form, Form),
        ):
            if value not in get_args(allowed):
                raise SettingsError(f"--{name} {value} is not valid: expected {' or '.join(get_args(allowed))}")
        if self.form == "vectors" and self.embeddings == "none":
            raise SettingsError("--form vectors needs --embeddings mean or first: labels have no vectors")
        if self.output.startswith(TABLE) and not self.table:
            raise SettingsError(f"--output {self.output} names no table: expected {TABLE}NAME, as in {TABLE}news.predicted")
        if self.table and self.form == "vectors":
            raise SettingsError(
                f"--form vectors is text and goes into no table: leave it out, or give another --output than {TABLE}"
            )

    @property
    def table(self) -> str:
        """The name of the table that is asked for; empty: none."""
        return self.output.removeprefix(TABLE).strip() if self.output.startswith(TABLE) else ""

    @property
    def sealed(self) -> bool:
        """Whether the predictions are a version of the store; a table is made of it."""
        return not self.output or bool(self.table)
