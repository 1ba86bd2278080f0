"""What guidance can be told. No torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from eyas.model_config import AskedConfig

_ASKED = ("model", "base_url", "api_key_env", "temperature", "max_new_tokens", "retries", "most_calls", "knows_truth")


class GuidanceConfig(AskedConfig):
    """Corrected thoughts that are cloned beside what the algorithm learns (Wei et al. 2025, GTR)."""

    corrector: str = Field(
        default="expert",
        min_length=1,
        description="expert: writes wrong thoughts anew from the true facts; model: a model is asked; or a registered one",
    )
    weight: float = Field(default=1.0, gt=0, description="of the cross-entropy on corrected thoughts")
    batch_size: int = Field(default=32, ge=1, description="corrections cloned in each update, drawn from all kept")
    buffer_size: int = Field(
        default=4096, ge=1, description="corrections kept, those of earlier iterations too; the oldest go first"
    )
    ends_where: tuple[Literal["lost", "punished"], ...] = Field(
        default=(),
        description="ends an episode where nothing can win any more, as the expert says, or after a negative reward",
    )
    early_end_reward: float = Field(default=-1.0, le=0, description="of an episode that ends because it is lost")
    model: str = Field(
        default="self",
        min_length=1,
        description="which model is asked: self, the policy as it is now; a name, folder or checkpoint; served:NAME",
    )
    temperature: float = Field(default=0.2, gt=0, description="of the model that is asked")
    max_new_tokens: int | None = Field(default=None, ge=1, description="of its answer; none: as the task's")
    retries: int = Field(default=2, ge=0, description="times that it is asked again after an answer that says nothing")
    most_calls: int | None = Field(
        default=None, ge=1, description="answers in a stage; afterwards nothing is corrected"
    )
    knows_truth: bool = Field(default=False, description="it is told the true facts and the expert's move")

    @model_validator(mode="after")
    def _has_no_idle_option(self) -> Self:
        changed = self.changed
        if self.corrector == "expert" and (idle := [k for k in changed if k in _ASKED]):
            raise ValueError(f"{idle[0]} does nothing with corrector = 'expert': remove it, or set corrector = 'model'")
        if "early_end_reward" in changed and "lost" not in self.ends_where:
            raise ValueError("early_end_reward does nothing without ends_where = ['lost']: remove it")
        return self
