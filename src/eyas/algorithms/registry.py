"""The algorithms that a recipe can name. No torch."""

from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from eyas.algorithms.cispo import CISPOConfig
from eyas.algorithms.dapo import DAPOConfig
from eyas.algorithms.gigpo import GiGPOConfig
from eyas.algorithms.grpo import DrGRPOConfig, GRPOConfig
from eyas.algorithms.gspo import GSPOConfig
from eyas.algorithms.gtr import GTRConfig
from eyas.algorithms.options import AlgorithmOptions
from eyas.algorithms.ppo import PPOConfig
from eyas.algorithms.reinforce_pp import ReinforcePPConfig
from eyas.algorithms.rloo import RLOOConfig
from eyas.algorithms.vagen import VAGENConfig
from eyas.algorithms.vl_dac import VLDACConfig

_Paper = (
    PPOConfig
    | VLDACConfig
    | VAGENConfig
    | GRPOConfig
    | DrGRPOConfig
    | DAPOConfig
    | GSPOConfig
    | CISPOConfig
    | RLOOConfig
    | ReinforcePPConfig
    | GiGPOConfig
    | GTRConfig
)
PAPERS: dict[str, type[AlgorithmOptions]] = {paper.model_fields["name"].default: paper for paper in get_args(_Paper)}


def _named(table: Any) -> Any:
    return {"name": "ppo", **table} if isinstance(table, dict) else table


AlgorithmConfig = Annotated[_Paper, Field(discriminator="name"), BeforeValidator(_named)]
