"""Which extra rewards there are, and what a judge can be told. No torch."""

from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from eyas.model_config import AskedConfig, Config

QUESTION = """Someone plays a game. Its rules: {task}
What is to be seen now are the pictures above, if there are any, and: {observation}
The player chooses: {action}
How good is this choice, from 0 (bad) to 1 (as good as any)? End with a line that holds this number and nothing else."""


class JudgeConfig(AskedConfig):
    """A model that scores each step with a number from 0 to 1: one behind a server, or a frozen one here."""

    weight: float = Field(default=1.0, description="coefficient of the score, as of any extra reward")
    question: str = Field(
        default=QUESTION,
        description="what it is asked: {task}, {observation}, {action} and {thought} are filled in; pictures come first",
    )
    max_new_tokens: int = Field(
        default=64, ge=1, description="of its answer; the last line is the score: 0 to 1, yes, no"
    )
    retries: int = Field(default=1, ge=0, description="times that it is asked again after an answer without a score")
    on_failure: float = Field(default=0.0, ge=0, le=1, description="score of a step where it gives none")
    concurrency: int = Field(default=8, ge=1, description="served: requests under way together")
    request_fields: dict[str, Any] = Field(
        default={}, description="served: go into each request; an empty string leaves a field out"
    )
    most_requests: int | None = Field(default=None, ge=1, description="served: it fails after so many")
    price: tuple[float, float] | None = Field(
        default=None, description="served: of a million input and a million output tokens"
    )
    most_cost: float | None = Field(default=None, gt=0, description="served: it fails at this cost; needs price")

    _of_served: ClassVar = (
        *AskedConfig._of_served,
        "concurrency",
        "request_fields",
        "most_requests",
        "price",
        "most_cost",
    )

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        try:
            self.question.format(task="", observation="", action="", thought="")
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(
                f"question: {error}; write {{task}}, {{observation}}, {{action}}, {{thought}}, and any other brace twice"
            ) from None
        if self.most_cost is not None and self.price is None:
            raise ValueError("most_cost needs price = [IN, OUT], of a million input and a million output tokens")
        return self


class RewardsConfig(Config):
    """Extra reward terms: a registered name -> its coefficient, and the judge, which has options."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, float] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    judge: JudgeConfig | None = Field(default=None, description="a model that is asked how good each step is")
