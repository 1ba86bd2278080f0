"""Options of the model, of what is trained of it, and of the critic. No torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SERVED = "served:"  # what the name of a model behind a server begins with
KEY_VARIABLE = "OPENAI_API_KEY"


class Config(BaseModel):
    """Base of every part: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @property
    def changed(self) -> dict[str, Any]:
        """Fields with another value than their default, by name: one that is written out does not count as asked for."""
        fields, values = type(self).model_fields, dict(self)
        return {k: values[k] for k in sorted(fields) if values[k] != fields[k].get_default(call_default_factory=True)}


class LoRAConfig(Config):
    """Adapters of low rank beside frozen weights (Hu et al. 2021), as peft adds them; without dropout."""

    rank: int = Field(default=16, ge=1, description="of the two factors of each adapter")
    alpha: float = Field(default=32.0, gt=0, description="an adapter's output is scaled by alpha / rank")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        min_length=1,
        description="names, or ends of names, of the layers that get one; all-linear: every linear layer but the output's",
    )


class ModelConfig(Config):
    """The vision-language model."""

    name: str = Field(
        default="nano-random", min_length=1, description="built-in name, Hugging Face id, folder or checkpoint"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the weights")
    seed: int = Field(default=0, ge=0, description="of the weights, where the model starts from random ones")
    image_size: int | None = Field(
        default=None, ge=8, description="side in pixels that frames are scaled to; none: the model's"
    )
    options: dict[str, Any] = Field(default={}, description="arguments of a built-in model")
    trust_remote_code: bool = Field(default=False, description="run code that comes with the model from the hub")
    train: Literal["full", "lora", "qlora"] = Field(
        default="full", description="what learns: the weights, or adapters beside them; qlora: beside 4-bit weights"
    )
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="the adapters of lora and qlora")
    freeze: tuple[Literal["vision", "language", "embeddings"], ...] = Field(
        default=(),
        description="parts that do not learn: vision with its connector, the decoder, input and output tokens",
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the passes of an update (autocast); weights and optimizer keep float32"
    )
    sampling_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the passes that sample (autocast)"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="layers are computed again for the backward pass: less memory, more time",
    )

    @model_validator(mode="after")
    def _has_no_idle_adapters(self) -> Self:
        if self.train == "full" and self.lora != LoRAConfig():
            raise ValueError("lora does nothing with train = 'full': remove it, or set train = 'lora'")
        return self


class CriticConfig(Config):
    """What estimates values, where an algorithm asks for them."""

    kind: Literal["head", "model"] = Field(
        default="head", description="an MLP on the policy's hidden states, or on those of a model of its own"
    )
    level: Literal["step", "token"] = Field(
        default="step", description="a value at the last prompt token (RL4VLM), or before every element of a completion"
    )
    hidden_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, description="widths of the MLP's hidden layers; none: one as wide as the model"
    )
    stop_gradient: bool = Field(default=False, description="the value loss does not reach the policy's weights")
    warmup_updates: int = Field(
        default=0, ge=0, description="first updates of each rl stage, in which only the critic learns"
    )
    model: ModelConfig | None = Field(
        default=None, description="kind model: which; none: the same as the policy's, with weights of its own"
    )

    @model_validator(mode="after")
    def _has_no_idle_option(self) -> Self:
        if self.kind == "head" and self.model is not None:
            raise ValueError("critic.model does nothing with kind = 'head': remove it, or set kind = 'model'")
        if self.kind == "model" and self.stop_gradient:
            raise ValueError(
                "stop_gradient does nothing with kind = 'model', which never reaches the policy: remove it"
            )
        if self.model is not None and self.model.sampling_dtype != "float32":
            raise ValueError("critic.model.sampling_dtype does nothing: a critic does not sample")
        if self.model is not None and self.model.compute_dtype != "float32":
            raise ValueError("critic.model.compute_dtype does nothing: model.compute_dtype is that of the critic too")
        if self.model is not None and self.model.dtype != "float32" and self.model.train == "full":
            raise ValueError("critic.model.dtype = 'bfloat16' loses updates in rounding: train it with 'float32'")
        return self


class AskedConfig(Config):
    """A model that is asked, beside the one that learns."""

    model: str = Field(min_length=1, description="which one: a name, folder or checkpoint; served:NAME")
    base_url: str | None = Field(default=None, description="of a served model, as http://localhost:8000/v1")
    api_key_env: str = Field(default=KEY_VARIABLE, min_length=1, description="environment variable with its key")

    _of_served: ClassVar[tuple[str, ...]] = ("base_url", "api_key_env")  # fields that only a served model reads

    @property
    def is_served(self) -> bool:
        return self.model.startswith(SERVED)

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if self.is_served and self.base_url is None:
            raise ValueError(f"where is the model '{self.model}'? Set base_url, as 'http://localhost:8000/v1'")
        idle = [k for k in self._of_served if k in self.changed]
        if idle and not self.is_served:
            raise ValueError(f"{idle[0]} is for served models: remove it, or set model = 'served:NAME'")
        return self
