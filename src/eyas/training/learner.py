"""One optimizer step: minibatch in, micro-batches through the model, a checked update out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from eyas.algorithms import Algorithm, LearnerOutput
from eyas.algorithms.losses import kl
from eyas.batch import Denominators, TrainingBatch, TrainingSample, collate, micro_batches
from eyas.errors import TrainingDiverged
from eyas.models.logprobs import token_logprobs
from eyas.models.policy import Policy
from eyas.models.scoring import action_logprobs
from eyas.training.memory import keep_freed_memory
from eyas.training.optim import Optimizer


class Learner:
    """Applies an algorithm's loss to a policy. The gradient is the same for any micro-batch size."""

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        optimizer: Optimizer,
        temperature: float = 1.0,
        micro_batch_size: int | None = None,
        max_nonfinite_updates: int = 5,
    ):
        self.policy = policy
        self.algorithm = algorithm
        self.optimizer = optimizer
        self.temperature = temperature
        self.micro_batch_size = micro_batch_size
        self.max_nonfinite_updates = max_nonfinite_updates
        self.nonfinite_in_a_row = 0
        keep_freed_memory()

    def update(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """One step on a minibatch. An update that is not finite is refused and counted.

        Raises TrainingDiverged after `max_nonfinite_updates` refusals in a row.
        """
        denominators = Denominators.of(samples)
        sums: dict[str, float] = defaultdict(float)
        self.optimizer.zero_grad()
        for part in micro_batches(samples, self.micro_batch_size or len(samples)):
            batch = collate(part, self.policy.model.pad_id, self.policy.model.device)
            loss = self.algorithm.loss(batch, self.forward(batch), denominators)
            loss.total.backward()
            for name, value in loss.metrics.items():
                sums[name] += float(value)
        grad_norm = self.optimizer.clip()
        sums |= {"train/grad_norm": grad_norm, "train/learning_rate": self.optimizer.learning_rate}
        is_finite = all(torch.isfinite(torch.tensor(v)) for v in sums.values())
        sums["train/nonfinite_updates_count"] = float(not is_finite)
        if is_finite:
            self.optimizer.step()
            self.policy.version += 1
            self.nonfinite_in_a_row = 0
        else:
            self._refuse()
        return dict(sums)

    def _refuse(self) -> None:
        self.optimizer.skip()
        self.nonfinite_in_a_row += 1
        if self.nonfinite_in_a_row >= self.max_nonfinite_updates:
            raise TrainingDiverged(
                f"{self.nonfinite_in_a_row} updates in a row were not finite, none was applied. Begin "
                "a run with a lower optim.lr or a smaller reward_scale, with the last checkpoint as model.name"
            )

    def state_dict(self) -> dict[str, int]:
        return {"nonfinite_in_a_row": self.nonfinite_in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.nonfinite_in_a_row = state["nonfinite_in_a_row"]

    def forward(self, batch: TrainingBatch) -> LearnerOutput:
        """Log-probs, entropy and values of a batch under the current weights. Logits exist at completion tokens only.

        A scored action is one element: its log-prob and entropy are those of the distribution over actions.
        """
        model = self.policy.model
        vision = model.vision_inputs(batch.image_hashes, self.policy.images)
        hidden, _ = model.hidden(batch.input_ids, batch.attention_mask, batch.position_ids, vision)
        logits = model.logits(hidden[batch.token_rows, batch.token_columns])
        logprobs = token_logprobs(logits, self.temperature, model.forbidden_ids)
        action_kl = None
        entropy = self._entropy(logprobs) if self.algorithm.needs_entropy else None
        chosen = logprobs.gather(-1, batch.token_ids[:, None])[:, 0]
        if batch.scoring is not None:
            actions, _ = action_logprobs(model, hidden, batch.scoring, self.temperature)
            places = (batch.scoring.elements,)
            chosen = chosen.index_put(places, actions.gather(-1, batch.scoring.chosen[:, None])[:, 0])
            action_kl = kl(batch.scoring.sampling_logprobs, actions)
            if entropy is not None:
                entropy = entropy.index_put(places, self._entropy(actions))
        values = None
        if self.algorithm.needs_values:
            values = self.policy.value_head(hidden[batch.step_rows, batch.step_columns])
        return LearnerOutput(chosen, entropy, values, action_kl)

    @staticmethod
    def _entropy(logprobs: torch.Tensor) -> torch.Tensor:
        return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1)
