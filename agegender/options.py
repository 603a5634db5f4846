"""What every config is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]

Precision = Literal["float32", "bfloat16"]
"""Of a network's arithmetic."""

PrecisionOrAuto = Literal["auto", "float32", "bfloat16"]
"""The same as it is asked for; auto: bfloat16 where the processor is faster in it, else float32."""


class Options(BaseModel):
    """Common behaviour of every group of options: unknown names are errors, field docstrings are help texts."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True)
